package directory

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/go-ldap/ldap/v3"
	"golang.org/x/sys/unix"
)

// fileEditor edits an LDIF file. Each batch of changes is one new file that takes the old one's place, so a reader sees
// all of it or nothing, and a crash leaves one or the other. A lock beside the file keeps other editors away.
type fileEditor struct {
	cfg    Config
	path   string
	finder template

	mu sync.Mutex // one batch at a time in this process; the lock file does it for others
}

var _ Editor = (*fileEditor)(nil)

func newFileEditor(path string, cfg Config) (*fileEditor, error) {
	finder, err := newTemplate(cfg.Filter)
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	e := &fileEditor{cfg: cfg, path: path, finder: finder}
	if _, err := readContent(path, cfg.Base); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return e, nil
}

func (e *fileEditor) Server() string { return "ldif:" + e.path }

func (e *fileEditor) Capabilities() Capabilities {
	return Capabilities{Vendor: "LDIF file", Transactions: true}
}

func (e *fileEditor) Close() {}

func (e *fileEditor) Search(ctx context.Context, q Query, each func(Record) error) error {
	text, err := q.filter(e.cfg.Attributes)
	if err != nil {
		return err
	}
	found, err := e.search(text, q.Base, 0)
	if err != nil {
		return err
	}
	for _, r := range found {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := each(r); err != nil {
			return err
		}
	}
	return nil
}

func (e *fileEditor) search(text, base string, limit int) ([]Record, error) {
	filter, err := ldap.CompileFilter(text)
	if err != nil {
		return nil, err
	}
	if base == "" {
		base = e.cfg.Base
	}
	c, err := readContent(e.path, base)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	var records []Record
	for _, found := range c.index.search(filter, limit) {
		records = append(records, e.cfg.Attributes.record(found))
	}
	return records, nil
}

func (e *fileEditor) Find(_ context.Context, name Name) ([]Record, error) {
	return e.search(e.finder.fill(name), "", 2)
}

func (e *fileEditor) Get(ctx context.Context, dn string) (Record, error) {
	records, errs := e.GetAll(ctx, []string{dn})
	return records[0], errs[0]
}

func (e *fileEditor) GetAll(_ context.Context, dns []string) ([]Record, []error) {
	records, errs := make([]Record, len(dns)), make([]error, len(dns))
	c, err := readContent(e.path, e.cfg.Base)
	for i, dn := range dns {
		if err != nil {
			errs[i] = fmt.Errorf("%w: %w", ErrUnavailable, err)
		} else if found := c.byDN[foldDN(dn)]; found == nil {
			errs[i] = fmt.Errorf("%w: %s", ErrGone, dn)
		} else {
			records[i] = e.cfg.Attributes.record(found)
		}
	}
	return records, errs
}

// Modify writes one new file with all the changes that can be made.
func (e *fileEditor) Modify(_ context.Context, changes []Change) []error {
	errs := make([]error, len(changes))
	err := e.rewrite(func(byDN map[string]*ldifEntry) error {
		for i, c := range changes {
			errs[i] = e.change(byDN, c)
		}
		return nil
	})
	if err != nil {
		for i := range errs {
			if errs[i] == nil {
				errs[i] = err
			}
		}
	}
	return errs
}

// Transact writes one new file with all the changes, or none.
func (e *fileEditor) Transact(_ context.Context, changes []Change) error {
	return e.rewrite(func(byDN map[string]*ldifEntry) error {
		for _, c := range changes {
			if err := e.change(byDN, c); err != nil {
				return fmt.Errorf("%w by %s: %w", ErrAborted, c.DN, err)
			}
		}
		return nil
	})
}

func (e *fileEditor) change(byDN map[string]*ldifEntry, c Change) error {
	found := byDN[foldDN(c.DN)]
	if found == nil {
		return ErrGone
	}
	hosts, old := found.values(e.cfg.Attributes.Host), found.values(e.cfg.Attributes.OldHost)
	if !holds(hosts, c.From) || !holds(old, c.OldFrom) {
		return ErrConflict
	}
	if c.To != c.From {
		found.set(e.cfg.Attributes.Host, one(c.To))
	}
	if c.OldTo != c.OldFrom {
		found.set(e.cfg.Attributes.OldHost, one(c.OldTo))
	}
	return nil
}

func holds(values []string, want string) bool {
	if want == "" {
		return len(values) == 0
	}
	return len(values) == 1 && strings.EqualFold(values[0], want)
}

func one(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

// rewrite puts a new file in the place of the old one. A symbolic link stays one.
func (e *fileEditor) rewrite(change func(map[string]*ldifEntry) error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	path, err := filepath.EvalSymlinks(e.path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	unlock, err := lockFile(path + ".lock")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	defer unlock()
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	doc, err := parseLDIF(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	byDN := map[string]*ldifEntry{}
	for _, found := range doc.entries(e.cfg.Base) {
		byDN[foldDN(found.dn)] = found
	}
	if err := change(byDN); err != nil {
		return err
	}
	return replaceFile(path, doc.bytes())
}

// lockFile waits for the lock. The file stays: removing it would let two editors hold two locks.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// replaceFile writes beside the file, makes sure it is on the disk, and renames, with the mode and owner of the old one.
func replaceFile(path string, data []byte) (err error) {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return fmt.Errorf("rewrite %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		err = errors.Join(err, f.Chown(int(stat.Uid), int(stat.Gid)))
	}
	err = errors.Join(err, f.Chmod(info.Mode().Perm()), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("rewrite %s: %w", path, err)
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("rewrite %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
