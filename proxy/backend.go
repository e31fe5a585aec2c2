package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"mailmux/directory"
	"mailmux/proxy/auth"
	"mailmux/proxy/backend"
	"mailmux/proxy/splice"
	"mailmux/proxy/wire"
)

// Backend is the leg to a member, from the dial to the hand-over. Its socket has a deadline; Enter needs none.
type Backend struct {
	// Conn is the conversation. Its lines are bounded like the client's.
	Conn *wire.Conn
	// Account is who logs in.
	Account directory.Account

	session *Session
	member  *backend.Member
	nc      net.Conn // below TLS
	tls     *tls.Conn
	mode    backend.Mode
	config  *tls.Config
	master  *auth.Master
	creds   *auth.Credentials
	stated  bool // the credentials were asked for, and are on their way
}

// dial connects to a member, with the PROXY header and TLS if it wants them from the start. A member that accepts and then
// says nothing gets a part of the time only, if there is another one to try.
func (s *Session) dial(ctx context.Context, m *backend.Member, account *directory.Account, creds *auth.Credentials) (*Backend, error) {
	info := backend.DialInfo{Client: s.identity.Client, Local: s.identity.Local, SessionID: s.id, TLS: s.tlsState(), Secured: s.proxyTLS, ServerName: s.identity.Name}
	info.Near, _ = s.nc.(*splice.Sock)
	b := &Backend{Account: *account, session: s, member: m, creds: creds}
	if s.state.Dial != nil {
		nc, err := s.state.Dial(ctx, m, s.Service(), info)
		if err != nil {
			return nil, err
		}
		b.nc = nc
	} else {
		nc, err := m.Dial(ctx, s.Service(), info)
		if err != nil {
			return nil, err
		}
		b.nc = nc
	}
	if err := s.record.visit.enter(b.nc); err != nil {
		b.close()
		return nil, err
	}
	if err := b.meet(ctx); err != nil {
		if !s.record.visit.isLost() {
			m.Failed(s.Service(), err)
		}
		b.close()
		return nil, err
	}
	return b, nil
}

// meet makes a connection a conversation: TLS if it is there from the start, and where the host has another member to
// try, the first word within that member's time.
func (b *Backend) meet(ctx context.Context) error {
	s, m := b.session, b.member
	deadline, _ := ctx.Deadline()
	first := deadline
	patience, hasty := m.GreetingTimeout(s.Service())
	if at := time.Now().Add(patience); hasty && at.Before(first) {
		first = at
	}
	b.nc.SetDeadline(first)
	b.mode, b.config = m.TLS(s.Service())
	if m.Login() == backend.Master {
		b.master = masterOf(m)
	}
	var top net.Conn = b.nc
	if b.mode == backend.Implicit {
		if err := b.handshake(); err != nil {
			return err
		}
		top = b.tls
	}
	b.Conn = wire.NewConn(top, s.state.limits.LineLength)
	if s.tracing {
		b.Conn.Trace(s.tracer(m.String()), nil)
	}
	if sock, ok := b.nc.(*splice.Sock); ok {
		b.Conn.OnSent(sock.QuickAck)
	}
	if !hasty {
		return nil
	}
	if err := b.Conn.Await(); err != nil {
		return &backend.SilentError{Err: err}
	}
	b.nc.SetDeadline(deadline)
	return nil
}

func (s *Session) tlsState() *tls.ConnectionState {
	if s.tls == nil {
		return nil
	}
	state := s.tls.ConnectionState()
	return &state
}

func masterOf(m *backend.Member) *auth.Master {
	c := m.Master()
	master := &auth.Master{User: c.User, Password: c.Password}
	if c.Format == backend.Separator {
		master.Separator = c.Separator
	}
	return master
}

func (b *Backend) handshake() error {
	t := tls.Client(b.nc, b.config)
	if err := t.Handshake(); err != nil {
		return fmt.Errorf("TLS to the member: %w", err)
	}
	b.tls = t
	return nil
}

func (b *Backend) close() { b.nc.Close() }

// NeedTLS says whether the protocol has to ask the member for STARTTLS before anything else.
func (b *Backend) NeedTLS() bool { return b.mode == backend.StartTLS && b.tls == nil }

// StartTLS puts TLS under the leg, once the member said OK to STARTTLS, and verifies that it is who it should be. It
// fails with wire.ErrInjected when the member sent anything behind its OK.
func (b *Backend) StartTLS() error {
	return b.Conn.Upgrade(func(net.Conn) (net.Conn, error) {
		if err := b.handshake(); err != nil {
			return nil, err
		}
		return b.tls, nil
	})
}

// Secure says whether the leg is encrypted.
func (b *Backend) Secure() bool { return b.tls != nil }

// Identity is what the member is to be told of the client; ok is false where that is switched off.
func (b *Backend) Identity() (id Identity, ok bool) {
	if !b.member.Identity() {
		return Identity{}, false
	}
	id = b.session.Identity()
	id.Login = b.Account.Login
	return id, true
}

// Told is the login in words, for the protocol's own login command. ok is false for a relayed mechanism, and for a
// login with an authorization identity: those go by Exchange.
func (b *Backend) Told() (t auth.Told, ok bool) {
	b.state()
	t, ok = b.creds.Backend(b.Account.Login, b.master)
	return t, ok && t.Authzid == ""
}

// Exchange is the login by SASL. offered lists the mechanisms that the member showed, nil if it showed none.
func (b *Backend) Exchange(offered []string) auth.Exchange {
	b.state()
	return b.creds.Exchange(b.Account.Login, b.master, offered)
}

// state notes that the credentials are on their way. What the member says from now on may be their echo, which belongs into
// no log.
func (b *Backend) state() {
	if b.stated {
		return
	}
	b.stated = true
	secrets := b.creds.Secrets(b.Account.Login, b.master)
	b.Conn.Guard(secrets)
	if b.session.tracing { // the client may be passed a refusal as it is
		b.session.Client.Guard(secrets)
	}
}

// Shows says whether the member showed a capability when it was seen last, by a check or a session.
func (b *Backend) Shows(capability string) bool {
	return b.member.Shows(b.session.Service(), capability)
}

// Learn remembers the capabilities that the member shows to a client before or after the login, for those that are
// offered to clients to come.
func (b *Backend) Learn(capabilities []string) { b.member.Learn(b.session.Service(), capabilities) }
