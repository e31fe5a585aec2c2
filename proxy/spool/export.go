package spool

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ErrNothing: there is no message to export.
var ErrNothing = errors.New("no message waits or is on hold")

// Export is the queue of a stopped frontend on its way to another one. What is exported is first set aside, in
// DIR/exported-…, so that the frontend, should it come back, never delivers it; there it stays until somebody removes it.
// Each export has a name, by which Import knows it again. So nothing is lost and nothing doubled, wherever one of the two
// is interrupted:
//
//	before Done      the export is made again, from its beginning, under its name
//	during Import    nothing of an export is taken in before its end has come
//	behind it        an export that was taken in is not taken in again
type Export struct {
	// Name is the directory in the spool.
	Name string
	// Resumed is set when an earlier export had not come to its end: this is the same one.
	Resumed bool

	dir  string
	lock *os.File
}

// The first and the last entry of an export's tar stream, between the files of its messages.
const (
	entryBegin = "mailmux-export"
	entryEnd   = "mailmux-export-end"
)

// entry is what these two hold.
type entry struct {
	Format   int    `json:"mailmux,omitempty"`
	Export   string `json:"export"`
	Messages int    `json:"messages,omitempty"`
}

// fileDone marks an export that has come to its end, in its directory.
const fileDone = "done"

const prefixExport = "exported-"

// OpenExport takes the lock of the spool in dir (ErrLocked: it is served) and sets its queue aside, with what is on hold.
// An export that has not come to its end is taken up first. With again, the name of an earlier export, that one is made
// once more. ErrNothing says that there is none. The caller closes it.
func OpenExport(dir, again string) (*Export, error) {
	if _, err := os.Stat(filepath.Join(dir, dirQueue)); err != nil {
		if names, _ := exports(dir); len(names) == 0 {
			return nil, fmt.Errorf("export %s: there is no queue: %w", dir, err)
		}
	}
	lock, err := lockDir(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	x := &Export{dir: dir, lock: lock}
	if err := x.find(again); err != nil {
		lock.Close()
		return nil, fmt.Errorf("export %s: %w", dir, err)
	}
	return x, nil
}

// exports lists the exports of a spool, oldest first.
func exports(dir string) (names []string, err error) {
	err = eachFile(dir, func(name string) error {
		if validExport(name) {
			names = append(names, name)
		}
		return nil
	})
	slices.Sort(names)
	return names, err
}

// validExport says whether a text has the form of an export's name: it becomes part of a path.
func validExport(name string) bool {
	rest, ok := strings.CutPrefix(name, prefixExport)
	return ok && len(rest) > 0 && len(rest) <= 64 && !strings.ContainsFunc(rest, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '-'
	})
}

// find chooses the export, and begins a new one if there is none to go on with.
func (x *Export) find(again string) error {
	names, err := exports(x.dir)
	if err != nil {
		return err
	}
	if again != "" {
		if !slices.Contains(names, again) {
			return fmt.Errorf("there is no export %q; there are: %s", again, orNone(names))
		}
		x.Name, x.Resumed = again, true
		return nil
	}
	for _, name := range names {
		path := filepath.Join(x.dir, name)
		if os.Remove(path) == nil { // it was empty: made, and nothing moved into it
			continue
		}
		if _, err := os.Stat(filepath.Join(path, fileDone)); errors.Is(err, os.ErrNotExist) {
			x.Name, x.Resumed = name, true
			return nil
		}
	}
	err = x.begin()
	if errors.Is(err, ErrNothing) && len(names) > 0 {
		return fmt.Errorf("%w; earlier exports: %s", err, strings.Join(names, ", "))
	}
	return err
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// begin sets the queue aside, by two renames.
func (x *Export) begin() error {
	n, err := count(filepath.Join(x.dir, dirQueue), filepath.Join(x.dir, dirHold))
	if err != nil {
		return err
	}
	if n == 0 {
		return ErrNothing
	}
	now := time.Now().UTC()
	x.Name = prefixExport + now.Format("20060102-150405-") + newID(now)[9:]
	aside := filepath.Join(x.dir, x.Name)
	if err := os.Mkdir(aside, 0o700); err != nil {
		return fmt.Errorf("set the queue aside: %w", err)
	}
	for _, sub := range []string{dirQueue, dirHold} {
		if err := os.Rename(filepath.Join(x.dir, sub), filepath.Join(aside, sub)); ignoreMissing(err) != nil {
			return fmt.Errorf("set the queue aside: %w; export it again", err)
		}
	}
	return errors.Join(syncDir(aside), syncDir(x.dir))
}

// count is how many messages are in a hold directory, and below a queue.
func count(queue, hold string) (n int, err error) {
	one := func(name string) error {
		if strings.HasSuffix(name, suffix) {
			n++
		}
		return nil
	}
	err = ignoreMissing(eachFile(hold, one))
	return n, errors.Join(err, ignoreMissing(eachFile(queue, func(host string) error {
		if !isDir(filepath.Join(queue, host)) {
			return nil
		}
		return eachFile(filepath.Join(queue, host), one)
	})))
}

// Write writes the messages to w as a tar stream of their files, and returns how many there are. It may be called
// again, for another w.
func (x *Export) Write(ctx context.Context, w io.Writer) (messages int, err error) {
	out := tar.NewWriter(w)
	if err := writeEntry(out, entryBegin, entry{Format: format, Export: x.Name}); err != nil {
		return 0, fmt.Errorf("export: %w", err)
	}
	aside := filepath.Join(x.dir, x.Name)
	dirs := []string{dirHold}
	err = eachFile(filepath.Join(aside, dirQueue), func(name string) error {
		if isDir(filepath.Join(aside, dirQueue, name)) {
			dirs = append(dirs, filepath.Join(dirQueue, name))
		}
		return nil
	})
	if ignoreMissing(err) != nil {
		return 0, fmt.Errorf("export: %w", err)
	}
	for _, sub := range dirs {
		err := eachFile(filepath.Join(aside, sub), func(name string) error {
			info, err := os.Lstat(filepath.Join(aside, sub, name))
			if err = errors.Join(err, ctx.Err()); err != nil || !strings.HasSuffix(name, suffix) || !info.Mode().IsRegular() {
				return err
			}
			messages++
			return exportFile(out, filepath.Join(aside, sub, name), path.Join(filepath.ToSlash(sub), name))
		})
		if ignoreMissing(err) != nil {
			return 0, fmt.Errorf("export %s: %w", filepath.Join(aside, sub), err)
		}
	}
	if err := writeEntry(out, entryEnd, entry{Export: x.Name, Messages: messages}); err != nil {
		return 0, fmt.Errorf("export: %w", err)
	}
	if err := out.Close(); err != nil {
		return 0, fmt.Errorf("export: %w", err)
	}
	return messages, nil
}

func writeEntry(out *tar.Writer, name string, e entry) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := out.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o600, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = io.Copy(out, bytes.NewReader(text))
	return err
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

// Done takes down that the export is safe where it was written: the next one begins anew.
func (x *Export) Done() error {
	f, err := os.OpenFile(filepath.Join(x.dir, x.Name, fileDone), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(f.Close(), syncDir(filepath.Join(x.dir, x.Name)))
	}
	if err != nil {
		return fmt.Errorf("take down that the export is done: %w; the next one will be the same again, which does no harm", err)
	}
	return nil
}

// Close gives the lock back.
func (x *Export) Close() error { return x.lock.Close() }

// unfinished lists the exports that have not come to their end.
func unfinished(dir string) (names []string, err error) {
	all, err := exports(dir)
	for _, name := range all {
		if _, err := os.Stat(filepath.Join(dir, name, fileDone)); errors.Is(err, os.ErrNotExist) {
			names = append(names, name)
		}
	}
	return names, err
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
