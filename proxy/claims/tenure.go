package claims

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"mailmux/proxy/splice"
)

// tenure is one lease, from its grant to its fence.
type tenure struct {
	client *connection
	id     clientv3.LeaseID
	name   string // of the lease, in keys
	since  time.Time
	gate   *splice.Gate
	ctx    context.Context // ends with the tenure
	cancel context.CancelCauseFunc
	wake   chan struct{} // the report is due
	loaded chan struct{} // told once for each watch that has its first state

	doubtful bool // a request to take a claim was not answered: it may be carried out yet. Claims.mu is held
}

// run holds one lease after the other, until Close.
func (c *Claims) run() {
	told := "" // the last warning: it is not said again as long as nothing changes
	for wait := firstWait; c.ctx.Err() == nil; {
		began, lost := time.Now(), c.fenced.Load()
		err := c.serve()
		if refused := c.cfg.refusal(err); refused != nil {
			err = refused
			c.hangUp()
		} else if c.ctx.Err() == nil && c.fenced.Load() == lost { // else there was a lease: the next try has no time to lose
			err = c.explain(err)
		}
		c.mu.Lock()
		if err != nil {
			c.lastErr = err
		}
		c.mu.Unlock()
		if c.ctx.Err() != nil {
			return
		}
		if time.Since(began) > c.cfg.Lease {
			wait, told = firstWait, ""
		}
		if text := fmt.Sprint(err); text != told {
			told = text
			c.Log.Warn("no claims: new sessions of claimed hosts are refused, or go by hash", "error", err)
		}
		if pause(c.ctx, wait) != nil {
			return
		}
		wait = min(wait*2, time.Second)
	}
}

// serve gets a lease and keeps it until it may be lost, or Close.
func (c *Claims) serve() error {
	client, err := c.dial()
	if err != nil {
		return err
	}
	t, err := c.grant(client)
	if err != nil {
		return err
	}
	var parts sync.WaitGroup
	lost := make(chan error, 1)
	parts.Go(func() { lost <- c.renew(t) })
	c.wishing.Lock()
	c.wishRev = 0 // what is there now is news, whatever it was before
	c.wishing.Unlock()
	watches := c.watches(t)
	for _, w := range watches {
		parts.Go(func() { c.follow(t, w) })
	}
	for range watches {
		select {
		case <-t.loaded:
			continue
		case <-t.ctx.Done():
		}
		break
	}
	if c.awaitQuiet(t) == nil {
		c.begin(t)
		parts.Go(func() { c.report(t) })
		// Leaving an election waits for etcd, however long: nobody waits for that but Close, which ends the client first.
		c.elections.Go(func() { c.campaign(t) })
	}
	err = <-lost
	c.fence(t)
	parts.Wait()
	c.revoke(t)
	return err
}

// awaitQuiet waits, behind a loss of etcd's memory, until nobody can be at work by what etcd has forgotten.
func (c *Claims) awaitQuiet(t *tenure) error {
	for t.ctx.Err() == nil {
		c.mu.Lock()
		left := c.quiet - splice.Clock()
		c.mu.Unlock()
		if left <= 0 {
			return nil
		}
		_ = pause(t.ctx, left) // the loop asks
	}
	return t.ctx.Err()
}

// grant gets a lease, and says under it that this frontend lives.
func (c *Claims) grant(client *connection) (*tenure, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.Timeout)
	defer cancel()
	sent := splice.Clock()
	r, err := client.Grant(ctx, int64(c.cfg.Lease/time.Second))
	if err != nil {
		return nil, fmt.Errorf("%w: get a lease: %w", ErrOutage, err)
	}
	t := &tenure{client: client, id: r.ID, name: strconv.FormatInt(int64(r.ID), 16), since: time.Now().UTC().Truncate(time.Millisecond), gate: &splice.Gate{},
		wake: make(chan struct{}, 1)}
	t.loaded = make(chan struct{}, len(c.watches(t)))
	t.gate.Extend(c.deadline(sent, r.TTL))
	t.ctx, t.cancel = context.WithCancelCause(c.ctx)
	if err := c.say(t, frontendValue{Name: c.name, Since: t.since}); err != nil {
		t.cancel(err)
		c.revoke(t)
		return nil, err
	}
	return t, nil
}

// deadline is when the sessions under a lease have to be closed, by the time when its last answered renewal was sent.
func (c *Claims) deadline(sent time.Duration, ttl int64) time.Duration {
	return sent + min(time.Duration(ttl)*time.Second, c.cfg.Lease) - c.cfg.Margin
}

// begin lets sessions take claims under a lease. Those that went without, while there was none, are closed: they come
// again with a claim.
func (c *Claims) begin(t *tenure) {
	c.mu.Lock()
	c.lastErr = nil
	c.hold(t)
	loose := make([]*user, 0, len(c.loose))
	for u := range c.loose {
		loose = append(loose, u)
	}
	c.mu.Unlock()
	if c.guard != nil {
		c.guard.arm(t.gate.Until())
	}
	closeAll(loose)
	c.Log.Info("claims: lease held", "lease", t.name)
}

// hold says under which lease claims are taken; nil: there is none. mu is held.
func (c *Claims) hold(t *tenure) {
	c.tenure, c.since = t, time.Now()
	close(c.changed)
	c.changed = make(chan struct{})
}

// renew keeps the lease, and returns when it may be lost: etcd says that it is gone, or its deadline is there.
func (c *Claims) renew(t *tenure) error {
	every := c.cfg.Lease / 5
	answers := make(chan error, 1)
	tick := time.NewTicker(every)
	defer tick.Stop()
	busy := false
	var last error
	for {
		left := t.gate.Until() - splice.Clock()
		deadline := time.NewTimer(left)
		select {
		case <-t.ctx.Done():
			deadline.Stop()
			return context.Cause(t.ctx)
		case <-deadline.C:
			if t.gate.Open() {
				continue
			}
			err := fmt.Errorf("%w: no renewal was answered for %s", ErrOutage, c.cfg.Lease-c.cfg.Margin)
			if last != nil {
				err = fmt.Errorf("%w: %w", err, last)
			}
			return err
		case <-tick.C:
			if !busy {
				busy = true
				c.work.Go(func() { c.renewOnce(t, every, answers) }) // answers has room
			}
		case err := <-answers:
			busy, last = false, err
			if errors.Is(err, rpctypes.ErrLeaseNotFound) {
				return fmt.Errorf("%w: the lease is gone: %w", ErrOutage, err)
			}
		}
		deadline.Stop()
	}
}

// renewOnce sends one renewal. What counts is when it was sent, not when it was answered.
func (c *Claims) renewOnce(t *tenure, bound time.Duration, answers chan<- error) {
	ctx, cancel := context.WithTimeout(t.ctx, bound)
	defer cancel()
	began, sent := time.Now(), splice.Clock()
	r, err := t.client.KeepAliveOnce(ctx, t.id)
	if err == nil {
		err = c.confirm(ctx, r.RaftTerm)
	}
	c.Metrics.ClaimTransaction("renew", err == nil, time.Since(began))
	if err == nil {
		until := c.deadline(sent, r.TTL)
		t.gate.Extend(until)
		if c.guard != nil {
			c.guard.arm(t.gate.Until())
		}
	}
	answers <- err
}

// confirm says whether a renewal counts that a server answered in a term of raft. The leader renews alone: one that was
// stopped, and goes on, answers what waits for it before it hears that it is deposed. A read that asks a majority, and finds
// the same term still, proves that it was not; etcd fills in the term of its answer before it renews.
func (c *Claims) confirm(ctx context.Context, term uint64) error {
	r, err := c.get(ctx, c.keys.verdict(), clientv3.WithCountOnly())
	if err == nil && r.Header.RaftTerm != term {
		err = fmt.Errorf("%w: its leader has changed since it renewed the lease", ErrOutage)
	}
	return err
}

// fence ends a tenure: no byte of its sessions moves any more, then they are closed. It returns when they are.
func (c *Claims) fence(t *tenure) {
	late := !t.gate.Open()
	t.gate.Close()
	t.cancel(nil)
	c.mu.Lock()
	if c.tenure == t {
		c.hold(nil)
	}
	var list []*user
	for _, h := range c.held {
		if h.tenure == t {
			for u := range h.users {
				list = append(list, u)
			}
			c.leave(h) // its function would close them one after the other
		}
	}
	c.mu.Unlock()
	began := time.Now()
	closeAll(list)
	if c.guard != nil {
		c.guard.disarm()
	}
	if c.ctx.Err() == nil {
		c.fenced.Add(1)
		c.Log.Warn("lease lost: the sessions of claimed hosts were closed", "lease", t.name, "sessions", len(list), "late", late,
			"took", time.Since(began).Round(time.Millisecond))
	}
}

// closeAll cuts connections on all processors.
func closeAll(list []*user) {
	var workers sync.WaitGroup
	n := runtime.GOMAXPROCS(0)
	for k := range n {
		workers.Go(func() {
			for i := k; i < len(list); i += n {
				list[i].close()
			}
		})
	}
	workers.Wait()
}

// revoke gives a lease back, so that others need not wait for its end. It may fail: the end comes by itself.
func (c *Claims) revoke(t *tenure) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := t.client.Revoke(ctx, t.id); err != nil {
		c.Log.Debug("claims: give the lease back", "lease", t.name, "error", err)
	}
}

// say writes what others know of this frontend.
func (c *Claims) say(t *tenure, v frontendValue) error {
	_, err := c.commit(t.ctx, "other", func(txn clientv3.Txn) clientv3.Txn {
		return txn.Then(clientv3.OpPut(c.keys.frontend(t.name), encode(v), clientv3.WithLease(t.id)))
	})
	return err
}
