package submission

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"

	"mailmux/proxy/backend"
	"mailmux/proxy/smtpwire"
	"mailmux/proxy/wire"
)

// maxProbeLine bounds a line of a member that is being checked.
const maxProbeLine = 4096

// Prober checks members: greeting, EHLO, STARTTLS where the host table says so, and a login if a user is configured.
type Prober struct {
	// Hostname is what the checks call themselves in EHLO.
	Hostname string
}

var _ backend.Prober = Prober{}

// Probe speaks to a member on a fresh connection. The capabilities are what clients may be offered for it.
func (p Prober) Probe(ctx context.Context, c net.Conn, to backend.Probe) (capabilities []string, err error) {
	conn := wire.NewConn(c, maxProbeLine)
	defer conn.Release()
	if err := expect(conn, 220, "greeting"); err != nil {
		return nil, err
	}
	extensions, err := p.ehlo(conn)
	if err != nil {
		return nil, err
	}
	if to.Mode == backend.StartTLS {
		if err := startTLS(ctx, conn, extensions, to.TLS); err != nil {
			return nil, err
		}
		if extensions, err = p.ehlo(conn); err != nil {
			return nil, err
		}
	}
	if to.User != "" {
		plain := base64.StdEncoding.EncodeToString([]byte("\x00" + to.User + "\x00" + to.Password))
		conn.Secret("AUTH PLAIN [redacted]", "AUTH PLAIN ", plain)
		if err := expect(conn, 235, "AUTH"); err != nil {
			return nil, err
		}
	}
	// Taking leave keeps a lost connection out of the member's log. Whether it answers says nothing more.
	conn.Line("QUIT")
	_, _ = smtpwire.ReadReply(conn)
	return offerable(extensions), nil
}

func (p Prober) ehlo(conn *wire.Conn) (smtpwire.Extensions, error) {
	conn.Line("EHLO ", p.Hostname)
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
