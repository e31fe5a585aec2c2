package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"time"

	"mailmux/proxy/splice"
	"mailmux/proxy/wire"
)

// ServeConn runs a session on a connection that somebody else accepted, and returns when it is handed over or has ended.
// It is for tests and for callers with listeners of their own.
func (srv *Server) ServeConn(nc net.Conn, l Listener) {
	if srv.slots.take() {
		srv.serve(nc, l)
	} else {
		nc.Close()
	}
}

// serve is a session's goroutine, from the accepted connection to the hand-over or the end.
func (srv *Server) serve(nc net.Conn, l Listener) {
	s := &Session{server: srv, state: srv.state.Load(), listener: l, nc: nc, began: time.Now()}
	s.peer, s.local = ends(nc)
	s.record = &Record{server: srv, service: l.Service, began: s.began}
	s.record.session.Store(s)
	nc.SetDeadline(s.began.Add(s.state.limits.LoginTimeout))
	err := srv.runSession(s)
	if err == nil && s.handed {
		srv.handOver(s)
		return
	}
	srv.endSession(s, err)
}

// runSession does all that comes before the hand-over. A panic ends the session, and only it.
func (srv *Server) runSession(s *Session) (err error) {
	defer func() {
		if p := recover(); p != nil {
			srv.panicked(s.Service(), s.id, fmt.Sprintf("%v\n%s", p, debug.Stack()))
			err = errPanic
		}
	}()
	if err := s.readProxyHeader(); err != nil {
		s.begin()
		return err
	}
	s.begin()
	handler := s.state.Handlers[s.Service()]
	limitErr := srv.registry.enter(s.record, networks(s.state.limits.Exempt).contains(s.identity.Client.Addr()), s.state.limits.PerAddress)
	if s.listener.TLS == TLSImplicit {
		if srv.draining.Load() { // no handshake for a farewell
			return ErrShutdown
		}
		if err := s.handshake(); err != nil {
			return err
		}
	}
	s.Client = wire.NewConn(s.top(), s.state.limits.LineLength)
	s.trace()
	switch {
	case limitErr != nil:
		return limitErr
	case srv.draining.Load():
		return ErrShutdown
	}
	return handler.Serve(srv.ctx, s)
}

var errPanic = errors.New("internal error")

// panicked counts and tells of a session that a panic has ended. The panic comes with its stack.
func (srv *Server) panicked(service, id, what string) {
	srv.metrics.Panicked(service)
	srv.log.Error("session ended by an error in mailmux: please report it", "id", id, "panic", what)
}

// begin gives the session its id and its identity, once it is known who the client is.
func (s *Session) begin() {
	if s.id != "" {
		return
	}
	s.id = s.server.newID()
	if !s.identity.Client.IsValid() {
		s.identity.Client = s.peer
	}
	s.own = s.identity
	s.own.Local, s.own.Session = s.local, s.id
	s.identity = s.own
	s.record.id, s.record.client = s.id, s.identity.Client
	s.server.metrics.SessionStarted(s.Service())
}

// top is the client's leg as it is now.
func (s *Session) top() net.Conn {
	if s.tls != nil {
		return s.tls
	}
	return s.nc
}

// endSession says the last word where the engine has one, closes, and reports.
func (srv *Server) endSession(s *Session, err error) {
	s.record.quit = err == nil // by the client, in a service without a hand-over
	err = s.why(err)
	cause := CauseOf(err)
	if s.backend != nil {
		s.backend.close()
	}
	switch {
	case s.Client == nil:
	case cause.EndedByEngine(), errors.Is(err, errPanic):
		s.nc.SetDeadline(time.Now().Add(lastWordTimeout))
		s.Client.Raw(s.state.Handlers[s.Service()].Bye(s, cause))
		s.Client.Flush()
	default:
		s.nc.SetDeadline(time.Now().Add(lastWordTimeout))
		s.Client.Flush()
	}
	if s.Client != nil {
		s.Client.Release()
	}
	s.closeClient()
	s.record.finish(err, splice.Result{})
}

// lastWordTimeout bounds the last line to a client that may not be reading.
const lastWordTimeout = 2 * time.Second

// closeClient closes the client's connection so that the last line arrives: a close with unread bytes would be a reset,
// which may overtake it (RFC 1122 section 4.2.2.13). The FIN goes first, and what is there is read and thrown away.
func (s *Session) closeClient() {
	if sock, ok := s.nc.(*splice.Sock); ok {
		sock.CloseGently(s.tls)
		return
	}
	s.top().Close()
}

// why puts a time limit into words: the deadline of the client's connection is that of the login, and is moved up to
// now when the server stops.
func (s *Session) why(err error) error {
	switch {
	case err == nil:
		return ErrLoggedOut
	case errors.Is(err, errBackend) || !errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case s.server.draining.Load():
		return ErrShutdown
	case s.record.kicked.Load():
		return ErrKicked
	}
	return fmt.Errorf("%w after %s", ErrLoginTimeout, time.Since(s.began).Round(time.Millisecond))
}

// handOver gives both legs to the relay. This goroutine ends; what is left of the session is its record.
func (srv *Server) handOver(s *Session) {
	rec, b := s.record, s.backend
	ahead, err := s.Client.Detach()
	back, err2 := b.Conn.Detach()
	if err := errors.Join(err, err2); err != nil {
		b.close()
		s.closeClient()
		rec.finish(err, splice.Result{})
		return
	}
	s.nc.SetDeadline(time.Time{})
	b.nc.SetDeadline(time.Time{})
	srv.metrics.LoggedIn(rec.service, time.Since(s.loginBegan))
	srv.registry.handedOver(rec)
	pair := rec.visit.handOver(b, func() *splice.Pair {
		return srv.pump.Start(splice.Leg{Conn: s.nc, TLS: s.tls, Ahead: ahead},
			splice.Leg{Conn: b.nc, TLS: b.tls, Ahead: back, Gate: rec.visit.gate()}, rec)
	})
	rec.pair.Store(pair)
	if rec.kicked.Load() { // in between
		pair.Close()
	}
}

// ends are who connects, and what was connected to.
func ends(nc net.Conn) (peer, local netip.AddrPort) {
	if sock, ok := nc.(*splice.Sock); ok {
		local, peer = sock.Addrs()
		return peer, local
	}
	return addrPort(nc.RemoteAddr()), addrPort(nc.LocalAddr())
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
