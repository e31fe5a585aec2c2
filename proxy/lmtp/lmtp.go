// Package lmtp takes messages in by LMTP (RFC 2033), from an MTA in front, and delivers each recipient's copy to the member
// that holds the account, while the MTA waits. Each recipient has its own reply, which is its member's own; so nothing is
// accepted here that is not safe already, and what could not be delivered stays in the MTA's queue.
//
//	LHLO → MAIL → RCPT …            each looked up: 550 5.1.1 when nobody has the address, 451 when the directory is away
//	DATA or BDAT                    in memory up to a bound, then in a file without a name
//	  → a group for each member     all at the same time, each with its own deadline (package deliver)
//	  → one reply for each RCPT     in order; those known are sent while others are waited for
//
// What the conversation has in common with SMTP is in package incoming.
package lmtp

import (
	"context"
	"io"
	"time"

	"mailmux/proxy/deliver"
	"mailmux/proxy/envelope"
	"mailmux/proxy/incoming"
	"mailmux/proxy/smtpwire"
)

// New makes a handler that delivers by d.
func New(d *deliver.Deliverer) *incoming.Handler {
	return incoming.New(d, incoming.Dialect{LMTP: true, Begin: begin})
}

func begin(s *incoming.Session) incoming.Receiver { return &receiver{session: s} }

// receiver gathers a transaction's recipients and delivers to all of them.
type receiver struct {
	session *incoming.Session
	jobs    []deliver.Job
}

// Recipient takes every recipient that has a home.
func (r *receiver) Recipient(_ context.Context, job deliver.Job) smtpwire.Reply {
	r.jobs = append(r.jobs, job)
	return smtpwire.Reply{Code: 250, Text: "2.1.5 OK"}
}

// Message delivers to all recipients, and answers in their order.
func (r *receiver) Message(ctx context.Context, text io.Reader, body *envelope.Body) error {
	if body == nil {
		body = r.session.Deliverer.NewBody()
		defer body.Close()
		if err := incoming.Take(text, body); err != nil {
			return err
		}
	}
	m := &deliver.Message{From: r.session.From(), ID: r.session.MessageID(), Service: r.session.Service(), Body: body,
		Header: r.session.Received(time.Now())}
	results := r.session.Deliverer.Deliver(ctx, r.session.Server(), m, r.jobs)
	defer results.Close()
	for i := range r.jobs {
		reply, ready := results.Ready(i)
		if !ready {
			// Others need not wait for this one. A client that is gone shows when the next command is read.
			_ = r.session.Client.Flush()
			reply = results.Wait(i)
		}
		r.session.Answer(reply)
	}
	return nil
}

// Reset forgets the recipients.
func (r *receiver) Reset() { r.jobs = nil }
