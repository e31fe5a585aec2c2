package deliver

import (
	"context"
	"errors"
	"strings"
	"time"

	"mailmux/directory"
	"mailmux/proxy"
	"mailmux/proxy/backend"
	"mailmux/proxy/envelope"
	"mailmux/proxy/smtpwire"
	"mailmux/proxy/spool"
	"mailmux/proxy/xclient"
)

// Queued delivers what waits in the queue: it is the spool's router and deliverer. It is used from many goroutines.
type Queued struct {
	Deliverer *Deliverer
	// Server is asked at each attempt, because the queue is made before the engine.
	Server func() QueueServer
	// Hostname is what this frontend calls itself.
	Hostname func() string
	// Smarthosts take what may leave for other sites; nil for none.
	Smarthosts *Smarthosts
}

// QueueServer is what the engine does for the queue (*proxy.Server is one).
type QueueServer interface {
	Recipient(ctx context.Context, address string, fresh bool) (proxy.Route, error)
	// Normalise is the normalised name of a recipient's address.
	Normalise(address string) (directory.Name, error)
	Member(r proxy.Route, service string, tried *backend.Tried) (*backend.Member, error)
	// MemberNamed finds a member again, nil if it has left the table.
	MemberNamed(host, member string) *backend.Member
}

var (
	_ spool.Router    = (*Queued)(nil)
	_ spool.Deliverer = (*Queued)(nil)
)

// Route looks a recipient up past the cache, so that a queued message follows its account. When the directory is away,
// what is remembered has to do.
func (q *Queued) Route(ctx context.Context, to *spool.Recipient) (spool.Target, error) {
	server, address := q.Server(), to.Address
	route, err := server.Recipient(ctx, address, true)
	if err != nil && errors.Is(err, directory.ErrUnavailable) {
		route, err = server.Recipient(ctx, address, false)
	}
	if err != nil {
		switch proxy.CauseOf(err) {
		case proxy.CauseAuth:
			return q.abroad(to)
		case proxy.CauseDisabled:
			return spool.Target{}, &spool.PermanentError{Status: "5.2.1", Reply: "550 5.2.1 Mailbox is disabled"}
		}
		return spool.Target{}, err
	}
	host := route.Host.Name()
	m, err := server.Member(route, q.Deliverer.config().ProtocolOf(host), nil)
	defer route.Leave() // Deliver takes it again
	if err != nil {
		return spool.Target{Host: host}, err
	}
	return spool.Target{Host: host, Member: m.Name()}, nil
}

// Deliver hands a queued message to a member, or to a smarthost, and gives an outcome for each recipient.
func (q *Queued) Deliver(ctx context.Context, to spool.Target, m *spool.Message, rcpts []spool.Recipient) []spool.Outcome {
	e := &m.Envelope
	from := &From{Hostname: q.Hostname(), Identity: proxy.Identity{Session: m.ID, TTL: xclient.LMTPTTL},
		Sender: envelope.Sender{Address: e.From, Size: m.Size, EightBit: e.Body == "8BITMIME", UTF8: e.SMTPUTF8, Return: e.Ret, EnvID: e.EnvID}}
	if to.Host == Outgoing && q.Smarthosts.Any() {
		return q.send(ctx, to, m, rcpts, from)
	}
	outcomes := make([]spool.Outcome, len(rcpts))
	member := q.Server().MemberNamed(to.Host, to.Member)
	if member == nil {
		return settled(outcomes, spool.Outcome{State: spool.Waiting, Reply: "the member has left the host table"})
	}
	protocol := q.Deliverer.config().ProtocolOf(to.Host)
	tx, err := q.Deliverer.Begin(ctx, member, protocol, from)
	var reply *proxy.Reply
	switch {
	case errors.As(err, &reply):
		return settled(outcomes, outcome(Parse(reply.Text)))
	case err != nil:
		return settled(outcomes, away(err))
	}
	return q.transact(ctx, tx, m, rcpts, protocol, outcomes)
}

// transact names the recipients and sends the message.
func (q *Queued) transact(ctx context.Context, tx *Transaction, m *spool.Message, rcpts []spool.Recipient, protocol string, outcomes []spool.Outcome) []spool.Outcome {
	taken := map[string][]int{} // those with one address get one copy
	var order []string
	for i, r := range rcpts {
		address, route, err := q.enter(ctx, tx, r, protocol)
		if err != nil {
			route.Leave()
			outcomes[i] = spool.Outcome{State: spool.Waiting, Reply: err.Error()}
			continue
		}
		if len(taken[address]) > 0 {
			route.Leave()
			taken[address] = append(taken[address], i)
			continue
		}
		kind, original, _ := strings.Cut(r.ORcpt, ";")
		reply, err := tx.Rcpt(envelope.Recipient{Address: r.Address, Notify: r.Notify, OriginalType: kind, Original: original}, address)
		if err != nil {
			tx.failed(err)
			return settled(outcomes, away(err))
		}
		if outcomes[i] = outcome(reply); reply.Class() == 2 {
			taken[address] = append(taken[address], i)
			order = append(order, address)
		}
	}
	if len(order) == 0 {
		tx.Reset()
		return outcomes
	}
	dsn := tx.leg.has("DSN")
	replies, sent, err := tx.Data(m.Body())
	for k, address := range order {
		result := away(err)
		switch {
		case err == nil:
			result = outcome(replies[min(k, len(replies)-1)])
			result.Action = action(protocol, dsn)
		case sent:
			result = outcome(unanswered)
			result.Reply = unanswered.String() + ": " + err.Error()
		}
		for _, i := range taken[address] {
			outcomes[i] = result
		}
	}
	return outcomes
}

// enter says how the member knows a recipient, whose account has to be there still. The lookup is that of Route, a moment
// ago.
func (q *Queued) enter(ctx context.Context, tx *Transaction, r spool.Recipient, protocol string) (string, proxy.Route, error) {
	if tx.leg.member.Host() == Outgoing {
		return r.Address, proxy.Route{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	route, err := q.Server().Recipient(ctx, r.Address, false)
	if err != nil || !route.Claimed() {
		return Address(route, protocol), route, err
	}
	m, err := q.Server().Member(route, protocol, nil)
	if err == nil && m != tx.leg.member {
		err = errors.New("the account has gone to another member")
	}
	if err == nil {
		err = tx.Enter(route)
	}
	return Address(route, protocol), route, err
}

// outcome is a member's reply as the queue takes it.
func outcome(reply smtpwire.Reply) spool.Outcome {
	o := spool.Outcome{State: spool.Waiting, Reply: reply.String(), Status: reply.Enhanced()}
	switch reply.Class() {
	case 2:
		o.State = spool.Delivered
	case 5:
		o.State = spool.Failed
	}
	return o
}

// away is the outcome for a member that could not be reached. nil is none.
func away(err error) spool.Outcome {
	if err == nil {
		return spool.Outcome{}
	}
	return spool.Outcome{State: spool.Waiting, Reply: err.Error(), Status: "4.4.1", Unreachable: true}
}

// action is what a notification of success says: a member that knows DSN sees to it itself (RFC 3461 section 5.2.3).
func action(protocol string, dsn bool) spool.Action {
	switch {
	case dsn:
		return spool.ActionNone
	case protocol == "lmtp":
		return spool.ActionDelivered
	}
	return spool.ActionRelayed
}

// settled gives the same outcome to all that have none.
func settled(outcomes []spool.Outcome, o spool.Outcome) []spool.Outcome {
	for i := range outcomes {
		if outcomes[i].State == "" || outcomes[i].State == spool.Delivered {
			outcomes[i] = o
		}
	}
	return outcomes
}
