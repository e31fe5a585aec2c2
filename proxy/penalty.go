package proxy

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Bounds of the table of addresses with failed logins.
const (
	maxPenalties  = 20_000
	penaltyMemory = 15 * time.Minute // without another failure, an address is as good as new
)

// penalties makes guessing slow: the next login from an address waits longer with each failed one. It waits before
// anything else happens, so that a guesser who hangs up early has learnt nothing.
type penalties struct {
	mu    sync.Mutex
	table map[netip.Addr]penalty
}

type penalty struct {
	failures int
	last     time.Time
}

// network is what limits by address count for one: an IPv4 address, or an IPv6 network of 64 bits, which one client has
// for itself.
func network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is4() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}

// delay is how long the next login from an address is to wait.
func (p *penalties) delay(a netip.Addr, l *Limits, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.table[network(a)]
	if !ok {
		return 0
	}
	if now.Sub(e.last) > penaltyMemory {
		delete(p.table, network(a))
		return 0
	}
	return min(l.FailureDelay<<min(e.failures-1, 20), l.FailureDelayMax)
}

func (p *penalties) failed(a netip.Addr, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := network(a)
	e, known := p.table[key]
	if !known && len(p.table) >= maxPenalties {
		p.makeRoom(now)
	}
	p.table[key] = penalty{e.failures + 1, now}
}

// makeRoom drops what is old, and otherwise some of the rest: a flood of addresses must not fill the memory. Go's maps
// begin each walk somewhere else.
func (p *penalties) makeRoom(now time.Time) {
	dropped := 0
	for a, e := range p.table {
		if now.Sub(e.last) > penaltyMemory || dropped < maxPenalties/100 {
			delete(p.table, a)
			dropped++
		}
		if dropped >= maxPenalties/10 {
			return
		}
	}
}

func (p *penalties) succeeded(a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.table, network(a))
}

// timing remembers how long backends took to refuse credentials lately. Unknown users are refused no sooner, so that
// the time does not tell them from wrong passwords.
type timing struct {
	mu     sync.Mutex
	recent [16]time.Duration
	next   int
}

// usualRefusal is taken until a backend has refused somebody: the delay that Dovecot puts before a failure.
const usualRefusal = 2 * time.Second

func newTiming() *timing {
	t := &timing{}
	for i := range t.recent {
		t.recent[i] = usualRefusal
	}
	return t
}

func (t *timing) refused(took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recent[t.next%len(t.recent)] = took
	t.next++
}

func (t *timing) sample() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next == 0 {
		return t.recent[0]
	}
	return t.recent[rand.IntN(min(t.next, len(t.recent)))]
}

// pause waits, or for less if the context ends.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// randomSpan is a random part of a span.
func randomSpan(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}
