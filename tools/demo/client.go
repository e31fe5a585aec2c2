package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"
)

// patience is how long a client waits for one answer.
const patience = 40 * time.Second

// protocol says when an answer is complete.
type protocol string

const (
	imap protocol = "imap"
	pop3 protocol = "pop3"
	smtp protocol = "smtp"
)

// exchange is one thing to say and how the last line of the answer has to begin. Nothing to say: a greeting.
type exchange struct {
	say   string
	want  string
	multi bool // POP3: the answer goes on up to a line with a dot
}

// client speaks to a server and shows every line that goes over the wire.
type client struct {
	screen   *screen // nil: shows nothing
	protocol protocol
	conn     net.Conn
	reader   *bufio.Reader
}

// connect opens a connection.
func connect(ctx context.Context, s *screen, p protocol, addr string) (*client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s at %s: %w", p, addr, err)
	}
	return &client{screen: s, protocol: p, conn: conn, reader: bufio.NewReader(conn)}, nil
}

// close ends the connection.
func (c *client) close() { c.conn.Close() }

// secure shakes hands, in the middle of a session or at its beginning.
func (c *client) secure(ctx context.Context, config *tls.Config) error {
	secured := tls.Client(c.conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS with %s: %w", config.ServerName, err)
	}
	c.conn, c.reader = secured, bufio.NewReader(secured)
	state := secured.ConnectionState()
	if c.screen != nil {
		c.screen.aside("(%s; the certificate is for %s)", tls.VersionName(state.Version), strings.Join(state.PeerCertificates[0].DNSNames, ", "))
	}
	return nil
}

// play goes through exchanges and stops at the first answer that is not the one wanted.
func (c *client) play(exchanges ...exchange) error {
	for _, e := range exchanges {
		if _, err := c.exchange(e); err != nil {
			return err
		}
	}
	return nil
}

// exchange says something and returns the last line of the answer.
func (c *client) exchange(e exchange) (string, error) {
	if e.say != "" {
		if err := c.say(e.say); err != nil {
			return "", err
		}
	}
	for {
		line, err := c.hear()
		if err != nil {
			return "", fmt.Errorf("%s: wait for an answer to %q: %w", c.protocol, e.say, err)
		}
		if !c.complete(e, line) {
			continue
		}
		if !strings.HasPrefix(line, e.want) {
			return line, fmt.Errorf("%s: the answer to %q is %q and should begin with %q", c.protocol, e.say, line, e.want)
		}
		if e.multi {
			return line, c.hearToDot()
		}
		return line, nil
	}
}

// say sends lines.
func (c *client) say(text string) error {
	if c.screen != nil {
		for line := range strings.Lines(text) {
			c.screen.client(strings.TrimRight(line, "\r\n"))
		}
	}
	c.conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(c.conn, "%s\r\n", text); err != nil {
		return fmt.Errorf("%s: send %q: %w", c.protocol, text, err)
	}
	return nil
}

// hear reads one line.
func (c *client) hear() (string, error) {
	c.conn.SetDeadline(time.Now().Add(patience))
	line, err := c.reader.ReadString('\n')
	line = strings.TrimRight(line, "\r\n")
	if c.screen != nil && err == nil {
		c.screen.server(line)
	}
	return line, err
}

// hearToDot reads the rest of a POP3 answer.
func (c *client) hearToDot() error {
	for {
		line, err := c.hear()
		if err != nil {
			return fmt.Errorf("%s: read a message: %w", c.protocol, err)
		}
		if line == "." {
			return nil
		}
	}
}

// complete reports whether a line is the last one of an answer, or for POP3 the one that decides.
func (c *client) complete(e exchange, line string) bool {
	switch c.protocol {
	case imap:
		tag, _, _ := strings.Cut(e.say, " ")
		return e.say == "" || strings.HasPrefix(line, tag+" ")
	case smtp:
		return len(line) == 3 || len(line) > 3 && line[3] == ' '
	}
	return true
}

// nameIs asks an IMAP server for its name, which has to be the one wanted.
func (c *client) nameIs(tag, host string) error {
	if err := c.say(tag + " ID NIL"); err != nil {
		return err
	}
	line, err := c.hear()
	if err != nil {
		return fmt.Errorf("imap: ask for the server's name: %w", err)
	}
	if !strings.Contains(line, host) {
		return fmt.Errorf("imap: the session is not with %s but with a server that says %q", host, line)
	}
	_, err = c.exchange(exchange{want: tag + " OK"})
	return err
}
