package smtp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"mailmux/proxy/deliver"
	"mailmux/proxy/envelope"
	"mailmux/proxy/incoming"
	"mailmux/proxy/smtpwire"
	"mailmux/proxy/spool"
)

// Queue keeps messages that cannot be delivered at once (*spool.Spool is one). Accept returns nil when the message is safe.
// It may be called from many goroutines.
type Queue interface {
	Accept(ctx context.Context, e *spool.Envelope, body io.Reader) (id string, err error)
}

// gathered is a transaction whose recipients are all taken, since there is a queue.
type gathered struct {
	session *incoming.Session
	queue   Queue
	jobs    []deliver.Job
}

// Recipient takes every recipient.
func (g *gathered) Recipient(_ context.Context, job deliver.Job) smtpwire.Reply {
	g.jobs = append(g.jobs, job)
	return smtpwire.Reply{Code: 250, Text: "2.1.5 OK"}
}

// Reset forgets the recipients.
func (g *gathered) Reset() { g.jobs = nil }

// original is the recipient as its sender knows it (RFC 3461 section 4.2), "" where that is the address.
func original(job deliver.Job, address string) string {
	switch {
	case job.Original != "":
		return job.OriginalType + ";" + job.Original
	case job.Recipient.Address != address:
		return "rfc822;" + job.Recipient.Address
	}
	return ""
}

// store takes a message in for all recipients, delivers it where that is possible at once, and queues the rest.
type store struct{ gathered }

// Message delivers what can be delivered, and queues the rest before it answers.
func (r *store) Message(ctx context.Context, text io.Reader, body *envelope.Body) error {
	if body == nil {
		body = r.session.Deliverer.NewBody()
		defer body.Close()
		if err := incoming.Take(text, body); err != nil {
			return err
		}
	}
	m := &deliver.Message{From: r.session.From(), ID: r.session.MessageID(), Service: r.session.Service(), Body: body,
		Header: r.session.Received(time.Now())}
	r.session.Answer(r.settle(ctx, m, r.deliver(ctx, m)))
	return nil
}

// deliver gives the members' answers. Those who are to be told of the success have none yet: the queue delivers to them, at
// once, and tells them where their member does not (RFC 3461 section 5.2.2).
func (r *store) deliver(ctx context.Context, m *deliver.Message) []smtpwire.Reply {
	var jobs []deliver.Job
	var numbers []int
	for i, job := range r.jobs {
		if !slices.Contains(job.Notify, spool.NotifySuccess) {
			jobs, numbers = append(jobs, job), append(numbers, i)
		}
	}
	results := r.session.Deliverer.Deliver(ctx, r.session.Server(), m, jobs)
	defer results.Close()
	replies := make([]smtpwire.Reply, len(r.jobs))
	for i, n := range numbers {
		replies[n] = results.Wait(i)
	}
	return replies
}

// settle finds the one answer: the members' own where all say the same, and else what the queue says. What has no answer yet
// is for the queue.
func (r *store) settle(ctx context.Context, m *deliver.Message, replies []smtpwire.Reply) smtpwire.Reply {
	var rest []int
	deferred := false
	for i, reply := range replies {
		if reply.Class() != 2 {
			rest = append(rest, i)
			deferred = deferred || reply.Class() != 5
		}
	}
	switch {
	case len(rest) == 0:
		return replies[0]
	case len(rest) == len(replies) && !deferred:
		return replies[0]
	}
	id, err := r.queue.Accept(ctx, r.envelope(m, rest, replies), io.MultiReader(strings.NewReader(m.Header), m.Body.Open()))
	return queued(r.session, id, err)
}

// queued is the answer to a message by what the queue says.
func queued(s *incoming.Session, id string, err error) smtpwire.Reply {
	switch {
	case errors.Is(err, spool.ErrEnvelope):
		return smtpwire.Reply{Code: 554, Text: "5.6.0 The message cannot be queued"}
	case errors.Is(err, spool.ErrFull):
		return smtpwire.Reply{Code: 452, Text: "4.3.1 Insufficient storage, try again later"}
	case err != nil:
		s.Server().Remark("a message could not be queued: its sender has to try again", err)
		return smtpwire.Reply{Code: 451, Text: "4.3.0 Temporary failure, try again later"}
	}
	return smtpwire.Reply{Code: 250, Text: "2.0.0 Queued as " + id}
}

// envelope is what the queue is to know. Those that were refused for good are among the rest only beside others: the queue
// asks their member once more, and tells the sender.
func (r *store) envelope(m *deliver.Message, rest []int, replies []smtpwire.Reply) *spool.Envelope {
	e := &spool.Envelope{From: m.Address, SMTPUTF8: m.UTF8, Ret: m.Return, EnvID: m.EnvID, Tried: true,
		Client: fmt.Sprintf("%s %s", m.Identity.Client.Addr(), m.Identity.Helo)}
	if m.EightBit && m.Body.EightBit() {
		e.Body = "8BITMIME"
	}
	for _, i := range rest {
		job := r.jobs[i]
		to := spool.Recipient{Address: job.Route.Address(), Account: job.Route.Account.Login, Host: job.Route.Host.Name(),
			Notify: spool.Notify(job.Notify)}
		to.ORcpt = original(job, to.Address)
		e.To = append(e.To, to)
		e.Tried = e.Tried && replies[i].Class() == 4
	}
	return e
}
