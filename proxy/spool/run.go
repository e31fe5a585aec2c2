package spool

import (
	"container/heap"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// The bounds of what is under way at once, in messages. Each shelf may have a few times what its member takes at once, so
// that one that hangs delays no other; when there is very much under way, one message each.
const (
	perShelf   = 4 // times Config.Concurrency
	maxRunning = 1000
)

// tick is how often the wall clock is read at least: timers do not notice when it is set.
const tick = 30 * time.Second

// claim is the right to touch a message.
type claim struct {
	again bool // somebody asked for an attempt while one was under way
}

// Run delivers what is due until ctx ends, and returns when the attempts that were under way have ended. It is called
// once at most.
func (s *Spool) Run(ctx context.Context) error {
	if s.stopping.Err() != nil {
		return ErrClosed
	}
	var attempts sync.WaitGroup
	defer attempts.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.stirred:
		case <-timer.C:
		}
		now := s.now()
		s.mu.Lock()
		if now.Before(s.clock.Add(-time.Minute)) {
			s.clockSetBack()
		}
		s.clock = now
		wait := tick
		for _, sh := range s.shelves {
			wait = min(wait, s.launch(ctx, sh, now, &attempts))
		}
		s.mu.Unlock()
		timer.Reset(wait)
	}
}

// launch begins what a shelf has due, as far as there is room, and says when to look again. Spool.mu is held.
func (s *Spool) launch(ctx context.Context, sh *shelf, now time.Time, attempts *sync.WaitGroup) time.Duration {
	if sh.wants() {
		sh.sweep = true
		attempts.Go(func() { s.refill(ctx, sh) })
	}
	for len(sh.window.keys) > 0 {
		first := sh.window.keys[0]
		if wait := first.time().Sub(now); wait > 0 {
			return wait
		}
		limit := perShelf * s.cfg.Concurrency
		if s.running >= maxRunning {
			limit = 1
		}
		if sh.running >= limit {
			break // an attempt that ends stirs
		}
		heap.Pop(&sh.window)
		if s.busy[first.id] != nil {
			continue // who has it puts it back
		}
		c := &claim{}
		s.busy[first.id] = c
		sh.running++
		s.running++
		attempts.Go(func() { s.attempt(ctx, sh, first.id, c) })
	}
	return tick
}

// refill reads a shelf whose window has run empty. Where that fails it is tried again after a pause.
func (s *Spool) refill(ctx context.Context, sh *shelf) {
	for {
		err := s.fill(sh)
		if err == nil {
			s.stir()
			return
		}
		s.Log.Error("the spool cannot be read; its mail waits", "dir", sh.path, "error", err)
		s.mu.Lock()
		sh.sweep = true
		s.mu.Unlock()
		select {
		case <-time.After(10 * time.Second):
		case <-ctx.Done():
			return
		}
	}
}

// stir lets Run look for what is due.
func (s *Spool) stir() {
	select {
	case s.stirred <- struct{}{}:
	default:
	}
}

// clockSetBack brings what would be due by the old clock to where it can be by the new one. Spool.mu is held.
func (s *Spool) clockSetBack() {
	latest := s.latest().UnixNano()
	for _, sh := range s.shelves {
		for i := range sh.window.keys {
			sh.window.keys[i].due = min(sh.window.keys[i].due, latest)
		}
		if sh.horizon != nil {
			sh.horizon.due = min(sh.horizon.due, latest)
		}
		heap.Init(&sh.window)
	}
	s.Log.Warn("the clock was set back; the queue's schedule follows")
}

// jitter is d give or take a fifth.
func (s *Spool) jitter(d time.Duration) time.Duration {
	return d - d/5 + time.Duration(rand.Int64N(int64(d)*2/5+1))
}

// pause is how long a message of that age waits for its next attempt.
func (s *Spool) pause(age time.Duration) time.Duration {
	return s.jitter(min(max(age, s.cfg.FirstRetry), s.cfg.MaxRetry))
}

// release ends a claim, and puts the message back with its next time; a zero one does not. A message that somebody asked
// for meanwhile is due at once, by its file's time, too: an attempt goes by that.
func (s *Spool) release(id string, sh *shelf, c *claim, next time.Time) {
	s.mu.Lock()
	delete(s.busy, id)
	if !next.IsZero() {
		s.line(sh, id, next)
	}
	again := c.again && !next.IsZero()
	s.mu.Unlock()
	if !again {
		return
	}
	if err := s.hasten(sh, id); err != nil {
		s.Log.Error("a message that is to be tried now waits for its time", "id", id, "error", err)
	}
}

// line puts a message into its window. The clock may have been set back since its time was made. Spool.mu is held.
func (s *Spool) line(sh *shelf, id string, due time.Time) {
	if latest := s.latest(); due.After(latest) {
		due = latest
	}
	sh.add(key{due.UnixNano(), id}, s.capacity())
}

// errBusy: somebody else has the message.
var errBusy = errors.New("message is being delivered just now; try again in a moment")

// seize takes a message for an operator's command.
func (s *Spool) seize(id string) (*claim, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[id] != nil {
		return nil, errBusy
	}
	c := &claim{}
	s.busy[id] = c
	return c, nil
}
