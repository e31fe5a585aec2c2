package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"

	"mailmux/cmd/internal/conf"
	"mailmux/proxy/backend"
	"mailmux/proxy/deliver"
	"mailmux/proxy/smtp"
	"mailmux/proxy/spool"
)

// queue is the open spool, and the goroutine that delivers from it.
type queue struct {
	*spool.Spool

	running sync.WaitGroup
	ctx     context.Context
	stop    context.CancelFunc
	failed  func(error)
}

// useQueue lets the services that bring messages use the spool, if there is to be one. It is opened by openQueue: to look
// a configuration over nobody has to have it.
func (f *frontend) useQueue(cfg *conf.Config) error {
	if !cfg.Spool.Enabled() {
		return nil
	}
	var err error
	f.smarthosts, err = deliver.NewSmarthosts(cfg.Outgoing, backend.Options{Logger: f.log,
		Self: func(a netip.AddrPort) bool { return f.engine.Self(a) }}) // which is there when they are dialed
	if err != nil {
		return err
	}
	f.handlers["smtp"] = smtp.New(f.delivers, opened{f})
	f.handlers["outgoing"] = smtp.NewOutgoing(f.delivers, opened{f}, func() []netip.Prefix { return f.current.Load().cfg.Outgoing.Networks })
	return nil
}

// opened is the queue of a frontend that listens.
type opened struct{ *frontend }

// Accept takes a message into the queue.
func (o opened) Accept(ctx context.Context, e *spool.Envelope, body io.Reader) (id string, err error) {
	return o.queue.Accept(ctx, e, body)
}

// openQueue opens the spool, if there is one, and begins to deliver what waits.
func (f *frontend) openQueue(cfg *conf.Config) error {
	if !cfg.Spool.Enabled() {
		return nil
	}
	q := &deliver.Queued{Smarthosts: f.smarthosts, Deliverer: f.delivers, Server: func() deliver.QueueServer { return f.engine },
		Hostname: func() string { return f.current.Load().cfg.Hostname }}
	s, err := spool.Open(cfg.Spool, spool.Services{Router: q, Deliverer: q, Log: f.log, Hostname: cfg.Hostname})
	if err != nil {
		return fmt.Errorf("spool.dir: %w", err)
	}
	f.queue = &queue{Spool: s, failed: func(err error) { f.log.Error("the queue has stopped; restart mailmux", "error", err) }}
	f.queue.ctx, f.queue.stop = context.WithCancel(context.Background())
	f.queue.running.Go(f.queue.run)
	return nil
}

func (q *queue) run() {
	if err := q.Run(q.ctx); err != nil && q.ctx.Err() == nil {
		q.failed(err)
	}
}

// close ends the deliveries that are under way, and gives the spool back. Nobody may be accepting any more.
func (q *queue) close(log *slog.Logger) {
	q.stop()
	q.running.Wait()
	if err := q.Close(); err != nil {
		log.Error("close the queue", "error", err)
	}
}

// wake delivers at once what waits for a host one of whose members is back, by the checks or by the operator.
func (f *frontend) wake(e backend.Event) {
	if f.queue == nil {
		return
	}
	withdrawn, _ := e.Member.Withdrawn()
	if e.Change == backend.CameUp || e.Change == backend.WasWishedOn && !withdrawn {
		f.queue.Wake(e.Member.Host())
	}
}

// follow tries at once what waits for a host that has lost accounts, or for those accounts.
func (q *queue) follow(host string, accounts []string) {
	if host != "" {
		q.Wake(host)
	}
	q.WakeAccount(accounts...)
}
