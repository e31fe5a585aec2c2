package spool

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Imports have a directory of their own, dirImport, with these below it. A rename takes an import from one state to the
// next.
//
//	exported-…        its messages as they come in; removed at the next start
//	exported-….ready  all of them, durable: they go into the queue, one by one, also after a crash
//	exported-….done   an empty file: this export was taken in
const (
	dirImport   = "import"
	suffixReady = ".ready"
	suffixDone  = ".done"
)

// ErrExport: what came is no whole export. Nothing of it was taken in.
var ErrExport = errors.New("not a whole export of a queue")

// Imported is what Import has done.
type Imported struct {
	Export     string `json:"export"`
	Messages   int    `json:"messages"`
	Known      int    `json:"known"`      // were in this queue already
	Unreadable int    `json:"unreadable"` // went to quarantine
	// Before is set when this export was taken in earlier: then nothing was done.
	Before bool `json:"before,omitempty"`
}

// Import takes the messages of an export in, all of them or, after an error, none: they are in the queue only when the
// stream has come to its end and all of it is on disk. Those on hold stay so, all others are due at once. To go on after
// an error, import the same export again; what was taken in already is not taken in twice, even if it was delivered
// meanwhile. One import runs at a time.
func (s *Spool) Import(ctx context.Context, r io.Reader) (done Imported, err error) {
	if !s.begin() {
		return done, ErrClosed
	}
	defer s.accepts.Done()
	if !s.importing.TryLock() {
		return done, errors.New("another import is under way; wait for its end")
	}
	defer s.importing.Unlock()
	in := tar.NewReader(r)
	begin, err := readEntry(in, entryBegin)
	if err != nil {
		return done, err
	}
	if begin.Format != format {
		return done, fmt.Errorf("%w: its format is %d, this mailmux reads %d", ErrExport, begin.Format, format)
	}
	done.Export = begin.Export
	at := s.path(dirImport, begin.Export)
	switch _, err := os.Lstat(at + suffixDone); {
	case err == nil:
		done.Before = true
		return done, nil
	case !errors.Is(err, os.ErrNotExist):
		return done, fmt.Errorf("import: %w", err)
	}
	if _, err := os.Lstat(at + suffixReady); errors.Is(err, os.ErrNotExist) {
		if err := s.stage(ctx, in, at); err != nil {
			_ = os.RemoveAll(at) // else the next start does it
			return done, fmt.Errorf("import: nothing was taken in: %w", err)
		}
	}
	err = s.takeIn(at, &done)
	return done, err
}

// readEntry reads the first or the last entry of an export.
func readEntry(in *tar.Reader, name string) (e entry, err error) {
	h, err := in.Next()
	if err != nil {
		return e, fmt.Errorf("%w: %w", ErrExport, err)
	}
	if h.Name != name {
		return e, fmt.Errorf("%w: %q in place of %s", ErrExport, h.Name, name)
	}
	return e, e.read(in)
}

func (e *entry) read(r io.Reader) error {
	if err := json.NewDecoder(io.LimitReader(r, maxLine)).Decode(e); err != nil {
		return fmt.Errorf("%w: %w", ErrExport, err)
	}
	if !validExport(e.Export) {
		return fmt.Errorf("%w: its name is %q", ErrExport, e.Export)
	}
	return nil
}

// stage writes what comes in below at, up to the end of the export, and makes it durable and ready.
func (s *Spool) stage(ctx context.Context, in *tar.Reader, at string) error {
	if err := os.RemoveAll(at); err != nil {
		return err
	}
	for _, dir := range []string{at, filepath.Join(at, dirQueue), filepath.Join(at, dirHold)} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return full(err)
		}
	}
	messages, total := 0, int64(0)
	for {
		h, err := in.Next()
		switch {
		case err != nil:
			return fmt.Errorf("%w: it breaks off behind %d messages: %w", ErrExport, messages, err)
		case ctx.Err() != nil:
			return ctx.Err()
		case s.stopping.Err() != nil:
			return ErrClosed
		case h.Name == entryEnd:
			return s.staged(in, at, messages)
		}
		if err := s.stageFile(in, h, at, total); err != nil {
			return fmt.Errorf("%s: %w", clean(h.Name), err)
		}
		messages, total = messages+1, total+h.Size
	}
}

// staged has read the end of an export. It compares the counts, and lets a crash from here on lose nothing.
func (s *Spool) staged(in *tar.Reader, at string, messages int) error {
	var end entry
	if err := end.read(in); err != nil {
		return err
	}
	if end.Export != filepath.Base(at) || end.Messages != messages {
		return fmt.Errorf("%w: %d messages came, its end says %d", ErrExport, messages, end.Messages)
	}
	dir, err := os.Open(at)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync the messages: %w", full(err))
	}
	if err := s.disk.rename(at, at+suffixReady); err != nil {
		return err
	}
	return syncDir(s.path(dirImport))
}

// stageFile writes one message. Its name says where it stood.
func (s *Spool) stageFile(in *tar.Reader, h *tar.Header, at string, total int64) error {
	id, ok := strings.CutSuffix(path.Base(h.Name), suffix)
	if h.Typeflag != tar.TypeReg || !ok || !ValidID(id) {
		return fmt.Errorf("%w: this is no message", ErrExport)
	}
	s.mu.Lock()
	held := s.bytes
	s.mu.Unlock()
	if held+total+h.Size > int64(s.cfg.MaxSize) {
		return fmt.Errorf("%w: spool.max_size, %s, is reached", ErrFull, s.cfg.MaxSize)
	}
	if err := s.free.take(s.cfg.Dir, int64(s.cfg.MinFree), h.Size); err != nil {
		return err
	}
	sub := dirQueue
	if path.Dir(h.Name) == dirHold {
		sub = dirHold
	}
	f, err := s.disk.create(filepath.Join(at, sub, id+suffix))
	if err != nil {
		return full(err)
	}
	_, err = io.Copy(f, in)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: it breaks off within this message", ErrExport)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return full(err)
	}
	return s.disk.schedule(f.Name(), s.now())
}

// takeIn brings the messages of a ready import into the queue, each by one rename, so that each is in one of the two at
// any time. The import is done when all of that is durable.
func (s *Spool) takeIn(at string, done *Imported) error {
	ready := at + suffixReady
	for _, sub := range []string{dirQueue, dirHold} {
		if err := s.takeAll(filepath.Join(ready, sub), sub == dirHold, done); err != nil {
			return fmt.Errorf("import %s: %w; the rest follows when it is imported again, or when mailmux starts", done.Export, err)
		}
	}
	root, err := os.Open(s.path(dirImport))
	if err != nil {
		return err
	}
	defer root.Close()
	if err := unix.Syncfs(int(root.Fd())); err != nil {
		return fmt.Errorf("sync the queue: %w", err)
	}
	f, err := os.OpenFile(at+suffixDone, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(f.Close(), root.Sync())
	}
	if err != nil {
		return fmt.Errorf("take down that %s was imported: %w", done.Export, full(err))
	}
	s.Log.Info("a queue was imported", "export", done.Export, "messages", done.Messages, "known", done.Known, "unreadable", done.Unreadable)
	return os.Remove(ready)
}

// takeAll empties a directory of a ready import, and removes it. What it does not empty is not removed.
func (s *Spool) takeAll(dir string, held bool, done *Imported) error {
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil // emptied before a crash
	}
	for {
		moved := 0
		err := eachFile(dir, func(name string) error {
			moved++
			return s.takeFile(filepath.Join(dir, name), strings.TrimSuffix(name, suffix), held, done)
		})
		if err != nil {
			return err
		}
		if err := os.Remove(dir); err == nil || moved == 0 {
			return err
		}
	}
}

// takeFile brings one message into the queue.
func (s *Spool) takeFile(from, id string, held bool, done *Imported) error {
	if _, err := s.find(id); err == nil {
		done.Known++
		return s.disk.remove(from)
	}
	it, err := s.peek(from)
	if err == nil && it.ID != id {
		err = fmt.Errorf("%w: it says that its id is %q", errUnreadable, it.ID)
	}
	switch {
	case errors.Is(err, errUnreadable):
		return s.setApart(from, id, err, done)
	case err != nil:
		return err
	case held:
		if err := s.disk.rename(from, s.path(dirHold, id+suffix)); err != nil {
			return err
		}
		s.tally(func(c *Counters) { c.Held++ })
		done.Messages++
		return nil
	}
	sh, err := s.shelf(it.host())
	if err != nil {
		return err
	}
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if err := s.disk.rename(from, filepath.Join(sh.path, id+suffix)); err != nil {
		return err
	}
	done.Messages++
	s.mu.Lock()
	sh.count++
	s.bytes += info.Size()
	sh.add(key{info.ModTime().UnixNano(), id}, s.capacity())
	s.mu.Unlock()
	s.stir()
	return nil
}

// setApart takes an imported file that is not readable to quarantine.
func (s *Spool) setApart(from, id string, why error, done *Imported) error {
	to := s.path(dirQuarantine, id+suffix)
	if err := s.disk.rename(from, to); err != nil {
		return err
	}
	s.Log.Error("an imported queue file is not readable and was put into quarantine", "path", to, "reason", why)
	s.tally(func(c *Counters) { c.Quarantined++ })
	done.Unreadable++
	return nil
}

// resumeImports ends at the start what a crash has interrupted, and warns of exports that have not come to their end.
func (s *Spool) resumeImports() error {
	var ready []string
	err := eachFile(s.path(dirImport), func(name string) error {
		switch at, isReady := strings.CutSuffix(name, suffixReady); {
		case isReady && validExport(at):
			ready = append(ready, at)
		case validExport(name):
			return os.RemoveAll(s.path(dirImport, name))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range ready {
		if err := s.takeIn(s.path(dirImport, name), &Imported{Export: name}); err != nil {
			// The queue itself is not to wait for that.
			s.Log.Error("an import that was interrupted cannot be ended; its mail waits in "+s.path(dirImport), "error", err)
		}
	}
	names, err := unfinished(s.cfg.Dir)
	if len(names) > 0 {
		s.Log.Warn("mail was set aside by an export that has not come to its end, and is not delivered here; run mailmux queue export again",
			"exports", strings.Join(names, " "))
	}
	return err
}
