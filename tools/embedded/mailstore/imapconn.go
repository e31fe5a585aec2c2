package mailstore

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxIMAPLine bounds a command line that imapConn looks at; the library refuses longer ones.
const maxIMAPLine = 64 << 10

// announcement matches what carries capabilities: a greeting or the OK of a login, or the answer to CAPABILITY.
var announcement = regexp.MustCompile(`^(\S+ OK \[CAPABILITY |\* CAPABILITY )([^\]\r\n]*)`)

// literalEnd matches a line behind which a literal follows.
var literalEnd = regexp.MustCompile(`\{(\d{1,10})\+?\}\r?\n$`)

// imapConn stands between the socket and the IMAP library, and adds what the library lacks: the ID command (RFC 2971),
// STARTTLS that is told apart from TLS below, and texts that name the backend. The library reads and writes through it
// as if it were the socket.
type imapConn struct {
	backend *Backend
	reader  *bufio.Reader // used by Read only
	pending []byte        // of a command line, for the library to read
	literal int64         // bytes of a literal that pass unread
	broken  error         // why our own command ended the session

	mu       sync.Mutex
	nc       net.Conn // replaced by STARTTLS
	announce bool     // the next capabilities that the library writes are to be completed
	told     map[string]string
	loggedIn bool
}

// newIMAPConn wraps a socket. The greeting is the first announcement.
func newIMAPConn(b *Backend, nc net.Conn) *imapConn {
	return &imapConn{backend: b, nc: nc, reader: bufio.NewReaderSize(nc, maxIMAPLine), announce: true}
}

// Read implements net.Conn: it gives the library one command line, or a piece of a literal, at a time.
func (c *imapConn) Read(p []byte) (int, error) {
	if c.broken != nil {
		return 0, c.broken
	}
	for len(c.pending) == 0 && c.literal == 0 {
		line, err := c.reader.ReadSlice('\n')
		if err != nil && len(line) == 0 {
			return 0, err
		}
		if err == nil {
			mine, err := c.command(string(line))
			if err != nil {
				c.broken = err
				c.Close()
				return 0, err
			}
			if mine {
				continue
			}
		}
		c.pending = append(c.pending, line...) // also a line that is too long or has no end: the library refuses it
		if m := literalEnd.FindSubmatch(line); m != nil {
			c.literal, _ = strconv.ParseInt(string(m[1]), 10, 64)
		}
	}
	if len(c.pending) > 0 {
		n := copy(p, c.pending)
		c.pending = c.pending[n:]
		return n, nil
	}
	n, err := c.reader.Read(p[:min(int64(len(p)), c.literal)])
	c.literal -= int64(n)
	return n, err
}

// command looks at a command line. It answers those that are ours, and reports whether the line was.
func (c *imapConn) command(line string) (mine bool, err error) {
	tag, rest, ok := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
	if !ok || tag == "" || literalEnd.MatchString(line) && !strings.HasPrefix(strings.ToUpper(rest), "LOGIN ") {
		return false, nil
	}
	verb, args, _ := strings.Cut(rest, " ")
	switch strings.ToUpper(verb) {
	case "ID":
		return true, c.answerID(tag, args)
	case "STARTTLS":
		if c.backend.config.TLS != nil && !c.secured() {
			return true, c.startTLS(tag)
		}
	case "CAPABILITY", "LOGIN", "AUTHENTICATE":
		c.mu.Lock()
		c.announce = true
		c.mu.Unlock()
	}
	return false, nil
}

// answerID remembers what the client says about itself and says who we are.
func (c *imapConn) answerID(tag, args string) error {
	told := make(map[string]string)
	parts := quotedStrings(args)
	for i := 0; i+1 < len(parts); i += 2 {
		told[strings.ToLower(parts[i])] = parts[i+1]
	}
	c.mu.Lock()
	if len(told) > 0 {
		c.told = told
	}
	nc := c.nc
	c.mu.Unlock()
	_, err := fmt.Fprintf(nc, "* ID (\"name\" \"%s\")\r\n%s OK ID completed\r\n", c.backend.config.Name, tag)
	return err
}

// quotedStrings lists the quoted strings of a list; NIL stands for an empty one.
func quotedStrings(s string) []string {
	var out []string
	s = strings.Trim(s, "()")
	for s = strings.TrimLeft(s, " "); s != ""; s = strings.TrimLeft(s, " ") {
		if s[0] != '"' {
			_, rest, _ := strings.Cut(s, " ")
			out, s = append(out, ""), rest
			continue
		}
		var value []byte
		i := 1
		for ; i < len(s) && s[i] != '"'; i++ {
			if s[i] == '\\' && i+1 < len(s) {
				i++
			}
			value = append(value, s[i])
		}
		out, s = append(out, string(value)), s[min(i+1, len(s)):]
	}
	return out
}

// startTLS shakes hands. Bytes that came behind the command in the clear end the session.
func (c *imapConn) startTLS(tag string) error {
	if c.reader.Buffered() > 0 {
		return errInjected
	}
	plain := c.current()
	if _, err := fmt.Fprintf(plain, "%s OK begin TLS\r\n", tag); err != nil {
		return err
	}
	secured := tls.Server(plain, c.backend.config.TLS)
	if err := secured.Handshake(); err != nil { // the library's read deadline bounds it
		return err
	}
	c.reader.Reset(secured)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nc = secured
	c.told = nil
	return nil
}

// Write implements net.Conn. The library flushes each response as a whole, so that one which announces capabilities
// begins a write.
func (c *imapConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	nc, announce := c.nc, c.announce
	if announce {
		if m := announcement.FindSubmatchIndex(p); m != nil {
			c.announce = false
			out := c.complete(p, m)
			c.mu.Unlock()
			if _, err := nc.Write(out); err != nil {
				return 0, err
			}
			return len(p), nil
		}
	}
	c.mu.Unlock()
	return nc.Write(p)
}

// complete adds our capabilities to the library's, and our name to its texts. The caller holds the lock.
func (c *imapConn) complete(p []byte, m []int) []byte {
	added := " ID"
	_, secured := c.nc.(*tls.Conn)
	c.loggedIn = c.loggedIn || p[0] != '*' // a tagged OK with capabilities ends a login
	if c.backend.config.TLS != nil && !secured && !c.loggedIn {
		added += " STARTTLS"
	}
	caps := string(p[m[4]:m[5]]) + added
	if c.backend.config.RequireTLS && !secured && !c.loggedIn {
		caps = strings.NewReplacer(" AUTH=PLAIN", "", " AUTH=LOGIN", "").Replace(caps) + " LOGINDISABLED"
	}
	text := bytes.Replace(p[m[5]:], []byte("IMAP server ready"), []byte(c.backend.config.Name+" IMAP ready"), 1)
	text = bytes.Replace(text, []byte("Logged in"), []byte("Logged in to "+c.backend.config.Name), 1)
	return append(append(bytes.Clone(p[:m[4]]), caps...), text...)
}

// identity is what the client said about itself by ID.
func (c *imapConn) identity() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.told
}

// secured reports whether TLS is there.
func (c *imapConn) secured() bool {
	_, ok := c.current().(*tls.Conn)
	return ok
}

// current is the socket, or TLS on it.
func (c *imapConn) current() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nc
}

// Close implements net.Conn.
func (c *imapConn) Close() error {
	c.backend.forget(c)
	closeHard(c.current())
	return nil
}

// LocalAddr implements net.Conn.
func (c *imapConn) LocalAddr() net.Addr { return c.current().LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *imapConn) RemoteAddr() net.Addr { return c.current().RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *imapConn) SetDeadline(t time.Time) error { return c.current().SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *imapConn) SetReadDeadline(t time.Time) error { return c.current().SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *imapConn) SetWriteDeadline(t time.Time) error { return c.current().SetWriteDeadline(t) }
