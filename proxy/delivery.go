package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"mailmux/directory"
	"mailmux/proxy/backend"
)

// Sessions of the services lmtp and smtp bring messages. They have no login and no hand-over: Handler.Serve runs them to
// their end, and returns nil when the client took its leave in order. What the engine does for them is here: the way
// from a recipient to a member, the clock of the conversation, and the delivery event.

// Route is where a recipient's mail goes.
type Route struct {
	Name    directory.Name    // normalised, with the detail
	Account directory.Account // what the directory says of it
	Host    *backend.Host     // its home

	delimiter string
	stay      *stay // where the host's accounts have claims
}

// Login is the account's canonical login name as an address, with the detail: what a mailbox server knows.
func (r *Route) Login() string {
	local, domain, found := cutLast(r.Account.Login)
	if r.Name.Detail == "" || local == "" || local[0] == '"' {
		return r.Account.Login
	}
	local += r.delimiter + r.Name.Detail
	if !found {
		return local
	}
	return local + "@" + domain
}

// Address is the recipient's address, normalised, with the detail: what a mail server knows.
func (r *Route) Address() string { return r.Name.Address(r.delimiter) }

func cutLast(login string) (local, domain string, found bool) {
	if i := strings.LastIndexByte(login, '@'); i >= 0 {
		return login[:i], login[i+1:], true
	}
	return login, "", false
}

// Recipient finds the home of a message's recipient: what stood between < and > behind RCPT TO. The error has a cause:
// CauseAuth is an address that nobody has, CauseHeld and CauseDisabled an account that takes no mail now, CauseTemporary
// all else, a loop between frontends included.
func (s *Session) Recipient(ctx context.Context, address string) (Route, error) {
	if s.looped() {
		return Route{}, fmt.Errorf("%w: time to live %d", ErrLoop, s.identity.TTL)
	}
	return s.state.recipient(ctx, address, s.local.Addr(), false)
}

// Recipient is Session.Recipient for messages without a session, such as those that wait in a queue. With fresh the
// directory is asked past the cache.
func (srv *Server) Recipient(ctx context.Context, address string, fresh bool) (Route, error) {
	return srv.state.Load().recipient(ctx, address, netip.Addr{}, fresh)
}

func (s *State) recipient(ctx context.Context, address string, local netip.Addr, fresh bool) (Route, error) {
	name, err := s.Domains.Recipient(address, local)
	if err != nil {
		return Route{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.limits.HandOverTimeout)
	defer cancel()
	lookup := s.Directory.Lookup
	if fresh {
		lookup = s.Directory.Refresh
	}
	account, err := lookup(ctx, name)
	if err != nil {
		return Route{}, err
	}
	if err := served(&account); err != nil {
		return Route{}, err
	}
	host, err := s.Hosts.Host(account.Host)
	if err != nil {
		return Route{}, err
	}
	delimiter := s.Domains.Delimiter
	if delimiter == "" {
		delimiter = "+"
	}
	r := Route{Name: name, Account: account, Host: host, delimiter: delimiter[:1]}
	if s.claimed(host) {
		r.stay = &stay{}
	}
	return r, nil
}

// served says whether an account may be served, by its status.
func served(account *directory.Account) error {
	switch account.Status {
	case directory.Active:
		return nil
	case directory.Disabled:
		return ErrDisabled
	case directory.Held:
		return ErrHeld
	}
	return fmt.Errorf("%w: its status is none of the configured words", ErrHeld)
}

// Member chooses the member that takes a route's mail by the service (lmtp or smtp), leaving out those that were tried.
// Mail follows the account's sessions: while there are some on a member that still takes it, no other one opens the
// mailbox. When the choice falls on another member all the same, those sessions are closed first. The error has the
// cause CauseUnreachable.
func (srv *Server) Member(r Route, service string, tried *backend.Tried) (*backend.Member, error) {
	key := directory.Name{Local: r.Name.Local, Domain: r.Name.Domain}.String()
	if r.stay != nil {
		return srv.stay(r, key, service, tried)
	}
	sticky := r.Host.Sticky()
	if sticky && tried.Len() == 0 {
		for _, rec := range srv.registry.ofAccount(key) {
			if m := srv.registry.homeOf(rec); m != nil && m.Host() == r.Host.Name() && m.Joinable(service) {
				return m, nil
			}
		}
	}
	m, err := r.Host.Choose(service, key, tried)
	if err != nil {
		return nil, &backendError{r.Host.Name(), "", err}
	}
	if sticky {
		for _, rec := range srv.registry.ofAccount(key) {
			if other := srv.registry.homeOf(rec); other != nil && other.Host() == m.Host() && other != m {
				rec.cut()
			}
		}
	}
	return m, nil
}

// MemberNamed finds a member of a host, nil if it is not in the table any more.
func (srv *Server) MemberNamed(host, member string) *backend.Member {
	h, err := srv.state.Load().Hosts.Host(host)
	if err != nil {
		return nil
	}
	return h.Member(member)
}

// homeOf is the member that a session is on, nil before its choice.
func (r *registry) homeOf(rec *Record) *backend.Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	return rec.member
}

// Server is the engine that the session belongs to.
func (s *Session) Server() *Server { return s.server }

// Limit returns the limits of the configuration that the session began with.
func (s *Session) Limit() Limits { return s.state.limits }

// Normalise is the normalised name of a recipient's address.
func (s *Session) Normalise(address string) (directory.Name, error) {
	return s.state.Domains.Recipient(address, s.local.Addr())
}

// Normalise is Session.Normalise for messages without a session.
func (srv *Server) Normalise(address string) (directory.Name, error) {
	return srv.state.Load().Domains.Recipient(address, netip.Addr{})
}

// DialInfo is what a PROXY header tells a member of the client.
func (s *Session) DialInfo() backend.DialInfo {
	return backend.DialInfo{Client: s.identity.Client, Local: s.identity.Local, SessionID: s.id, TLS: s.tlsState(), ServerName: s.identity.Name}
}

// Known says whether the client's address is exempt from limits (limits.exempt).
func (s *Session) Known() bool { return s.exempt() }

// Await gives the client this long for what it says or reads next. It fails with ErrShutdown or ErrKicked when the session
// is to end: between transactions, never inside one (Hold).
func (s *Session) Await(d time.Duration) error {
	s.nc.SetDeadline(time.Now().Add(d))
	switch {
	case s.record.busy.Load() && s.server.ctx.Err() == nil:
		return nil
	case s.server.draining.Load():
		return ErrShutdown
	case s.record.kicked.Load():
		return ErrKicked
	}
	return nil
}

// Hold keeps the end of the frontend, and an operator's kick, away from the session until Release: a message that a
// member has accepted must be acknowledged, or its sender sends it again. The end of the drain time is not held off.
func (s *Session) Hold() { s.record.busy.Store(true) }

// Release takes Hold back.
func (s *Session) Release() { s.record.busy.Store(false) }

// Remark warns the operator of something that is no session's and no delivery's.
func (srv *Server) Remark(what string, err error) { srv.log.Warn(what, "error", err) }

// Delivery is one attempt to hand a message for one recipient to a member, as the delivery event tells it.
type Delivery struct {
	ID        string         // of the session, or of the message in the queue
	Service   string         // of the listener, or "queue"
	Client    netip.AddrPort // who brought it; invalid for the queue
	Sender    string         // "" is the null sender
	Recipient string         // as the sender wrote it
	Route     Route
	Member    string // "" when none was reached
	Protocol  string // lmtp or smtp
	Size      int64  // bytes of the message
	Took      time.Duration
	Outcome   string // delivered, deferred, refused
	Reply     string // the member's own words in one printable line, or what went wrong
}

// DeliveryMetrics counts deliveries. A Metrics that has these methods is told.
type DeliveryMetrics interface {
	// Delivered counts an attempt for one recipient by its outcome: delivered, deferred or refused.
	Delivered(service, outcome string, took time.Duration)
}

// Delivered writes the delivery event, and counts it. It may be called from many goroutines.
func (srv *Server) Delivered(d Delivery) {
	if m, ok := srv.metrics.(DeliveryMetrics); ok {
		m.Delivered(d.Service, d.Outcome, d.Took)
	}
	host := ""
	if d.Route.Host != nil {
		host = d.Route.Host.Name()
	}
	client := ""
	if d.Client.IsValid() {
		client = d.Client.String()
	}
	srv.log.LogAttrs(context.Background(), slog.LevelInfo, "delivery",
		slog.String("id", d.ID),
		slog.String("service", d.Service),
		slog.String("client", client),
		slog.String("sender", d.Sender),
		slog.String("recipient", d.Recipient),
		slog.String("account", d.Route.Account.Login),
		slog.String("host", host),
		slog.String("member", d.Member),
		slog.String("protocol", d.Protocol),
		slog.Int64("bytes", d.Size),
		slog.Float64("seconds", d.Took.Round(time.Millisecond).Seconds()),
		slog.String("outcome", d.Outcome),
		slog.String("reply", d.Reply),
	)
}
