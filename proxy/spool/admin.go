package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Filter chooses messages; every field that is set must hold. The zero Filter is every message. Texts compare without
// regard to case.
type Filter struct {
	IDs       []string      // one of these
	Recipient string        // a recipient that waits: its address, or its account
	Domain    string        // the domain of a recipient that waits
	Host      string        // the home host of a recipient that waits
	Sender    string        // "<>" is the null sender
	Older     time.Duration // in the queue for longer; 0: any
	Younger   time.Duration // in the queue for less; 0: any
	Held      *bool         // on hold, or not
}

// RecipientInfo is what the queue knows of one recipient.
type RecipientInfo struct {
	Recipient
	State    State     `json:"state"`
	Member   string    `json:"member,omitempty"` // of the last attempt
	Reply    string    `json:"reply,omitempty"`
	Status   string    `json:"status,omitempty"`
	Last     time.Time `json:"last,omitzero"`
	Attempts int       `json:"attempts"`
}

// Info is a message in the queue.
type Info struct {
	ID         string          `json:"id"`
	From       string          `json:"from"`
	Size       int64           `json:"size"`
	Arrived    time.Time       `json:"arrived"`
	Next       time.Time       `json:"next,omitzero"` // of the next attempt; zero on hold
	Held       bool            `json:"held"`
	Client     string          `json:"client,omitempty"`
	EnvID      string          `json:"envid,omitempty"`
	Recipients []RecipientInfo `json:"recipients"`
}

// Result is what a command has done.
type Result struct {
	Changed int `json:"changed"`
	Busy    int `json:"busy"` // matched, but were being delivered
}

// List calls do with each message that matches, in no order, until do returns an error. It reads the head of every file,
// and holds one message at a time.
func (s *Spool) List(ctx context.Context, f Filter, do func(*Info) error) error {
	return s.each(ctx, f, func(_ *shelf, _ string, info *Info) error { return do(info) })
}

// Show gives a message: what is known of it, and its text, which the caller closes. A message that is not there is
// ErrNotFound.
func (s *Spool) Show(id string) (*Info, io.ReadCloser, error) {
	path, err := s.find(id)
	if err != nil {
		return nil, nil, err
	}
	f, err := openItem(path, os.O_RDONLY)
	if err != nil {
		return nil, nil, fmt.Errorf("open message %s: %w", id, missing(err))
	}
	stat, err := f.Stat()
	if err == nil {
		var it *item
		if it, err = readItem(f, stat.Size()); err == nil {
			body := io.NewSectionReader(f, it.start, it.Size)
			return it.info(stat.ModTime(), s.isHeld(path)), readCloser{body, f}, nil
		}
	}
	f.Close()
	return nil, nil, fmt.Errorf("read message %s: %w", id, err)
}

type readCloser struct {
	io.Reader
	io.Closer
}

// Retry makes messages due now, and lets the members of their hosts be dialled at once.
func (s *Spool) Retry(ctx context.Context, f Filter) (r Result, err error) {
	held := false
	f.Held = &held
	forgiven := make(map[string]bool)
	err = s.each(ctx, f, func(sh *shelf, id string, info *Info) error {
		for _, p := range info.Recipients {
			if !forgiven[p.Host] {
				forgiven[p.Host] = true
				s.mu.Lock()
				s.forgive(p.Host, false)
				s.mu.Unlock()
			}
		}
		r.Changed++
		return s.hasten(sh, id)
	})
	return r, err
}

// Hold takes messages out of the queue until they are released. Time goes on for them: a release after Config.MaxAge is
// followed by one last attempt.
func (s *Spool) Hold(ctx context.Context, f Filter) (Result, error) {
	held := false
	f.Held = &held
	return s.change(ctx, f, func(sh *shelf, id string, size int64) (*shelf, error) {
		if err := s.disk.rename(filepath.Join(sh.path, id+suffix), s.path(dirHold, id+suffix)); err != nil {
			return sh, err
		}
		s.gone(sh, size)
		s.tally(func(c *Counters) { c.Held++ })
		return nil, nil
	})
}

// Release puts messages that are on hold back into the queue, due at once.
func (s *Spool) Release(ctx context.Context, f Filter) (Result, error) {
	held := true
	f.Held = &held
	return s.change(ctx, f, func(_ *shelf, id string, size int64) (*shelf, error) {
		path := s.path(dirHold, id+suffix)
		it, err := s.peek(path)
		if err != nil {
			return nil, err
		}
		home, err := s.shelf(it.host())
		if err != nil {
			return nil, err
		}
		if err := s.disk.schedule(path, s.now()); err != nil {
			return nil, err
		}
		if err := s.disk.rename(path, filepath.Join(home.path, id+suffix)); err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.counters.Held--
		home.count++
		s.bytes += size
		return home, nil
	})
}

// Delete removes messages for good, on hold or not. Nobody is told.
func (s *Spool) Delete(ctx context.Context, f Filter) (Result, error) {
	return s.change(ctx, f, func(sh *shelf, id string, size int64) (*shelf, error) {
		path := s.path(dirHold, id+suffix)
		if sh != nil {
			path = filepath.Join(sh.path, id+suffix)
		}
		if err := s.disk.remove(path); err != nil {
			return sh, err
		}
		if sh != nil {
			s.gone(sh, size)
		} else {
			s.tally(func(c *Counters) { c.Held-- })
		}
		s.Log.Info("message deleted by the operator", "id", id)
		return nil, nil
	})
}

// change does something to each message that matches, while nobody else has it; do gives the shelf that the message is on
// then, nil for none. A message that goes meanwhile is none.
func (s *Spool) change(ctx context.Context, f Filter, do func(sh *shelf, id string, size int64) (*shelf, error)) (r Result, err error) {
	err = s.each(ctx, f, func(sh *shelf, id string, _ *Info) error {
		c, err := s.seize(id)
		if err != nil {
			r.Busy++
			return nil //nolint:nilerr // counted
		}
		path := s.path(dirHold, id+suffix)
		if sh != nil {
			path = filepath.Join(sh.path, id+suffix)
			s.mu.Lock()
			sh.window.drop(id)
			s.mu.Unlock()
		}
		stat, err := os.Lstat(path)
		if err != nil {
			s.release(id, sh, c, time.Time{})
			return ignoreMissing(err)
		}
		home, err := do(sh, id, stat.Size())
		if err == nil {
			r.Changed++
		}
		next := time.Time{}
		if home != nil {
			next = stat.ModTime()
			if home != sh {
				next = s.now()
			}
		}
		s.release(id, home, c, next)
		s.stir()
		return ignoreMissing(err)
	})
	return r, err
}

// each calls do for every message that matches; the shelf of one on hold is nil. Ids alone need no search.
func (s *Spool) each(ctx context.Context, f Filter, do func(sh *shelf, id string, info *Info) error) error {
	visit := func(sh *shelf, path, id string) error {
		stat, err := os.Lstat(path)
		if err != nil {
			return ignoreMissing(err)
		}
		it, err := s.peek(path)
		if err != nil {
			if errors.Is(err, errUnreadable) {
				return nil // its next attempt takes it to quarantine
			}
			return ignoreMissing(err)
		}
		if info := it.info(stat.ModTime(), sh == nil); f.match(info, s.now()) {
			return do(sh, id, info)
		}
		return nil
	}
	if len(f.IDs) > 0 {
		for _, id := range f.IDs {
			path, err := s.find(id)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err == nil {
				err = visit(s.shelfOf(path), path, id)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	if f.Held == nil || !*f.Held {
		err := s.eachQueued(ctx, func(sh *shelf, id string) error {
			if host := hostOf(sh.name); f.Host != "" && host != "" && !strings.EqualFold(host, f.Host) {
				return nil // the directory says it: no need to open the file
			}
			return visit(sh, filepath.Join(sh.path, id+suffix), id)
		})
		if err != nil {
			return err
		}
	}
	if f.Held != nil && !*f.Held {
		return nil
	}
	return eachFile(s.path(dirHold), func(name string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return visit(nil, s.path(dirHold, name), strings.TrimSuffix(name, suffix))
	})
}

func (f *Filter) match(i *Info, now time.Time) bool {
	age := now.Sub(i.Arrived)
	switch {
	case f.Held != nil && *f.Held != i.Held,
		f.Older > 0 && age <= f.Older,
		f.Younger > 0 && age >= f.Younger,
		f.Sender == "<>" && i.From != "",
		f.Sender != "" && f.Sender != "<>" && !strings.EqualFold(f.Sender, i.From):
		return false
	case f.Recipient == "" && f.Domain == "" && f.Host == "":
		return true
	}
	for _, p := range i.Recipients {
		domain := p.Address[strings.LastIndexByte(p.Address, '@')+1:]
		if p.State == Waiting &&
			(f.Recipient == "" || strings.EqualFold(f.Recipient, p.Address) || strings.EqualFold(f.Recipient, p.Account)) &&
			(f.Domain == "" || strings.EqualFold(f.Domain, domain)) &&
			(f.Host == "" || strings.EqualFold(f.Host, p.Host)) {
			return true
		}
	}
	return false
}

func (it *item) info(next time.Time, held bool) *Info {
	i := &Info{ID: it.ID, From: it.From, Size: it.Size, Arrived: it.At, Next: next, Held: held, Client: it.Client, EnvID: it.EnvID}
	if held {
		i.Next = time.Time{}
	}
	for _, p := range it.rcpts {
		i.Recipients = append(i.Recipients, RecipientInfo{p.Recipient, p.State, p.Member, p.Reply, p.Status, p.Last, p.Attempts})
	}
	return i
}

// peek reads a file's head and records.
func (s *Spool) peek(path string) (*item, error) {
	f, err := openItem(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return readItem(f, stat.Size())
}

// find says where a message is: queued or on hold.
func (s *Spool) find(id string) (string, error) {
	if !ValidID(id) {
		return "", fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	s.mu.Lock()
	paths := []string{s.path(dirHold, id+suffix)}
	for _, sh := range s.shelves {
		paths = append(paths, filepath.Join(sh.path, id+suffix))
	}
	s.mu.Unlock()
	for _, path := range paths {
		_, err := os.Lstat(path)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("%w: %s", ErrNotFound, id)
}

func (s *Spool) isHeld(path string) bool { return filepath.Dir(path) == s.path(dirHold) }

// shelfOf is the shelf of a path that find gave, nil for hold.
func (s *Spool) shelfOf(path string) *shelf {
	if s.isHeld(path) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shelves[filepath.Base(filepath.Dir(path))]
}

func missing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: it went meanwhile", ErrNotFound)
	}
	return err
}
