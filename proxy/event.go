package proxy

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"mailmux/directory"
	"mailmux/proxy/backend"
	"mailmux/proxy/splice"
)

// Ended is the relay's report of a session that was handed over.
func (r *Record) Ended(result splice.Result) {
	if result.Panic != "" {
		r.server.panicked(r.service, r.id, result.Panic)
	}
	r.finish(nil, result)
}

// BackendLost spreads the closes when a member is lost with many sessions.
func (r *Record) BackendLost() time.Duration {
	wait := r.server.losses.spread(r.member, r.server.state.Load().limits.CloseSpread)
	if wait > 0 {
		r.visit.leave() // the member has ended the connection: the account is not there any more, whatever the client does
	}
	return wait
}

// finish is a session's end: its event, its counts, and its places in the registry and under the ceiling.
func (r *Record) finish(err error, result splice.Result) {
	srv := r.server
	srv.registry.leave(r)
	r.leaveMember()
	r.visit.leave()
	outcome, reason := "ok", result.Reason.String()
	switch {
	case r.quit:
		reason = "quit"
	case err != nil:
		outcome, reason = CauseOf(err).String(), err.Error()
		if r.lastRefusal != nil && outcome == CauseGone.String() {
			outcome, reason = CauseOf(r.lastRefusal).String(), r.lastRefusal.Error()
		}
	case r.kicked.Load():
		reason = ErrKicked.Error()
	}
	lasted := time.Since(r.began)
	srv.metrics.SessionEnded(r.service, outcome, result.Up, result.Down, lasted)
	srv.slots.give()
	r.log(outcome, reason, result, lasted)
}

// open counts the session to a member, leaveMember takes that back.
func (r *Record) open(m *backend.Member) {
	r.counted = m
	m.Opened(r.service)
}

func (r *Record) leaveMember() {
	if r.counted != nil {
		r.counted.Closed(r.service)
		r.counted = nil
	}
}

// log writes the session event. Its keys are public: a golden test holds them.
func (r *Record) log(outcome, reason string, result splice.Result, lasted time.Duration) {
	level := slog.LevelInfo
	if outcome == CauseTemporary.String() || outcome == CauseUnreachable.String() {
		level = slog.LevelWarn // somebody has to look
	}
	if !r.server.log.Enabled(context.Background(), level) {
		return
	}
	host, member := r.host, ""
	if r.member != nil {
		member = r.member.Name()
	}
	attrs := [...]slog.Attr{
		slog.String("id", r.id),
		slog.String("service", r.service),
		slog.String("client", r.client.String()),
		slog.String("tls", r.tls),
		slog.String("mechanism", r.mechanism),
		slog.String("account", r.name),
		slog.String("login", r.login),
		slog.String("host", host),
		slog.String("member", member),
		slog.Bool("member_tls", r.memberTLS),
		slog.String("directory", r.source),
		slog.Int("failed_logins", r.failures),
		slog.Int64("bytes_up", result.Up),
		slog.Int64("bytes_down", result.Down),
		slog.Float64("seconds", lasted.Round(time.Millisecond).Seconds()),
		slog.String("outcome", outcome),
		slog.String("reason", reason),
	}
	r.server.log.LogAttrs(context.Background(), level, "session", attrs[:]...)
}

// refused notes why a login failed, for the event of a client that then goes away.
func (r *Record) refused(err error) { r.lastRefusal = err }

// origin notes where the account's data came from.
func (r *Record) origin(a *directory.Account) {
	r.server.registry.mu.Lock()
	defer r.server.registry.mu.Unlock()
	switch {
	case a.Stale:
		r.source = "stale"
	case a.Cached:
		r.source = "cache"
	default:
		r.source = "server"
	}
	r.login, r.host = a.Login, a.Host
}

// interrupt ends a session that is not handed over yet: its next read or write fails.
func (r *Record) interrupt() {
	if r.busy.Load() && r.server.ctx.Err() == nil {
		return // the session looks for itself when the message is through
	}
	if s := r.session.Load(); s != nil {
		s.nc.SetDeadline(past)
	}
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// cut ends a session, and returns when its connections are closed, or, for one that is still logging in, soon will be.
func (r *Record) cut() {
	r.kicked.Store(true)
	if pair := r.pair.Load(); pair != nil {
		pair.Close()
		return
	}
	r.interrupt()
}

// losses counts the sessions that members lost within the second, to spread the closes of many.
type losses struct {
	mu     sync.Mutex
	second int64
	counts map[*backend.Member]int
}

// atOnce is how many clients of a lost member are let go in the first second.
const atOnce = 100

// spread is how long one more client of a lost member is kept.
func (l *losses) spread(m *backend.Member, over time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now().Unix()
	if now-l.second > int64(over/time.Second) || l.counts == nil {
		l.second, l.counts = now, map[*backend.Member]int{}
	}
	l.counts[m]++
	if l.counts[m] <= atOnce {
		return 0
	}
	return randomSpan(over)
}
