package backend

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	resolveFor     = 5 * time.Second // how long an answer is remembered
	resolveTimeout = 5 * time.Second
)

// resolved is the short memory of a member's DNS name: for a few seconds, so that a burst of logins is one lookup. What
// was known last serves on while the DNS fails.
type resolved struct {
	mu      sync.Mutex
	addrs   []netip.Addr
	until   time.Time
	good    netip.Addr    // the address that answered last: tried first
	pending chan struct{} // closed when the lookup under way is done
	err     error         // of the last lookup
}

// lookup finds the addresses of a member's name, the one that answered last first. One caller asks, the others wait.
func (m *Member) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	r := &m.resolved
	r.mu.Lock()
	defer r.mu.Unlock()
	for !time.Now().Before(r.until) {
		wait := r.pending
		if wait == nil {
			return m.resolve(ctx, name)
		}
		r.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
		}
		r.mu.Lock()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if r.err != nil && !errors.Is(r.err, context.Canceled) { // a caller that went away says nothing about the DNS
			return r.known(r.err)
		}
	}
	return r.known(nil)
}

// resolve asks the resolver. r.mu is held, but not while it waits.
func (m *Member) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	r := &m.resolved
	done := make(chan struct{})
	r.pending = done
	r.mu.Unlock()
	ask, cancel := context.WithTimeout(ctx, resolveTimeout)
	addrs, err := (*m.table.resolver.Load()).LookupNetIP(ask, "ip", name)
	cancel()
	r.mu.Lock()
	r.pending = nil
	defer close(done)
	if err == nil && len(addrs) == 0 {
		err = &net.DNSError{Err: "no address", Name: name, IsNotFound: true}
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		r.err = &lookupError{name, err}
		if len(r.addrs) > 0 && ctx.Err() == nil {
			r.until = time.Now().Add(resolveFor) // ask a DNS that is down now and then, not at every login
		}
		return r.known(r.err)
	}
	r.err, r.addrs, r.until = nil, nil, time.Now().Add(resolveFor)
	for _, a := range addrs {
		r.addrs = append(r.addrs, a.Unmap())
	}
	return r.known(nil)
}

// known are the addresses, the one that answered last first, or the error if there are none. r.mu is held.
func (r *resolved) known(err error) ([]netip.Addr, error) {
	if len(r.addrs) == 0 {
		return nil, err
	}
	at := slices.Index(r.addrs, r.good)
	if at <= 0 {
		return r.addrs, nil
	}
	return slices.Concat([]netip.Addr{r.good}, r.addrs[:at], r.addrs[at+1:]), nil
}

// last are the addresses that are known, without asking.
func (r *resolved) last() []netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.addrs
}

// answered remembers the address to try first.
func (r *resolved) answered(a netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.good = a
}

var _ Resolver = (*net.Resolver)(nil)
