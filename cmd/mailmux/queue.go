package main

import (
	"context"
	"fmt"
	"log/slog"
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

// openQueue opens the spool, if there is one, and lets the service smtp use it.
func (f *frontend) openQueue(cfg *conf.Config) error {
	if !cfg.Spool.Enabled() {
		return nil
	}
	q := &deliver.Queued{Deliverer: f.delivers, Server: func() deliver.QueueServer { return f.engine },
		Hostname: func() string { return f.current.Load().cfg.Hostname }}
	s, err := spool.Open(cfg.Spool, spool.Services{Router: q, Deliverer: q, Log: f.log, Hostname: cfg.Hostname})
	if err != nil {
		return fmt.Errorf("spool.dir: %w", err)
	}
	f.queue = &queue{Spool: s, failed: func(err error) { f.log.Error("the queue has stopped; restart mailmux", "error", err) }}
	f.queue.ctx, f.queue.stop = context.WithCancel(context.Background())
	f.handlers["smtp"] = smtp.New(f.delivers, s)
	return nil
}

// start begins to deliver what waits.
func (q *queue) start() { q.running.Go(q.run) }

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

// wake delivers at once what waits for a host one of whose members is back.
func (f *frontend) wake(e backend.Event) {
	if f.queue != nil && e.Change == backend.CameUp {
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
