package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"time"

	"mailmux/proxy/auth"
	"mailmux/proxy/wire"
)

// Handler speaks one protocol. It is made once and serves many sessions at once, so it holds no session's state.
type Handler interface {
	// Serve runs one session: greet, authenticate, log in, hand over. It returns nil once HandOver did, and else why the
	// session ends. The engine closes both connections. A service without logins (lmtp, smtp) returns nil when the client
	// has taken its leave in order.
	//
	// What Serve has to say, it has said when it returns, with one exception: the causes of Cause.EndedByEngine, and a
	// panic, which is CauseTemporary, are told by the engine, in the words of Bye. An error of Login may be of such a cause,
	// too, as when a limit is reached: Serve returns it and says nothing.
	Serve(ctx context.Context, s *Session) error
	// Bye is the last line that a client is told when its session ends before the hand-over by the engine's will, with
	// its line end; "" when the protocol has nothing to say. It is also called before Serve, for clients over a limit.
	Bye(s *Session, cause Cause) string
}

// Session is one client's session until its hand-over, as a protocol sees it. It belongs to one goroutine.
type Session struct {
	// Client is the client's leg. Replies written there are sent when the handler reads on, or at its end.
	Client *wire.Conn

	server   *Server
	state    *State
	listener Listener

	id         string
	began      time.Time
	loginBegan time.Time
	nc         net.Conn       // the client's TCP connection, below any TLS
	peer       netip.AddrPort // who connects, whatever a PROXY header says
	local      netip.AddrPort // connected to; from the PROXY header if there was one
	tls        *tls.Conn      // nil in the clear
	proxyTLS   bool           // a listed proxy in front says that it did TLS with the client
	certUser   string         // the account that the client's certificate names
	own        Identity       // what we know of the client ourselves
	identity   Identity       // and with what a trusted peer said
	believed   bool
	bad        int    // bad commands and failed logins so far
	verified   string // the DN whose password was checked here

	tracing bool
	record  *Record
	backend *Backend // logged in to, waiting for the hand-over
	handed  bool
}

// ID is the session's id: in the log, in what the client is told, and in the backend's log.
func (s *Session) ID() string { return s.id }

// Service is the listener's service, as Listener.Service names it.
func (s *Session) Service() string { return s.listener.Service }

// Hostname is the name this frontend goes by.
func (s *Session) Hostname() string { return s.state.Config.Hostname }

// ClientAddr is where the client connects from, as far as known.
func (s *Session) ClientAddr() netip.AddrPort { return s.identity.Client }

// Secure says whether the client's leg is encrypted: by TLS here, or by a listed proxy in front that said so in its PROXY
// header.
func (s *Session) Secure() bool { return s.tls != nil || s.proxyTLS }

// CanStartTLS says whether STARTTLS is to be offered now.
func (s *Session) CanStartTLS() bool {
	return s.tls == nil && !s.proxyTLS && s.listener.TLS != TLSImplicit && s.listener.TLS != TLSOff && s.state.tls != nil
}

// PlainLogin says whether a login may come in now: on an encrypted leg, or where the listener allows it in the clear.
func (s *Session) PlainLogin() bool { return s.Secure() || s.listener.AllowPlaintext }

// Mechanisms are the SASL mechanisms to be offered now, none where TLS is required first.
func (s *Session) Mechanisms() []string {
	if !s.PlainLogin() {
		return nil
	}
	if s.certUser == "" {
		return s.state.mechanisms
	}
	return s.state.mechanismsExternal
}

// Offer is what auth.Begin needs to know of the session.
func (s *Session) Offer() auth.Offer {
	return auth.Offer{Mechanisms: s.Mechanisms(), Certificate: s.certUser}
}

// Offers says whether a mechanism is offered now.
func (s *Session) Offers(mechanism string) bool { return slices.Contains(s.Mechanisms(), mechanism) }

// StartTLS sends what was gathered, such as the OK to STARTTLS, and puts TLS under the client's leg. It fails with
// wire.ErrInjected when the client sent anything behind the command. What was learnt before does not hold any more
// (RFC 3207 section 4.2): an identity that was believed is forgotten too.
func (s *Session) StartTLS() error {
	err := s.Client.Upgrade(func(net.Conn) (net.Conn, error) {
		if err := s.handshake(); err != nil {
			return nil, err
		}
		return s.tls, nil
	})
	if err != nil {
		return err
	}
	s.Forget()
	return nil
}

// BadCommand counts a line that made no sense. Its error, ErrBadCommands, ends the session: the limit is reached, or the
// line was the first one and so, likely, of another protocol (a browser made to speak to a mail port).
func (s *Session) BadCommand(first bool) error {
	s.bad++
	if first || s.bad >= s.state.limits.BadCommands {
		return ErrBadCommands
	}
	return nil
}

// SetHelo keeps what an SMTP client called itself, for the backend's XCLIENT.
func (s *Session) SetHelo(name string) { s.identity.Helo = name }

// HandOver gives both legs to the relay. The handler has told the client that it is logged in, and returns at once: from
// here on every byte belongs to client and backend. What either side sent ahead is passed on first, in order.
func (s *Session) HandOver() error {
	s.handed = true
	return nil
}
