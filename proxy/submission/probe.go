package submission

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"mailmux/proxy/auth"
	"mailmux/proxy/backend"
	"mailmux/proxy/smtpwire"
	"mailmux/proxy/wire"
)

// maxProbeLine bounds a line of a member that is being checked.
const maxProbeLine = 4096

// Prober checks members: greeting, EHLO, STARTTLS where the host table says so, and a login if a user is configured.
type Prober struct{}

var _ backend.Prober = Prober{}

// Probe speaks to a member on a fresh connection. The capabilities are what clients may be offered for it.
func (Prober) Probe(ctx context.Context, c net.Conn, to backend.Probe) (capabilities []string, err error) {
	conn := wire.NewConn(c, maxProbeLine)
	defer conn.Release()
	if err := expect(conn, 220, "greeting"); err != nil {
		return nil, err
	}
	extensions, err := ehlo(conn)
	if err != nil {
		return nil, err
	}
	if to.Mode == backend.StartTLS {
		if err := startTLS(ctx, conn, extensions, to.TLS); err != nil {
			return nil, err
		}
		if extensions, err = ehlo(conn); err != nil {
			return nil, err
		}
	}
	if to.User != "" {
		if err := probeLogin(conn, extensions.Mechanisms(), to.User, to.Password); err != nil {
			return nil, fmt.Errorf("log in as %s: %w", to.User, err)
		}
	}
	// Taking leave keeps a lost connection out of the member's log. Whether it answers says nothing more.
	conn.Line("QUIT")
	_, _ = smtpwire.ReadReply(conn)
	return offerable(extensions), nil
}

// ehlo calls a check by its address, as a client without a name has to (RFC 5321 section 4.1.4).
func ehlo(conn *wire.Conn) (smtpwire.Extensions, error) {
	name := "localhost"
	if a, ok := conn.NetConn().LocalAddr().(*net.TCPAddr); ok {
		name = "[" + smtpwire.FormatAddress(a.AddrPort().Addr()) + "]"
	}
	conn.Line("EHLO ", name)
	return readExtensions(conn)
}

func startTLS(ctx context.Context, conn *wire.Conn, extensions smtpwire.Extensions, config *tls.Config) error {
	if err := askTLS(conn, extensions); err != nil {
		return err
	}
	err := conn.Upgrade(func(below net.Conn) (net.Conn, error) {
		t := tls.Client(below, config)
		return t, t.HandshakeContext(ctx)
	})
	if err != nil {
		return fmt.Errorf("STARTTLS: %w", err)
	}
	return nil
}

func probeLogin(conn *wire.Conn, mechanisms []string, user, password string) error {
	creds, err := auth.Password(user, password)
	if err != nil {
		return err
	}
	l, err := sayAuth(conn, mechanisms, creds.Exchange(user, nil, mechanisms))
	if err != nil {
		return err
	}
	_, err = l.converse()
	return err
}
