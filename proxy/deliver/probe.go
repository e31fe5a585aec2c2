package deliver

import (
	"context"
	"fmt"
	"net"

	"mailmux/proxy"
	"mailmux/proxy/backend"
	"mailmux/proxy/smtpwire"
	"mailmux/proxy/wire"
)

// Prober checks members by LMTP or SMTP: greeting, hello, and STARTTLS where the host table says so. Nothing is sent.
type Prober struct{}

var _ backend.Prober = Prober{}

// Probe speaks to a member on a fresh connection. The capabilities decide what senders are offered.
func (Prober) Probe(ctx context.Context, c net.Conn, to backend.Probe) (capabilities []string, err error) {
	conn := wire.NewConn(c, maxLine)
	defer conn.Release()
	if _, err := expect(conn, "greeting", 220); err != nil {
		return nil, err
	}
	verb := "EHLO "
	if to.Service == "lmtp" {
		verb = "LHLO "
	}
	hello := func() (smtpwire.Extensions, error) {
		conn.Line(verb, smtpwire.Literal(c.LocalAddr()))
		reply, err := expect(conn, verb, 250)
		return reply.Extensions(), err
	}
	extensions, err := hello()
	if err != nil {
		return nil, err
	}
	if to.Mode == backend.StartTLS {
		if _, ok := extensions.Find("STARTTLS"); !ok {
			return nil, fmt.Errorf("member does not offer STARTTLS, which backend.tls wants: %w", proxy.ErrProtocol)
		}
		conn.Line("STARTTLS")
		if _, err := expect(conn, "STARTTLS", 220); err != nil {
			return nil, err
		}
		if err := to.Upgrade(ctx, conn); err != nil {
			return nil, fmt.Errorf("STARTTLS: %w", err)
		}
		if extensions, err = hello(); err != nil {
			return nil, err
		}
	}
	// Taking leave keeps a lost connection out of the member's log. Whether it answers says nothing more.
	conn.Line("QUIT")
	_, _ = smtpwire.ReadReply(conn)
	return extensions, nil
}
