package deliver

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mailmux/proxy"
	"mailmux/proxy/backend"
	"mailmux/proxy/envelope"
	"mailmux/proxy/smtpwire"
)

// Server is what the engine does for deliveries (*proxy.Server is one). Its methods may be called from many goroutines.
type Server interface {
	// Recipient finds the home of a recipient, past the cache if fresh.
	Recipient(ctx context.Context, address string, fresh bool) (proxy.Route, error)
	// Member chooses the member for a route, without those that were tried.
	Member(r proxy.Route, service string, tried *backend.Tried) (*backend.Member, error)
	// Delivered takes down an attempt.
	Delivered(proxy.Delivery)
}

var _ Server = (*proxy.Server)(nil)

// Deliverer hands messages to members. Its methods may be called from many goroutines.
type Deliverer struct {
	cfg   atomic.Pointer[Config]
	pool  pool
	store atomic.Pointer[envelope.Store]
}

// New makes a deliverer. The caller closes it.
func New(cfg Config) *Deliverer {
	d := &Deliverer{}
	d.Configure(cfg)
	return d
}

// Configure puts another configuration in place for the transactions to come.
func (d *Deliverer) Configure(cfg Config) {
	cfg = cfg.WithDefaults()
	d.cfg.Store(&cfg)
	if s := d.store.Load(); s == nil || s.Dir != cfg.TempDir || s.PerBody != cfg.MemoryPerMessage || s.Total != cfg.Memory {
		d.store.Store(&envelope.Store{Dir: cfg.TempDir, PerBody: cfg.MemoryPerMessage, Total: cfg.Memory})
	}
}

func (d *Deliverer) config() *Config { return d.cfg.Load() }

// Config is the configuration in use, with its defaults. It must not be changed.
func (d *Deliverer) Config() *Config { return d.config() }

// NewBody makes room for a message. The caller closes it.
func (d *Deliverer) NewBody() *envelope.Body { return d.store.Load().NewBody() }

// Close closes the connections that wait for messages.
func (d *Deliverer) Close() { d.pool.close() }

// Job is one recipient of a message, with its route.
type Job struct {
	envelope.Recipient

	Route proxy.Route
}

// Message is what is delivered to all recipients.
type Message struct {
	From

	ID      string // for the delivery event
	Service string
	Body    *envelope.Body
	Header  string // goes in front of the body: the Received field
}

func (m *Message) text() io.Reader {
	return io.MultiReader(strings.NewReader(m.Header), m.Body.Open())
}

// Results are the replies to come, one for each job.
type Results struct {
	replies []chan smtpwire.Reply
	work    sync.WaitGroup
}

// Wait returns the reply for a job. Each job's may be waited for once.
func (r *Results) Wait(i int) smtpwire.Reply { return <-r.replies[i] }

// Ready returns the reply for a job if it is there already. Then it is not to be waited for.
func (r *Results) Ready(i int) (reply smtpwire.Reply, ok bool) {
	select {
	case reply = <-r.replies[i]:
		return reply, true
	default:
		return reply, false
	}
}

// Close returns when no goroutine uses the message any more.
func (r *Results) Close() { r.work.Wait() }

// Deliver begins to deliver a message, to each member at the same time. The message and the jobs must not change, nor the
// body be closed, before Results.Close has returned.
func (d *Deliverer) Deliver(ctx context.Context, server Server, m *Message, jobs []Job) *Results {
	results := &Results{replies: make([]chan smtpwire.Reply, len(jobs))}
	list := make([]*task, len(jobs))
	for i := range jobs {
		results.replies[i] = make(chan smtpwire.Reply, 1)
		list[i] = &task{Job: jobs[i], reply: results.replies[i], began: time.Now()}
	}
	b := &batch{Deliverer: d, server: server, message: m, results: results}
	b.spread(ctx, list, nil)
	return results
}

// batch is one message under way to all its recipients.
type batch struct {
	*Deliverer

	server  Server
	message *Message
	results *Results
}

// task is one recipient under way.
type task struct {
	Job

	reply chan smtpwire.Reply
	began time.Time
	moved bool // looked up again already
}

// group is the tasks of one member.
type group struct {
	member   *backend.Member
	protocol string
	tasks    []*task
}

// attempt is a member that could not be reached, and why.
type attempt struct {
	member *backend.Member
	err    error
}

// spread chooses a member for each task and gives each member's tasks a goroutine. tried are the members that could not be
// reached.
func (b *batch) spread(ctx context.Context, tasks []*task, tried []attempt) {
	var groups []*group
	byMember := map[*backend.Member]*group{}
	for _, t := range tasks {
		protocol := b.config().ProtocolOf(t.Route.Host.Name())
		var without backend.Tried
		for _, a := range tried {
			without.Add(a.member, a.err)
		}
		m, err := b.server.Member(t.Route, protocol, &without)
		if err != nil {
			b.settle(t, nil, protocol, unreachable, err.Error())
			continue
		}
		g := byMember[m]
		if g == nil {
			g = &group{member: m, protocol: protocol}
			byMember[m] = g
			groups = append(groups, g)
		}
		g.tasks = append(g.tasks, t)
	}
	for _, g := range groups {
		b.results.work.Go(func() { b.deliver(ctx, g, tried) })
	}
}

// unreachable is what is said of a member that cannot be reached or makes no sense (design: what a client is told).
var unreachable = smtpwire.Reply{Code: 451, Text: "4.4.1 The recipient's server is away, try again later"}

// loops is what is said of a way that leads back to us: an administrator has to mend it, so it is temporary.
var loops = smtpwire.Reply{Code: 451, Text: "4.3.0 The way to the recipient leads back here, try again later"}

// Unreached is the reply for an error of a member, or of the choice of one.
func Unreached(err error) smtpwire.Reply {
	if errors.Is(err, backend.ErrLoop) || errors.Is(err, proxy.ErrLoop) {
		return loops
	}
	return unreachable
}

// deliver is a group's goroutine.
func (b *batch) deliver(ctx context.Context, g *group, tried []attempt) {
	from := b.message.From
	from.EightBit = from.EightBit && b.message.Body.EightBit() // what is said to be of 8 bits often is not
	tx, err := b.Begin(ctx, g.member, g.protocol, &from)
	var reply *proxy.Reply
	switch {
	case errors.As(err, &reply):
		b.settleAll(g, g.tasks, Parse(reply.Text), "")
		return
	case err != nil:
		b.elsewhere(ctx, g, tried, err)
		return
	}
	taken, twins, err := b.recipients(ctx, g, tx)
	switch {
	case err != nil:
		tx.failed(err)
		b.settleAll(g, append(taken, twins...), unreachable, err.Error())
		return
	case len(taken) == 0:
		tx.Reset()
		return
	}
	replies, sent, err := tx.Data(b.message.text())
	switch {
	case err != nil && sent:
		b.settleAll(g, append(taken, twins...), unanswered, err.Error())
		return
	case err != nil:
		b.settleAll(g, append(taken, twins...), unreachable, err.Error())
		return
	}
	b.answered(ctx, g, taken, twins, replies)
}

// elsewhere tries the other members of the host after one that could not be reached. It is not called once a recipient
// was named to it.
func (b *batch) elsewhere(ctx context.Context, g *group, tried []attempt, err error) {
	next := append(tried[:len(tried):len(tried)], attempt{g.member, err})
	if ctx.Err() != nil || errors.Is(err, backend.ErrLoop) || len(next) >= len(g.tasks[0].Route.Host.Members()) {
		b.settleAll(g, g.tasks, Unreached(err), err.Error())
		return
	}
	b.spread(ctx, g.tasks, next)
}

// recipients names the recipients to the member. Those that it refuses are settled here. twins are recipients with the
// address of another one: they get the same message, and the same answer.
func (b *batch) recipients(ctx context.Context, g *group, tx *Transaction) (taken, twins []*task, err error) {
	first := map[string]bool{}
	for i, t := range g.tasks {
		address := Address(t.Route, g.protocol)
		if given, ok := first[address]; ok && given {
			twins = append(twins, t)
			continue
		}
		if err := tx.Enter(t.Route); err != nil {
			return append(taken, g.tasks[i:]...), twins, err
		}
		reply, err := tx.Rcpt(t.Recipient, address)
		switch {
		case err != nil:
			return append(taken, g.tasks[i:]...), twins, err
		case reply.Class() == 2:
			first[address] = true
			taken = append(taken, t)
		default:
			b.refused(ctx, g, t, reply)
		}
	}
	return taken, twins, nil
}

// Address is the address by which a member knows a recipient: a mailbox server the login name, a mail server the address.
func Address(r proxy.Route, protocol string) string {
	if protocol == "lmtp" {
		return r.Login()
	}
	return r.Address()
}

// answered settles the recipients by the member's answers to the message.
func (b *batch) answered(ctx context.Context, g *group, taken, twins []*task, replies []smtpwire.Reply) {
	byAddress := map[string]smtpwire.Reply{}
	for i, t := range taken {
		reply := replies[min(i, len(replies)-1)]
		byAddress[Address(t.Route, g.protocol)] = reply
		if reply.Class() == 2 {
			b.settle(t, g.member, g.protocol, reply, "")
		} else {
			b.refused(ctx, g, t, reply)
		}
	}
	for _, t := range twins {
		b.settle(t, g.member, g.protocol, byAddress[Address(t.Route, g.protocol)], "")
	}
}

// refused settles a recipient that its member does not take, unless its account has another home by now: what was
// remembered of it may be out of date.
func (b *batch) refused(ctx context.Context, g *group, t *task, reply smtpwire.Reply) {
	if t.Route.Account.Cached && !t.moved && ctx.Err() == nil {
		t.moved = true
		fresh, err := b.server.Recipient(ctx, t.Route.Address(), true)
		if err == nil && (fresh.Host != t.Route.Host || fresh.Account.Login != t.Route.Account.Login) {
			t.Route.Leave()
			t.Route = fresh
			b.spread(ctx, []*task{t}, nil)
			return
		}
	}
	b.settle(t, g.member, g.protocol, reply, "")
}

func (b *batch) settleAll(g *group, tasks []*task, reply smtpwire.Reply, why string) {
	for _, t := range tasks {
		b.settle(t, g.member, g.protocol, reply, why)
	}
}

// settle takes down how it went for one recipient, and says so. why is for the log, where the reply is ours.
func (b *batch) settle(t *task, m *backend.Member, protocol string, reply smtpwire.Reply, why string) {
	d := proxy.Delivery{ID: b.message.ID, Service: b.message.Service, Client: b.message.Identity.Client, Sender: b.message.Address,
		Recipient: t.Recipient.Address, Route: t.Route, Protocol: protocol, Size: b.message.Body.Size(), Took: time.Since(t.began),
		Outcome: Outcome(reply), Reply: why}
	if why == "" {
		d.Reply = reply.String()
	}
	if m != nil {
		d.Member = m.Name()
	}
	b.server.Delivered(d)
	t.Route.Leave()
	t.reply <- reply
}

// Outcome is the word of the delivery event for a reply.
func Outcome(reply smtpwire.Reply) string {
	switch reply.Class() {
	case 2:
		return "delivered"
	case 5:
		return "refused"
	}
	return "deferred"
}
