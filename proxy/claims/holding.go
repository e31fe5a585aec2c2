package claims

import (
	"context"
	"fmt"
	"sync"
	"time"

	"mailmux/proxy"
	"mailmux/proxy/backend"
	"mailmux/proxy/splice"
)

// holding is an account that this frontend has, or is about to have. It is in Claims.held until the last trace of it in
// etcd is gone, so that there is one conversation with etcd about an account at a time. Its fields are the Claims' lock's.
type holding struct {
	key    string
	tenure *tenure
	member *backend.Member
	rev    int64 // of our holder's key, unknownRev when a request was not answered

	settled bool          // the claim is ours: users may join
	leaving bool          // nobody may join any more
	linger  *time.Timer   // runs while nobody uses it
	step    chan struct{} // closed at the next change
	users   map[*user]struct{}
	asked   moved // that came before it was settled
}

// moved is that an account is to leave its member, as of a revision of etcd.
type moved struct {
	moveValue
	rev int64
}

// concerns says whether a member, that was taken by the transaction rev, is to be left. One that was taken later has been
// chosen with the move in view.
func (m moved) concerns(member *backend.Member, rev int64) bool {
	return m.rev > rev && member.String() != m.To && (m.From == "" || member.String() == m.From)
}

// unknownRev: whether there is a key of ours, and which, is to be found out.
const unknownRev = -1

// user is one session or delivery.
type user struct {
	claims  *Claims
	holding *holding // nil for one without agreement
	member  *backend.Member
	cut     func()
	once    sync.Once // of cut
	gone    bool
}

// Member is of proxy.Claim.
func (u *user) Member() *backend.Member { return u.member }

// Gate is of proxy.Claim.
func (u *user) Gate() *splice.Gate {
	if u.holding == nil {
		return nil
	}
	return u.holding.tenure.gate
}

// Release is of proxy.Claim.
func (u *user) Release() {
	c := u.claims
	c.mu.Lock()
	defer c.mu.Unlock()
	if u.gone {
		return
	}
	u.gone = true
	if u.holding == nil {
		delete(c.loose, u)
		return
	}
	c.users--
	delete(u.holding.users, u)
	c.unused(u.holding)
}

// close cuts the user's connection, once.
func (u *user) close() { u.once.Do(u.cut) }

// note wakes up those that wait for a change of the holding. mu is held.
func (h *holding) note() {
	close(h.step)
	h.step = make(chan struct{})
}

// unused begins to give a holding back if nobody uses it any more. mu is held.
func (c *Claims) unused(h *holding) {
	switch {
	case len(h.users) > 0 || !h.settled:
	case h.leaving:
		c.giveBack(h)
	case c.cfg.Linger > 0:
		h.linger = time.AfterFunc(c.cfg.Linger, func() { c.expire(h) })
	default:
		c.giveBack(h)
	}
}

// expire ends a linger, unless a session came meanwhile.
func (c *Claims) expire(h *holding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[h.key] == h && h.settled && !h.leaving && len(h.users) == 0 {
		c.giveBack(h)
	}
}

// giveBack takes our holder out of etcd. mu is held.
func (c *Claims) giveBack(h *holding) {
	h.leaving, h.settled = true, false
	c.background(func() {
		c.release(h)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.forget(h)
	})
}

// clear takes a key of ours out of etcd that nobody here knows of: a request that was not answered may have left it behind,
// and those who wait for the account to leave its member wait for that key, too. mu is held.
func (c *Claims) clear(t *tenure, key string) {
	h := &holding{key: key, tenure: t, rev: unknownRev, step: make(chan struct{})}
	c.held[key] = h
	c.giveBack(h)
}

// forget takes a holding out of the table: etcd knows nothing of it any more. mu is held.
func (c *Claims) forget(h *holding) {
	if c.held[h.key] == h {
		delete(c.held, h.key)
	}
	h.note()
}

// Take is of proxy.Claims.
func (c *Claims) Take(ctx context.Context, w proxy.Want) (proxy.Claim, error) {
	w.Key = nameOfKey(w.Key)
	for {
		c.mu.Lock()
		t, changed := c.tenure, c.changed
		if t == nil || !t.gate.Open() {
			c.mu.Unlock()
			u, err := c.outage(ctx, w, changed)
			if u != nil || err != nil {
				return u, err
			}
			continue
		}
		h := c.held[w.Key]
		if h == nil {
			h = &holding{key: w.Key, tenure: t, step: make(chan struct{}), users: map[*user]struct{}{}}
			c.held[w.Key] = h
			c.mu.Unlock()
			u, err := c.first(ctx, h, w)
			if u != nil || err != nil {
				return u, err
			}
			continue
		}
		if h.settled && !h.leaving && h.tenure == t && c.suits(h.member, w) {
			u := c.join(h, w)
			c.mu.Unlock()
			return u, nil
		}
		evict := func() {}
		if h.settled {
			evict = c.leave(h)
		}
		step := h.step
		c.mu.Unlock()
		evict()
		select {
		case <-step:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w %s: %w", ErrElsewhere, nameOf(h.member), ctx.Err())
		}
	}
}

// join counts a user in. mu is held.
func (c *Claims) join(h *holding, w proxy.Want) *user {
	if h.linger != nil {
		h.linger.Stop()
		h.linger = nil
	}
	u := &user{claims: c, holding: h, member: h.member, cut: w.Cut}
	h.users[u] = struct{}{}
	c.users++
	return u
}

// suits says whether an account that has sessions on a member may have another one there.
func (c *Claims) suits(m *backend.Member, w proxy.Want) bool {
	_, evacuate := m.Withdrawn()
	return m.Host() == w.Host.Name() && !evacuate && !m.Decided() && !m.Gone()
}

// leave keeps users from joining, and returns what closes those there are. mu is held; what is returned is called without.
func (c *Claims) leave(h *holding) func() {
	if h.leaving || !h.settled {
		h.leaving = true // who is about to settle it sees that, and gives it back
		return func() {}
	}
	h.leaving = true
	list := make([]*user, 0, len(h.users))
	for u := range h.users {
		list = append(list, u)
	}
	c.unused(h)
	return func() {
		for _, u := range list {
			u.close()
		}
	}
}

// first takes the claim for an account that this frontend does not have. Without a user and an error it is to be tried
// again.
func (c *Claims) first(ctx context.Context, h *holding, w proxy.Want) (proxy.Claim, error) {
	bound, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.tenure.ctx, cancel)()
	member, rev, err := c.acquire(bound, h, w)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && (c.tenure != h.tenure || !h.tenure.gate.Open()) {
		err = fmt.Errorf("%w: the lease was lost meanwhile", ErrOutage)
	}
	h.member, h.rev, h.settled = member, rev, true
	h.tenure.doubtful = h.tenure.doubtful || rev == unknownRev
	h.note()
	if err != nil {
		if rev == 0 {
			h.settled, h.leaving = false, true
			c.forget(h)
		} else {
			c.giveBack(h)
		}
		return nil, err
	}
	if h.leaving || h.asked.concerns(member, rev) { // asked for meanwhile
		c.giveBack(h)
		return nil, nil
	}
	return c.join(h, w), nil
}

// outage waits for a lease, or goes without where the operator prefers that. Without a user and an error there is a
// lease by now.
func (c *Claims) outage(ctx context.Context, w proxy.Want, changed chan struct{}) (proxy.Claim, error) {
	if c.cfg.OnOutage == "hash" {
		m, err := w.Choose()
		if err != nil {
			return nil, err
		}
		u := &user{claims: c, member: m, cut: w.Cut}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.changed != changed { // there is a lease by now, and begin has not seen this one
			return nil, nil
		}
		c.loose[u] = struct{}{}
		return u, nil
	}
	c.mu.Lock()
	since := c.since
	c.mu.Unlock()
	timer := time.NewTimer(c.cfg.Timeout - time.Since(since)) // not each of many for itself
	defer timer.Stop()
	select {
	case <-changed:
		return nil, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lastErr != nil {
		return nil, c.lastErr
	}
	return nil, fmt.Errorf("%w: there is no lease", ErrOutage)
}

func nameOf(m *backend.Member) string {
	if m == nil {
		return ""
	}
	return m.String()
}
