package talk

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// Protocol is what a Conn speaks.
type Protocol string

// The protocols.
const (
	IMAP       Protocol = "imap"
	POP3       Protocol = "pop3"
	Submission Protocol = "submission"
	Sieve      Protocol = "sieve"
)

// Protocols returns all of them.
func Protocols() []Protocol { return []Protocol{IMAP, POP3, Submission, Sieve} }

// Mode is how TLS comes to a connection.
type Mode string

// The modes.
const (
	Plain    Mode = "plain"
	StartTLS Mode = "starttls"
	Implicit Mode = "implicit"
)

// Modes returns all of them.
func Modes() []Mode { return []Mode{Plain, StartTLS, Implicit} }

// Options says how to connect.
type Options struct {
	TLS        Mode             // Plain when absent
	Roots      *x509.CertPool   // whom to trust
	ServerName string           // the name asked for, and verified: mail.example.com when absent
	Cert       *tls.Certificate // shown to the server if it asks
	Source     string           // the address to connect from, or ""
	Before     string           // sent before anything else, such as a PROXY header
	Timeout    time.Duration    // of each step: 20 s when absent
}

// Conn is one session with a server.
type Conn struct {
	Proto    Protocol
	Greeting string // the first line, without its line end; for ManageSieve all lines up to OK
	Net      net.Conn

	r       *bufio.Reader
	opt     Options
	tag     int
	caps    []string
	quitted bool
}

// Reply is the answer to one command or exchange.
type Reply struct {
	OK    bool
	Final string   // the line that ended it, without the line end and, in IMAP, without the tag
	Lines []string // the lines before it
}

// Dial connects, and goes as far as the greeting and TLS.
func Dial(p Protocol, addr string, o Options) (*Conn, error) {
	c, err := Connect(p, addr, o)
	if err != nil {
		return nil, err
	}
	if err := c.open(); err != nil {
		c.Close()
		return nil, fmt.Errorf("open %s session with %s: %w", p, addr, err)
	}
	return c, nil
}

// Connect connects and says nothing: not even TLS has begun, and the greeting is not read.
func Connect(p Protocol, addr string, o Options) (*Conn, error) {
	if o.ServerName == "" {
		o.ServerName = "mail.example.com"
	}
	if o.Timeout == 0 {
		o.Timeout = 20 * time.Second
	}
	d := net.Dialer{Timeout: o.Timeout}
	if o.Source != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(o.Source)}
	}
	conn, err := d.DialContext(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &Conn{Proto: p, opt: o, Net: conn, r: bufio.NewReader(conn)}
	if o.Before != "" {
		if err := c.Send(o.Before); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

func (c *Conn) open() error {
	if c.opt.TLS == Implicit {
		if err := c.Handshake(); err != nil {
			return err
		}
	}
	if err := c.Greet(); err != nil {
		return err
	}
	if c.opt.TLS == StartTLS {
		return c.StartTLS()
	}
	return nil
}

// Greet reads the greeting, and for submission says EHLO.
func (c *Conn) Greet() error {
	if c.Proto == Sieve {
		r, err := c.sieveReply()
		if err != nil {
			return err
		}
		c.caps, c.Greeting = r.Lines, strings.Join(append(r.Lines, r.Final), "\n")
		return expect(r, "greeting")
	}
	line, err := c.ReadLine()
	if err != nil {
		return fmt.Errorf("read the greeting: %w", err)
	}
	c.Greeting = line
	prefix := map[Protocol]string{IMAP: "* OK", POP3: "+OK", Submission: "220"}[c.Proto]
	if !strings.HasPrefix(line, prefix) {
		return fmt.Errorf("greeting %q does not begin with %q", line, prefix)
	}
	if c.Proto == Submission {
		return c.ehlo()
	}
	return nil
}

func (c *Conn) ehlo() error {
	r, err := c.Command("EHLO client.example.net")
	if err != nil {
		return err
	}
	c.caps = append(r.Lines, r.Final)
	return expect(r, "EHLO")
}

// StartTLS asks for TLS in the protocol's words and shakes hands; ManageSieve and submission then say what they can do
// once more.
func (c *Conn) StartTLS() error {
	verb := map[Protocol]string{IMAP: "STARTTLS", POP3: "STLS", Submission: "STARTTLS", Sieve: "STARTTLS"}[c.Proto]
	r, err := c.Command(verb)
	if err != nil {
		return err
	}
	if err := expect(r, verb); err != nil {
		return err
	}
	if err := c.Handshake(); err != nil {
		return err
	}
	switch c.Proto {
	case Submission:
		return c.ehlo()
	case Sieve:
		r, err := c.sieveReply()
		if err != nil {
			return fmt.Errorf("read the capabilities after STARTTLS: %w", err)
		}
		c.caps = r.Lines
		return expect(r, "capabilities after STARTTLS")
	}
	return nil
}

// Handshake begins TLS at once.
func (c *Conn) Handshake() error {
	cfg := &tls.Config{RootCAs: c.opt.Roots, ServerName: c.opt.ServerName}
	if c.opt.Cert != nil {
		cfg.Certificates = []tls.Certificate{*c.opt.Cert}
	}
	t := tls.Client(c.Net, cfg)
	c.deadline()
	if err := t.Handshake(); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	c.Net, c.r = t, bufio.NewReader(t)
	return nil
}

func expect(r Reply, what string) error {
	if !r.OK {
		return fmt.Errorf("%s: %s", what, r.Final)
	}
	return nil
}

// Capabilities are the lines in which a submission or ManageSieve server last said what it can do.
func (c *Conn) Capabilities() []string { return c.caps }

// ReadLine reads one line, without its line end.
func (c *Conn) ReadLine() (string, error) {
	c.deadline()
	line, err := c.r.ReadString('\n')
	if err != nil {
		if line != "" {
			err = fmt.Errorf("%w behind %q", err, line)
		}
		return "", err
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// Reader is where lines come from: what follows the last line is read there.
func (c *Conn) Reader() io.Reader { c.deadline(); return c.r }

// Send writes bytes as they are.
func (c *Conn) Send(raw string) error {
	c.deadline()
	_, err := c.Net.Write([]byte(raw))
	return err
}

func (c *Conn) deadline() { _ = c.Net.SetDeadline(time.Now().Add(c.opt.Timeout)) }

// Rest reads until the server closes the connection and returns what came.
func (c *Conn) Rest() (string, error) {
	c.deadline()
	var b strings.Builder
	_, err := c.r.WriteTo(&b)
	return b.String(), err
}

// ErrQuit says that the session was ended by Quit before.
var ErrQuit = errors.New("session has ended")

// Quit ends the session in the protocol's words and waits until the server has closed.
func (c *Conn) Quit() error {
	if c.quitted {
		return ErrQuit
	}
	c.quitted = true
	defer c.Close()
	verb := map[Protocol]string{IMAP: "LOGOUT", POP3: "QUIT", Submission: "QUIT", Sieve: "LOGOUT"}[c.Proto]
	r, err := c.Command(verb)
	if err != nil {
		return err
	}
	return expect(r, verb)
}

// Close closes the connection without a word.
func (c *Conn) Close() { _ = c.Net.Close() }
