package spool

import (
	"context"
	"path/filepath"
	"strings"
)

// wish is what the waker has been asked for since it last looked.
type wish struct {
	hosts    map[string]bool
	accounts map[string]bool
	all      bool
}

// maxAccounts is how many single accounts are looked for; where more have moved, everything is tried.
const maxAccounts = 10_000

// Wake makes all mail of a host due at once: one of its members is back, or its accounts have moved. It returns at once. It
// is for the moment of the change, not for every check that succeeds: mail that waits for other reasons, such as a full
// mailbox, is tried, too.
func (s *Spool) Wake(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgive(host, false)
	s.wishHost(host)
}

// wishHost asks the waker for a host's mail. Spool.mu is held.
func (s *Spool) wishHost(host string) {
	own, others := s.shelves[shelfName(host)], s.shelves[mixed]
	if (own == nil || own.count == 0) && (others == nil || others.count == 0) {
		return
	}
	if s.wish.hosts == nil {
		s.wish.hosts = make(map[string]bool)
	}
	s.wish.hosts[host] = true
	s.askWaker()
}

// WakeAccount makes the mail of accounts due at once, by address or by canonical login name without regard to case: their
// home host has changed. It returns at once. The queue is read for it once for all accounts that are asked for meanwhile.
func (s *Spool) WakeAccount(accounts ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := 0
	for _, sh := range s.shelves {
		waiting += sh.count
	}
	if waiting == 0 || len(accounts) == 0 {
		return
	}
	if s.wish.accounts == nil {
		s.wish.accounts = make(map[string]bool)
	}
	for _, a := range accounts {
		if len(s.wish.accounts) >= maxAccounts {
			s.wish.all = true
			break
		}
		s.wish.accounts[strings.ToLower(a)] = true
	}
	s.askWaker()
}

// Flush makes everything due at once.
func (s *Spool) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgive("", true)
	s.wish.all = true
	s.askWaker()
}

func (s *Spool) askWaker() {
	select {
	case s.wishes <- struct{}{}:
	default:
	}
}

// keepWaking grants wishes until the spool is closed.
func (s *Spool) keepWaking() {
	for {
		select {
		case <-s.wishes:
		case <-s.stopping.Done():
			return
		}
		s.mu.Lock()
		w := s.wish
		s.wish = wish{}
		s.mu.Unlock()
		if err := s.grant(s.stopping, w); err != nil && s.stopping.Err() == nil {
			s.Log.Error("the queue cannot be read for mail to wake; it is tried in its own time", "error", err)
		}
	}
}

func (s *Spool) grant(ctx context.Context, w wish) error {
	return s.eachQueued(ctx, func(sh *shelf, id string) error {
		host := hostOf(sh.name)
		if w.all || host != "" && w.hosts[host] {
			return s.hasten(sh, id)
		}
		if len(w.accounts) == 0 && host != "" {
			return nil
		}
		it, err := s.peek(filepath.Join(sh.path, id+suffix))
		if err != nil {
			return nil //nolint:nilerr // gone meanwhile, or unreadable: its next attempt says so
		}
		for _, n := range it.waiting() {
			p := &it.rcpts[n]
			if w.hosts[p.Host] || w.accounts[strings.ToLower(p.Address)] || p.Account != "" && w.accounts[strings.ToLower(p.Account)] {
				return s.hasten(sh, id)
			}
		}
		return nil
	})
}

// hasten makes one message due now. One that is being attempted is attempted again.
func (s *Spool) hasten(sh *shelf, id string) error {
	now := s.now()
	s.mu.Lock()
	if c := s.busy[id]; c != nil {
		c.again = true
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	if err := s.disk.schedule(filepath.Join(sh.path, id+suffix), now); err != nil {
		return ignoreMissing(err)
	}
	s.mu.Lock()
	if s.busy[id] == nil {
		sh.add(key{now.UnixNano(), id}, s.capacity())
	}
	s.mu.Unlock()
	s.stir()
	return nil
}

// eachQueued calls do for every queued message. Shelves where nothing waits are not read.
func (s *Spool) eachQueued(ctx context.Context, do func(sh *shelf, id string) error) error {
	s.mu.Lock()
	var shelves []*shelf
	for _, sh := range s.shelves {
		if sh.count > 0 {
			shelves = append(shelves, sh)
		}
	}
	s.mu.Unlock()
	for _, sh := range shelves {
		err := eachFile(sh.path, func(name string) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if id, ok := strings.CutSuffix(name, suffix); ok {
				return do(sh, id)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
