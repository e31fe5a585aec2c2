package deliver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"mailmux/proxy"
	"mailmux/proxy/backend"
	"mailmux/proxy/smtpwire"
	"mailmux/proxy/splice"
	"mailmux/proxy/wire"
	"mailmux/proxy/xclient"
)

// maxLine bounds a line of a member.
const maxLine = 4096

// leg is a connection to a member that has said EHLO or LHLO. It serves one transaction at a time.
type leg struct {
	member   *backend.Member
	protocol string
	address  string // of the member when it was dialed: a reload may have moved it
	conn     *bounded
	tcp      *splice.Sock // below TLS
	client   *smtp.Client
	hostname string
	xclient  string // the attributes that the member takes
	told     string // what it was told last
	loggedIn bool
	reused   bool
	expiry   *time.Timer // while it waits in the pool
}

// dial connects to a member and says hello. Dial has told the member's health of a connect that failed; other errors are
// for the caller.
func dial(ctx context.Context, m *backend.Member, protocol, hostname string, info backend.DialInfo, until time.Time) (*leg, error) {
	nc, err := m.Dial(ctx, protocol, info)
	if err != nil {
		return nil, err
	}
	l := &leg{member: m, protocol: protocol, address: m.Address(protocol), hostname: hostname, conn: &bounded{Conn: nc}, tcp: nc}
	l.conn.extend(until)
	defer context.AfterFunc(ctx, l.conn.hurry)()
	if err := l.enter(m, until); err != nil {
		nc.Close()
		return nil, err
	}
	return l, nil
}

// enter brings the connection to where go-smtp takes over: TLS, if it is wanted, and a greeting to be read. Where the host
// has another member, this one has only its greeting timeout for its first word.
func (l *leg) enter(m *backend.Member, until time.Time) error {
	patience, hasty := m.GreetingTimeout(l.protocol)
	if at := time.Now().Add(patience); hasty && at.Before(until) {
		l.conn.extend(at)
	}
	mode, config := m.TLS(l.protocol)
	if mode == backend.Implicit {
		if err := l.handshake(config); err != nil {
			return err
		}
	}
	c := wire.NewConn(l.conn.Conn, maxLine)
	defer c.Release()
	if err := c.Await(); err != nil {
		if hasty {
			err = &backend.SilentError{Err: err}
		}
		return fmt.Errorf("greeting: %w", err)
	}
	l.conn.extend(until)
	greeting, err := expect(c, "greeting", 220)
	if err != nil {
		return err
	}
	if name, _, _ := strings.Cut(greeting.Text, " "); strings.EqualFold(name, l.hostname) {
		return fmt.Errorf("%w: the member greets by our own name, %s", proxy.ErrLoop, l.hostname)
	}
	extensions, err := l.hello(c)
	if err != nil {
		return err
	}
	if mode == backend.StartTLS {
		if extensions, err = l.startTLS(c, extensions, config); err != nil {
			return err
		}
	}
	m.Learn(l.protocol, extensions)
	l.xclient, _ = extensions.Find("XCLIENT")
	return nil
}

func (l *leg) hello(c *wire.Conn) (smtpwire.Extensions, error) {
	verb := "EHLO"
	if l.protocol == "lmtp" {
		verb = "LHLO"
	}
	c.Line(verb, " ", l.hostname)
	reply, err := expect(c, verb, 250)
	return reply.Extensions(), err
}

func (l *leg) handshake(config *tls.Config) error {
	t := tls.Client(l.conn.Conn, config)
	if err := t.Handshake(); err != nil {
		return fmt.Errorf("TLS to the member: %w", err)
	}
	l.conn.Conn = t
	return nil
}

func (l *leg) startTLS(c *wire.Conn, extensions smtpwire.Extensions, config *tls.Config) (smtpwire.Extensions, error) {
	if _, ok := extensions.Find("STARTTLS"); !ok {
		return nil, fmt.Errorf("member does not offer STARTTLS, which backend.tls wants: %w", proxy.ErrProtocol)
	}
	c.Line("STARTTLS")
	if _, err := expect(c, "STARTTLS", 220); err != nil {
		return nil, err
	}
	err := c.Upgrade(func(net.Conn) (net.Conn, error) {
		err := l.handshake(config)
		return l.conn.Conn, err
	})
	if err != nil {
		return nil, fmt.Errorf("STARTTLS: %w", err)
	}
	return l.hello(c)
}

// introduce tells the member who the client is, unless it knows, and says hello by go-smtp.
func (l *leg) introduce(id proxy.Identity, tell bool) error {
	var commands []string
	if tell && l.xclient != "" {
		commands = xclient.Introduction(l.xclient, l.protocol == "lmtp", id)
	}
	told := strings.Join(commands, "\n")
	if l.client != nil && told == l.told {
		return nil
	}
	if len(commands) > 0 {
		c := wire.NewConn(l.conn.Conn, maxLine)
		defer c.Release()
		for _, command := range commands {
			c.Line(command)
			if _, err := expect(c, "XCLIENT", 220); err != nil {
				return err
			}
		}
	}
	l.told = told
	// Nothing is buffered in a client between two commands, since it does not pipeline: a new one may take its place.
	l.conn.greeting = "220 go on\r\n"
	if l.protocol == "lmtp" {
		l.client = smtp.NewClientLMTP(l.conn)
	} else {
		l.client = smtp.NewClient(l.conn)
	}
	return l.client.Hello(l.hostname)
}

// renew gives the leg a new deadline for the next transaction.
func (l *leg) renew(until time.Time) { l.conn.extend(until) }

func (l *leg) close() { l.conn.Conn.Close() }

// has says whether the member lists an extension.
func (l *leg) has(extension string) bool {
	ok, _ := l.client.Extension(extension)
	return ok
}

// expect reads a reply that has to have this code.
func expect(c *wire.Conn, command string, code int) (smtpwire.Reply, error) {
	reply, err := smtpwire.ReadReply(c)
	if err != nil {
		return reply, fmt.Errorf("read the member's answer to %s: %w", command, err)
	}
	if reply.Code != code {
		return reply, fmt.Errorf("member answers %s with %q: %w", command, reply, proxy.ErrProtocol)
	}
	return reply, nil
}

// replyOf turns what go-smtp says of a member's answer into a reply again; ok is false for an error that is none.
func replyOf(err error) (reply smtpwire.Reply, ok bool) {
	var said *smtp.SMTPError
	if !errors.As(err, &said) || said.Code < 400 || said.Code > 599 {
		return smtpwire.Reply{}, false
	}
	text := said.Message
	if e := said.EnhancedCode; e != (smtp.EnhancedCode{}) && e != smtp.NoEnhancedCode {
		prefix := fmt.Sprintf("%d.%d.%d ", e[0], e[1], e[2])
		text = prefix + strings.ReplaceAll(text, "\n", "\n"+prefix)
	}
	return smtpwire.Reply{Code: said.Code, Text: text}, true
}
