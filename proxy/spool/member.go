package spool

import (
	"context"
	"fmt"
	"time"
)

// member is what is known of one target: how many deliveries it has, and whether it can be reached. Spool.mu guards it.
type member struct {
	slots    chan struct{}
	users    int
	failures int       // in a row; 0: it works
	until    time.Time // nobody dials before
	probing  bool      // one delivery finds out whether it is back
	reason   string
}

// awayError is why a delivery was not tried.
type awayError struct {
	target Target
	reason string
}

func (e *awayError) Error() string {
	return fmt.Sprintf("%s of %s is away: %s", e.target.Member, e.target.Host, e.reason)
}

// maxPause is the longest time without a probe of a member that is away.
const maxPause = time.Minute

// enter waits for a delivery's turn at a member. An *awayError says that it is not the time to dial.
func (s *Spool) enter(ctx context.Context, t Target) (*member, error) {
	s.mu.Lock()
	m := s.members[t]
	if m == nil {
		m = &member{slots: make(chan struct{}, s.cfg.Concurrency)}
		s.members[t] = m
	}
	m.users++
	err := m.refusal(t, s.now())
	s.mu.Unlock()
	if err == nil {
		err = s.takeTurn(ctx, t, m)
	}
	if err != nil {
		s.quit(t, m)
		return nil, err
	}
	return m, nil
}

func (s *Spool) takeTurn(ctx context.Context, t Target, m *member) error {
	select {
	case m.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := m.refusal(t, s.now()); err != nil { // found out by those who were before
		<-m.slots
		return err
	}
	m.probing = m.failures > 0
	return nil
}

// refusal is an *awayError when it is not the time to dial. Spool.mu is held.
func (m *member) refusal(t Target, now time.Time) error {
	if m.away(now) {
		return &awayError{t, m.reason}
	}
	return nil
}

func (m *member) away(now time.Time) bool {
	// A pause that is longer than any can be was written before the clock was set back.
	waits := now.Before(m.until) && m.until.Sub(now) <= 2*maxPause
	return m.failures > 0 && (waits || m.probing)
}

// leave gives the turn back with what was learnt of the member. It gives the time of the next probe, if there is to be one.
func (s *Spool) leave(t Target, m *member, unreachable bool, reason string) (probe time.Time) {
	defer s.quit(t, m)
	<-m.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	probed := m.probing
	m.probing = false
	switch {
	case !unreachable && m.failures > 0:
		m.failures, m.reason = 0, ""
		s.Log.Info("member is back", "host", t.Host, "member", t.Member)
		s.wishHost(t.Host)
	case unreachable:
		// Deliveries that failed together count once.
		if probed || m.failures == 0 {
			pause := min(s.cfg.FirstRetry<<min(m.failures, 20), max(maxPause, s.cfg.FirstRetry), s.cfg.MaxRetry)
			m.failures++
			m.until = s.now().Add(s.jitter(pause))
			m.reason = reason
			if m.failures == 1 {
				s.Log.Info("member is away; its mail waits", "host", t.Host, "member", t.Member, "error", reason)
			}
		}
		probe = m.until
	}
	return probe
}

// quit forgets a member that nobody uses and nothing is known about.
func (s *Spool) quit(t Target, m *member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.users--; m.users == 0 && m.failures == 0 {
		delete(s.members, t)
	}
}

// forgive lets the members of a host be dialled at once; of every host with all. Spool.mu is held.
func (s *Spool) forgive(host string, all bool) {
	for t, m := range s.members {
		if !all && t.Host != host {
			continue
		}
		m.until = time.Time{}
		if m.users == 0 {
			delete(s.members, t)
		}
	}
}
