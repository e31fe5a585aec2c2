package spool

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// Export writes the queue of a dead frontend to w as a tar stream of its files, those on hold included, for Import by
// another one. It takes the spool's lock: a spool that is served is ErrLocked. When w has taken everything, the queue is
// put aside as DIR/exported-TIME, so that the frontend, should it come back, does not deliver the messages again; after an
// error everything is as it was. Close what is behind w before the lock matters to you, and keep that directory until the
// import has ended.
func Export(ctx context.Context, dir string, w io.Writer) (messages int, err error) {
	if _, err := os.Stat(filepath.Join(dir, dirQueue)); err != nil {
		return 0, fmt.Errorf("export %s: there is no queue: %w", dir, err)
	}
	lock, err := lockDir(filepath.Join(dir, "lock"))
	if err != nil {
		return 0, fmt.Errorf("export: %w", err)
	}
	defer lock.Close()
	out := tar.NewWriter(w)
	dirs := []string{dirHold}
	err = eachFile(filepath.Join(dir, dirQueue), func(name string) error {
		dirs = append(dirs, filepath.Join(dirQueue, name))
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("export: %w", err)
	}
	for _, sub := range dirs {
		err := eachFile(filepath.Join(dir, sub), func(name string) error {
			if err := ctx.Err(); err != nil || !strings.HasSuffix(name, suffix) {
				return err
			}
			messages++
			return exportFile(out, filepath.Join(dir, sub, name), path.Join(filepath.ToSlash(sub), name))
		})
		if err != nil {
			return 0, fmt.Errorf("export %s: %w", filepath.Join(dir, sub), err)
		}
	}
	if err := out.Close(); err != nil {
		return 0, fmt.Errorf("export: %w", err)
	}
	return messages, putAside(dir)
}

func exportFile(out *tar.Writer, file, name string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return err
	}
	if err := out.WriteHeader(&tar.Header{Name: name, Size: stat.Size(), Mode: 0o600, ModTime: stat.ModTime(), Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = io.Copy(out, f)
	return err
}

// putAside takes the exported directories out of the queue's way, each by one rename.
func putAside(dir string) error {
	aside := filepath.Join(dir, "exported-"+time.Now().UTC().Format("20060102T150405.000000"))
	if err := os.Mkdir(aside, 0o700); err != nil {
		return fmt.Errorf("put the exported queue aside: %w", err)
	}
	for _, sub := range []string{dirQueue, dirHold} {
		if err := os.Rename(filepath.Join(dir, sub), filepath.Join(aside, sub)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("put the exported queue aside: %w; move %s away by hand before the frontend starts", err, filepath.Join(dir, sub))
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Imported is what Import has done.
type Imported struct {
	Messages   int `json:"messages"`
	Known      int `json:"known"`      // were here already: an import may be repeated
	Unreadable int `json:"unreadable"` // went to quarantine
}

// Import takes the messages of an exported queue in, with the state of their recipients; those on hold stay so, all others
// are due at once. What it has counted is on disk, also after an error; to go on, import the same stream again.
func (s *Spool) Import(ctx context.Context, r io.Reader) (done Imported, err error) {
	in := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return done, nil
		}
		if err != nil {
			return done, fmt.Errorf("import: %w", err)
		}
		id, ok := strings.CutSuffix(path.Base(h.Name), suffix)
		if h.Typeflag != tar.TypeReg || !ok || !ValidID(id) {
			return done, fmt.Errorf("import: %q is no message of an exported queue", h.Name)
		}
		if err := s.importFile(id, path.Dir(h.Name) == dirHold, h.Size, in, &done); err != nil {
			return done, fmt.Errorf("import %s: %w", h.Name, err)
		}
	}
}

func (s *Spool) importFile(id string, held bool, size int64, r io.Reader, done *Imported) error {
	if !s.begin() {
		return ErrClosed
	}
	defer s.accepts.Done()
	if _, err := s.find(id); err == nil {
		done.Known++
		return nil
	}
	if err := s.room(size); err != nil {
		return err
	}
	tmp := s.path(dirTmp, id+suffix)
	f, err := s.writeRaw(tmp, r)
	if err != nil {
		return err
	}
	defer f.Close()
	it, err := s.peek(tmp)
	if err == nil && it.ID != id {
		err = fmt.Errorf("%w: it says that its id is %q", errUnreadable, it.ID)
	}
	switch {
	case errors.Is(err, errUnreadable):
		if err := s.disk.rename(tmp, s.path(dirQuarantine, id+suffix)); err != nil {
			s.discard(tmp)
			return err
		}
		s.Log.Error("an imported queue file is not readable and was put into quarantine", "path", s.path(dirQuarantine, id+suffix), "reason", err)
		s.tally(func(c *Counters) { c.Quarantined++ })
		done.Unreadable++
		return nil
	case err != nil:
		s.discard(tmp)
		return err
	}
	if held {
		err = s.placeHeld(id, f)
	} else {
		var sh *shelf
		if sh, err = s.shelf(it.host()); err == nil {
			err = s.place(id, f, sh, s.now(), size)
		} else {
			s.discard(tmp)
		}
	}
	if err == nil {
		done.Messages++
	}
	return err
}

// writeRaw copies a whole queue file. After an error there is no file.
func (s *Spool) writeRaw(path string, r io.Reader) (*os.File, error) {
	f, err := s.disk.create(path)
	if err != nil {
		return nil, full(err)
	}
	if _, err = io.Copy(f, r); err == nil {
		if err = s.disk.schedule(path, s.now()); err == nil {
			return f, nil
		}
	}
	f.Close()
	s.discard(path)
	return nil, full(err)
}

func (s *Spool) placeHeld(id string, f *os.File) error {
	dir, err := os.Open(s.path(dirHold))
	if err != nil {
		s.discard(f.Name())
		return err
	}
	defer dir.Close()
	if err := s.commits.commit(f, s.path(dirHold, id+suffix), dir); err != nil {
		s.discard(f.Name())
		return full(err)
	}
	s.tally(func(c *Counters) { c.Held++ })
	return nil
}
