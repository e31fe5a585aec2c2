package main

import (
	"bufio"
	"context"
	"fmt"
	"sync"
	"time"
)

// held are sessions that are logged in and silent.
type held []*client

// holdOpen logs sessions in and leaves them alone.
func (r *runner) holdOpen(ctx context.Context, t *test, p *peer, port string, over bool, count int) (held, error) {
	open := make(held, count)
	how := &test{port: port, tls: over, clients: t.clients}
	workers := r.clients(how, p)
	errs := make([]error, len(workers))
	var wg sync.WaitGroup
	for i, c := range workers {
		wg.Go(func() {
			for k := i; k < count && errs[i] == nil && ctx.Err() == nil; k += len(workers) {
				c.from[len(c.from)-1] = byte(101 + k%20)
				if errs[i] = c.imapLogin(ctx, how, r.account(t)); errs[i] != nil {
					return
				}
				c.nc.SetDeadline(time.Time{})
				open[k] = &client{nc: c.nc, p: p}
				c.nc = nil
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			open.close()
			return nil, fmt.Errorf("hold %d sessions: %w", count, err)
		}
	}
	return open, ctx.Err()
}

func (h held) close() {
	for _, c := range h {
		if c != nil {
			c.close()
		}
	}
}

// settle is how long a peer has to put its memory in order after the last login.
const settle = 3 * time.Second

// hold measures what idle sessions cost in memory. The peer is a fresh one: what it needs for itself is taken off.
func hold(ctx context.Context, r *runner, t *test, p *peer) (*sample, error) {
	if err := r.restart(p); err != nil {
		return nil, err
	}
	empty, few, err := p.memory(r.w)
	if err != nil {
		return nil, err
	}
	before := slab()
	s := &sample{Ops: int64(t.size)}
	m := r.meter(p)
	sessions, err := r.holdOpen(ctx, t, p, t.port, t.tls, t.size)
	if err != nil {
		return nil, err
	}
	defer func() { sessions.close() }()
	m.stop(s)
	if err := pause(ctx, settle); err != nil {
		return nil, err
	}
	full, many, err := p.memory(r.w)
	if err != nil {
		return nil, err
	}
	n := float64(t.size) * 1024
	s.Value, s.Slab, s.FDs = float64(full-empty)/n, float64(slab()-before)/n, float64(many-few)/float64(t.size)
	if err := sessions.alive(); err != nil {
		return nil, err
	}
	sessions.close()
	sessions = nil
	if err := pause(ctx, settle); err != nil {
		return nil, err
	}
	after, _, err := p.memory(r.w)
	s.Left = float64(after-empty) / n
	return s, err
}

// memory is what a peer holds, without its helper: that is no part of nginx's sessions.
func (p *peer) memory(w *world) (pss int64, descriptors int, err error) {
	helper := w.self
	if p.program == "" {
		helper = "" // gofloor is this program itself
	}
	return p.group.memory(helper)
}

// alive asks some of the sessions for an answer: one that a peer has dropped would cost nothing.
func (h held) alive() error {
	for i := 0; i < len(h); i += 1 + len(h)/50 {
		c := &client{p: h[i].p, r: bufio.NewReader(nil)}
		c.use(h[i].nc)
		c.nc.SetDeadline(time.Now().Add(patience))
		if _, err := c.ask("n NOOP", "n ", "OK"); err != nil {
			return fmt.Errorf("an idle session is gone: %w", err)
		}
	}
	return nil
}

// beside measures logins while many sessions are held.
func beside(ctx context.Context, r *runner, t *test, p *peer) (*sample, error) {
	if err := r.restart(p); err != nil {
		return nil, err
	}
	sessions, err := r.holdOpen(ctx, &test{clients: 16}, p, t.port, false, t.size)
	if err != nil {
		return nil, err
	}
	defer sessions.close()
	return storm(ctx, r, t, p)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
