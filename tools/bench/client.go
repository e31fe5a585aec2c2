package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// client is a mail program: one worker of a test, with a buffer that its sessions share.
type client struct {
	w     *world
	p     *peer
	from  net.IP
	tls   *tls.Config
	r     *bufio.Reader
	nc    net.Conn
	parts [3]time.Duration // greeting, login and NOOP of the last session
}

// newClient makes a worker with an address of its own, so that many sessions do not run out of ports.
func newClient(w *world, p *peer, number int, cache tls.ClientSessionCache, name string) *client {
	from := net.ParseIP(w.ip(101 + number%20))
	return &client{w: w, p: p, from: from, r: bufio.NewReaderSize(nil, 64<<10), tls: &tls.Config{
		InsecureSkipVerify: true, // the certificates are this run's own
		ServerName:         name, ClientSessionCache: cache, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
	}}
}

// late leaves the choice of the port to connect, which knows the destination: bind alone would run out of ports.
func late(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
	return errors.Join(err, failed)
}

// patience bounds a whole session.
const patience = 30 * time.Second

func (c *client) connect(ctx context.Context, port string, over bool) error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: c.from}, Control: late, Timeout: patience}
	nc, err := d.DialContext(ctx, "tcp", c.w.addr(c.p.host, port))
	if err != nil {
		return err
	}
	nc.SetDeadline(time.Now().Add(patience))
	c.use(nc)
	if over {
		return c.startTLS()
	}
	return nil
}

func (c *client) use(nc net.Conn) {
	c.nc = nc
	c.r.Reset(nc)
}

func (c *client) startTLS() error {
	t := tls.Client(c.nc, c.tls)
	if err := t.Handshake(); err != nil {
		return err
	}
	c.use(t)
	return nil
}

func (c *client) say(line string) error {
	_, err := io.WriteString(c.nc, line+"\r\n")
	return err
}

// until reads lines up to one that begins with a word, which has to go on with good.
func (c *client) until(word, good string) (string, error) {
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("waiting for %q: %w", word, err)
		}
		if rest, ok := strings.CutPrefix(line, word); ok {
			if !strings.HasPrefix(rest, good) {
				return "", fmt.Errorf("%s answered: %s", c.p.name, strings.TrimSpace(line))
			}
			return line, nil
		}
	}
}

func (c *client) ask(line, word, good string) (string, error) {
	if err := c.say(line); err != nil {
		return "", err
	}
	return c.until(word, good)
}

// atHome checks that the backend which answered is the account's, if the peer looks accounts up and passes that on.
func (c *client) atHome(answer string, account int) error {
	if c.p.routes && strings.Contains(answer, c.w.net) && !strings.Contains(answer, c.w.home(account)) {
		return fmt.Errorf("%s brought account %d to the wrong backend: %s", c.p.name, account, answer)
	}
	return nil
}

// imapLogin connects and logs in.
func (c *client) imapLogin(ctx context.Context, t *test, account int) error {
	began := time.Now()
	if err := c.connect(ctx, t.port, t.tls); err != nil {
		return err
	}
	if _, err := c.until("* ", "OK"); err != nil {
		return err
	}
	if t.startTLS {
		if _, err := c.ask("s STARTTLS", "s ", "OK"); err != nil {
			return err
		}
		if err := c.startTLS(); err != nil {
			return err
		}
	}
	greeted := time.Now()
	answer, err := c.ask("a LOGIN "+user(account)+" secret", "a ", "OK")
	if err != nil {
		return err
	}
	c.parts[0], c.parts[1] = greeted.Sub(began), time.Since(greeted)
	return c.atHome(answer, account)
}

func (c *client) imap(ctx context.Context, t *test, account int) error {
	if err := c.imapLogin(ctx, t, account); err != nil {
		return err
	}
	asked := time.Now()
	if _, err := c.ask("n NOOP", "n ", "OK"); err != nil {
		return err
	}
	c.parts[2] = time.Since(asked)
	_, err := c.ask("z LOGOUT", "z ", "OK")
	return err
}

func (c *client) pop3(ctx context.Context, t *test, account int) error {
	if err := c.connect(ctx, t.port, t.tls); err != nil {
		return err
	}
	if _, err := c.until("+", "OK"); err != nil {
		return err
	}
	for _, line := range []string{"USER " + user(account), "PASS secret", "NOOP", "QUIT"} {
		answer, err := c.ask(line, "", "+OK")
		if err != nil {
			return err
		}
		if err := c.atHome(answer, account); err != nil {
			return err
		}
	}
	return nil
}

// message is 4 KiB, with the dot that ends it.
var message = strings.Repeat(strings.Repeat("x", 62)+"\r\n", 64) + "."

// step is a line of SMTP, "" for none, and how its answer begins.
type step struct{ line, answer string }

func (c *client) submission(ctx context.Context, t *test, account int) error {
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + user(account) + "\x00secret"))
	return c.send(ctx, t, "b@example.com", step{"", "220 "}, step{"EHLO bench.example.com", "250 "}, step{"AUTH PLAIN " + plain, "235 "})
}

func (c *client) lmtp(ctx context.Context, t *test, account int) error {
	return c.send(ctx, t, user(account), step{"", "220 "}, step{"LHLO bench.example.com", "250 "})
}

// send connects, goes through the first steps, and sends the message.
func (c *client) send(ctx context.Context, t *test, to string, first ...step) error {
	if err := c.connect(ctx, t.port, t.tls); err != nil {
		return err
	}
	for _, s := range append(first, step{"MAIL FROM:<a@example.com>", "250 "}, step{"RCPT TO:<" + to + ">", "250 "},
		step{"DATA", "354 "}, step{message, "250 "}, step{"QUIT", "221 "}) {
		if s.line != "" {
			if err := c.say(s.line); err != nil {
				return err
			}
		}
		if err := c.reply(s.answer); err != nil {
			return err
		}
	}
	return nil
}

// reply reads an SMTP reply, whose last line has to begin with good.
func (c *client) reply(good string) error {
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", good, err)
		}
		if strings.HasPrefix(line, good) {
			return nil
		}
		if len(line) < 4 || line[3] != '-' {
			return fmt.Errorf("%s answered: %s", c.p.name, strings.TrimSpace(line))
		}
	}
}

// fetch reads one literal.
func (c *client) fetch(size int) error {
	if err := c.say(fmt.Sprintf("f FETCH %d", size)); err != nil {
		return err
	}
	if _, err := c.until("* ", "1 FETCH"); err != nil {
		return err
	}
	if _, err := c.r.Discard(size); err != nil {
		return err
	}
	_, err := c.until("f ", "OK")
	return err
}

// close ends the connection, without TLS's goodbye, which would be one more write.
func (c *client) close() {
	if t, ok := c.nc.(*tls.Conn); ok {
		c.nc = t.NetConn()
	}
	if c.nc != nil {
		c.nc.Close()
		c.nc = nil
	}
}
