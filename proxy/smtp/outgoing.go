package smtp

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mailmux/proxy/deliver"
	"mailmux/proxy/envelope"
	"mailmux/proxy/incoming"
	"mailmux/proxy/spool"
)

// NewOutgoing makes a handler for what backends send by themselves: everything goes into q, and from there straight to its
// home, or to a smarthost. Nobody outside of the networks gets as far as a greeting; they are asked for at each session.
func NewOutgoing(d *deliver.Deliverer, q Queue, networks func() []netip.Prefix) *incoming.Handler {
	return incoming.New(d, incoming.Dialect{
		Abroad:   true,
		Notifies: true,
		Begin:    func(s *incoming.Session) incoming.Receiver { return &outbound{gathered{session: s, queue: q}} },
		Welcome: func(s *incoming.Session) string {
			client := s.ClientAddr().Addr().Unmap().WithZone("")
			if slices.ContainsFunc(networks(), func(p netip.Prefix) bool { return p.Contains(client) }) {
				return ""
			}
			return "554 5.7.1 Mail for other sites is taken from this site's own servers alone"
		},
	})
}

// outbound queues every message.
type outbound struct{ gathered }

// Message queues the message before it answers.
func (r *outbound) Message(ctx context.Context, text io.Reader, body *envelope.Body) error {
	if body == nil { // to its end: it may be refused there
		body = r.session.Deliverer.NewBody()
		defer body.Close()
		if err := incoming.Take(text, body); err != nil {
			return err
		}
	}
	header := r.session.Received(time.Now())
	id, err := r.queue.Accept(ctx, r.envelope(body), io.MultiReader(strings.NewReader(header), body.Open()))
	r.session.Answer(queued(r.session, id, err))
	return nil
}

// envelope is what the queue is to know.
func (r *outbound) envelope(body *envelope.Body) *spool.Envelope {
	s := r.session
	e := &spool.Envelope{From: s.Sender.Address, SMTPUTF8: s.Sender.UTF8, Ret: s.Sender.Return, EnvID: s.Sender.EnvID,
		Client: fmt.Sprintf("%s %s", s.ClientAddr().Addr(), s.Identity().Helo)}
	if s.Sender.EightBit && body.EightBit() {
		e.Body = "8BITMIME"
	}
	for _, job := range r.jobs {
		to := spool.Recipient{Address: job.Address, Host: deliver.Outgoing, Notify: spool.Notify(job.Notify), Relay: true}
		if job.Route.Host != nil {
			to = spool.Recipient{Address: job.Route.Address(), Account: job.Route.Account.Login, Host: job.Route.Host.Name(), Notify: to.Notify}
		}
		to.ORcpt = original(job, to.Address)
		e.To = append(e.To, to)
	}
	return e
}
