package smtp

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"mailmux/proxy"
	"mailmux/proxy/backend"
	"mailmux/proxy/deliver"
	"mailmux/proxy/envelope"
	"mailmux/proxy/incoming"
	"mailmux/proxy/smtpwire"
)

// New makes a handler that delivers by d, and queues in q what cannot be delivered at once. A nil q queues nothing.
func New(d *deliver.Deliverer, q Queue) *incoming.Handler {
	r := &rates{}
	begin := func(s *incoming.Session) incoming.Receiver { return &stream{session: s} }
	if q != nil {
		begin = func(s *incoming.Session) incoming.Receiver { return &store{gathered{session: s, queue: q}} }
	}
	return incoming.New(d, incoming.Dialect{Begin: begin, Admit: r.admit, Notifies: q != nil})
}

// stream passes a transaction on to one member while it comes in.
type stream struct {
	session *incoming.Session
	tx      *deliver.Transaction
	member  *backend.Member
	proto   string
	jobs    []deliver.Job // those that the member has taken
	lost    bool          // the member failed behind some of them: they would not get the message of another transaction
	began   time.Time
}

var (
	elsewhere   = smtpwire.Reply{Code: 452, Text: "4.5.3 That recipient is for another transaction"}
	unreachable = smtpwire.Reply{Code: 451, Text: "4.4.1 The recipient's server is away, try again later"}
	unanswered  = smtpwire.Reply{Code: 451, Text: "4.4.2 The recipient's server went away without an answer"}
)

// Recipient passes RCPT on, to the member of the transaction's first one.
func (r *stream) Recipient(ctx context.Context, job deliver.Job) smtpwire.Reply {
	if r.lost {
		job.Route.Leave()
		return unreachable
	}
	reply, why := r.take(ctx, job)
	if reply.Class() == 2 || reply == elsewhere {
		return reply
	}
	if fresh, moved := r.moved(ctx, job); moved {
		if len(r.jobs) > 0 {
			return elsewhere
		}
		r.Reset()
		job.Route = fresh
		reply, why = r.take(ctx, job)
	}
	if reply.Class() != 2 {
		r.report(job, reply, why, 0)
	}
	return reply
}

// take gives one recipient to the member. why is what went wrong, for the log, where the reply is ours.
func (r *stream) take(ctx context.Context, job deliver.Job) (reply smtpwire.Reply, why string) {
	if r.tx == nil {
		if reply, err := r.open(ctx, job); err != nil {
			job.Route.Leave()
			return reply, err.Error()
		}
	} else {
		m, err := r.session.Server().Member(job.Route, r.proto, nil)
		if err != nil || m != r.member {
			job.Route.Leave()
			return elsewhere, ""
		}
	}
	address := deliver.Address(job.Route, r.proto)
	for _, other := range r.jobs {
		if deliver.Address(other.Route, r.proto) == address { // one copy, one answer
			job.Route.Leave()
			return smtpwire.Reply{Code: 250, Text: "2.1.5 OK"}, ""
		}
	}
	r.tx.Extend()
	if err := r.tx.Enter(job.Route); err != nil {
		if len(r.jobs) > 0 {
			return elsewhere, err.Error()
		}
		r.Reset()
		return unreachable, err.Error()
	}
	reply, err := r.tx.Rcpt(job.Recipient, address)
	if err != nil {
		r.tx.Fail(err)
		r.lost = len(r.jobs) > 0
		r.tx, r.jobs = nil, nil
		return unreachable, err.Error()
	}
	if reply.Class() == 2 {
		r.jobs = append(r.jobs, job)
	}
	return reply, ""
}

// moved looks the account of a refused recipient up again, if what is known of it was remembered.
func (r *stream) moved(ctx context.Context, job deliver.Job) (proxy.Route, bool) {
	if !job.Route.Account.Cached {
		return proxy.Route{}, false
	}
	fresh, err := r.session.Server().Recipient(ctx, job.Route.Address(), true)
	return fresh, err == nil && (fresh.Host != job.Route.Host || fresh.Account.Login != job.Route.Account.Login)
}

// open begins the transaction at the first member of the host that can be reached. The error is for the log.
func (r *stream) open(ctx context.Context, job deliver.Job) (smtpwire.Reply, error) {
	r.proto = r.session.Deliverer.Config().ProtocolOf(job.Route.Host.Name())
	r.began = time.Now()
	from := r.session.From()
	var tried backend.Tried
	var last error
	for {
		m, err := r.session.Server().Member(job.Route, r.proto, &tried)
		if err != nil {
			return deliver.Unreached(errors.Join(last, err)), errors.Join(last, err)
		}
		tx, err := r.session.Deliverer.Begin(ctx, m, r.proto, &from)
		var reply *proxy.Reply
		switch {
		case err == nil:
			r.tx, r.member = tx, m
			return smtpwire.Reply{}, nil
		case errors.As(err, &reply):
			return deliver.Parse(reply.Text), err
		case ctx.Err() != nil, errors.Is(err, backend.ErrLoop):
			return deliver.Unreached(err), err
		}
		last = err
		tried.Add(m, err)
	}
}

// Message passes the text on while it comes in, and the member's answer back.
func (r *stream) Message(_ context.Context, text io.Reader, body *envelope.Body) error {
	if r.tx == nil { // the member failed behind the last recipient that it took
		if _, err := io.Copy(io.Discard, text); err != nil {
			return err
		}
		r.session.Answer(unreachable)
		return nil
	}
	counted := &counter{reader: text, tx: r.tx}
	tx := r.tx
	r.tx = nil
	replies, sent, err := tx.Data(io.MultiReader(strings.NewReader(r.session.Received(time.Now())), counted))
	if counted.err == nil { // what the member did not want is read, too: a fault of the message is its one answer
		_, counted.err = io.Copy(io.Discard, text)
	}
	var answer smtpwire.Reply
	why := ""
	switch {
	case counted.err != nil: // the client's, or a fault of the message
		return counted.err
	case err != nil && sent:
		answer, why = unanswered, err.Error()
	case err != nil:
		answer, why = unreachable, err.Error()
	default:
		answer = worst(replies)
	}
	for i, job := range r.jobs {
		reply := answer
		if len(replies) > 0 {
			reply = replies[min(i, len(replies)-1)]
		}
		r.report(job, reply, why, counted.size)
	}
	r.session.Answer(answer)
	return nil
}

// counter counts the text, gives the member time with each block, and keeps the error that the client's side ended with.
type counter struct {
	reader io.Reader
	tx     *deliver.Transaction
	size   int64
	err    error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.reader.Read(p)
	c.size += int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	c.tx.Extend()
	return n, err
}

// worst is the one answer for several: a temporary refusal before a permanent one before success.
func worst(replies []smtpwire.Reply) smtpwire.Reply {
	answer := replies[0]
	rank := map[int]int{2: 0, 5: 1, 4: 2}
	for _, reply := range replies[1:] {
		if rank[reply.Class()] > rank[answer.Class()] {
			answer = reply
		}
	}
	return answer
}

// Reset ends the transaction at the member.
func (r *stream) Reset() {
	if r.tx != nil {
		r.tx.Reset()
	}
	r.tx, r.member, r.jobs, r.lost = nil, nil, nil, false
}

// report takes down how it went for one recipient.
func (r *stream) report(job deliver.Job, reply smtpwire.Reply, why string, size int64) {
	s := r.session
	d := proxy.Delivery{ID: s.MessageID(), Service: s.Service(), Client: s.ClientAddr(), Sender: s.Sender.Address, Recipient: job.Recipient.Address,
		Route: job.Route, Protocol: r.proto, Size: size, Took: time.Since(r.began), Outcome: deliver.Outcome(reply), Reply: why}
	if why == "" {
		d.Reply = reply.String()
	}
	if r.member != nil {
		d.Member = r.member.Name()
	}
	s.Server().Delivered(d)
}
