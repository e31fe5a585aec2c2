package proxy

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"mailmux/proxy/splice"
)

// Info is a session as the operator sees it.
type Info struct {
	ID        string
	Service   string
	Client    netip.AddrPort
	TLS       string // the version, "" in the clear
	Mechanism string
	Account   string // normalised; "" before a login
	Login     string // the canonical login name
	Host      string
	Member    string
	Began     time.Time
	LoggedIn  bool
	Up, Down  int64 // bytes relayed so far
}

// info is a session's Info. The registry is locked.
func (r *Record) info() Info {
	i := Info{ID: r.id, Service: r.service, Client: r.client, TLS: r.tls, Mechanism: r.mechanism, Account: r.name, Login: r.login,
		Host: r.host, Began: r.began, LoggedIn: r.handed.Load()}
	if r.member != nil {
		i.Member = r.member.Name()
	}
	if pair := r.pair.Load(); pair != nil {
		i.Up, i.Down = pair.Bytes()
	}
	return i
}

// Who lists the sessions that match, in no order. A nil function matches all.
func (srv *Server) Who(match func(*Info) bool) []Info {
	srv.registry.mu.Lock()
	defer srv.registry.mu.Unlock()
	list := make([]Info, 0, len(srv.registry.all))
	for _, rec := range srv.registry.all {
		if i := rec.info(); match == nil || match(&i) {
			list = append(list, i)
		}
	}
	return list
}

// Kick ends the sessions that match, and returns how many there were.
func (srv *Server) Kick(match func(*Info) bool) int {
	list := srv.registry.matching(func(rec *Record) bool {
		i := rec.info()
		return match == nil || match(&i)
	})
	for _, rec := range list {
		rec.cut()
	}
	return len(list)
}

// Counts are figures for status and metrics.
type Counts struct {
	Sessions  int // all of them
	LoggedIn  int // those that are handed over
	Ceiling   int // limits.sessions
	Penalties int // addresses with failed logins
	Listening bool
}

// Counts returns the figures of now.
func (srv *Server) Counts() Counts {
	srv.penalties.mu.Lock()
	penalties := len(srv.penalties.table)
	srv.penalties.mu.Unlock()
	srv.mu.Lock()
	listening := len(srv.listeners) > 0
	srv.mu.Unlock()
	return Counts{Sessions: srv.registry.size(), LoggedIn: srv.pump.Active(), Ceiling: srv.state.Load().limits.Sessions,
		Penalties: penalties, Listening: listening}
}

// Withdraw closes the listening sockets, so that load balancers notice; sessions live on, and so do those whose clients
// have connected by then. Resume opens them again.
func (srv *Server) Withdraw() { srv.stopListening(srv.ctx) }

// Resume takes a Withdraw back.
func (srv *Server) Resume() error { return srv.Listen(nil) }

var _ splice.Ended = (*Record)(nil)

// loginPause is how long Evacuate waits for logins that go on.
const loginPause = 50 * time.Millisecond

// Evacuate lets the sessions go whose members the operator withdrew with that wish, one account after the other at
// limits.evacuation_rate, and returns when none is left or ctx ends. Called while it runs, it does nothing: the running
// one sees to the new wish as well.
func (srv *Server) Evacuate(ctx context.Context) {
	if srv.evacuating.Add(1) > 1 {
		return
	}
	bound := func(rec *Record) bool { // also those that are logging in there, and will be there in a moment
		if rec.member == nil {
			return false
		}
		_, evacuate := rec.member.Withdrawn()
		return evacuate
	}
	leaving := func(rec *Record) bool { return rec.handed.Load() && bound(rec) } // its member is settled then
	for {
		calls := srv.evacuating.Load()
		list := srv.registry.matching(bound)
		if len(list) == 0 && srv.evacuating.CompareAndSwap(calls, 0) { // else there is a wish that list may not know of
			return
		}
		if !slices.ContainsFunc(list, leaving) && pause(ctx, loginPause) != nil {
			srv.evacuating.Store(0)
			return
		}
		done := map[string]bool{}
		for _, rec := range list {
			if done[rec.name] || !leaving(rec) {
				continue
			}
			done[rec.name] = true
			for _, same := range srv.registry.ofAccount(rec.name) {
				if leaving(same) {
					same.cut()
				}
			}
			if pause(ctx, time.Second/time.Duration(srv.state.Load().limits.EvacuationRate)) != nil {
				srv.evacuating.Store(0)
				return
			}
		}
	}
}
