package submission

import (
	"context"
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
		if err := startTLS(ctx, conn, extensions, to); err != nil {
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

// ehlo calls a check by its address.
func ehlo(conn *wire.Conn) (smtpwire.Extensions, error) {
	conn.Line("EHLO ", smtpwire.Literal(conn.NetConn().LocalAddr()))
	return readExtensions(conn)
}

func startTLS(ctx context.Context, conn *wire.Conn, extensions smtpwire.Extensions, to backend.Probe) error {
	if err := askTLS(conn, extensions); err != nil {
		return err
	}
	if err := to.Upgrade(ctx, conn); err != nil {
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
