package smtp

import (
	"net/netip"
	"sync"
	"time"

	"mailmux/proxy/incoming"
)

// rates counts the messages of each client address within the minute. It forgets all of them with each new minute, so
// it holds no more than the addresses of one.
type rates struct {
	mu     sync.Mutex
	minute int64
	counts map[netip.Addr]int
}

// admit says whether a client may bring one more message now.
func (r *rates) admit(s *incoming.Session) bool {
	if s.Known() {
		return true
	}
	most := s.Deliverer.Config().MessagesPerMinute
	return r.count(s.ClientAddr().Addr().Unmap(), time.Now()) <= most
}

// count counts one more message of an address.
func (r *rates) count(a netip.Addr, now time.Time) int {
	if a.Is6() { // one customer is a /64 at least
		if p, err := a.Prefix(64); err == nil {
			a = p.Addr()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if minute := now.Unix() / 60; minute != r.minute || r.counts == nil {
		r.minute, r.counts = minute, map[netip.Addr]int{}
	}
	r.counts[a]++
	return r.counts[a]
}
