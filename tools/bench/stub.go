package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The ports of every server here; each has an address of its own.
const (
	portIMAP       = "10143"
	portIMAPS      = "10993"
	portRSA        = "11993" // IMAP over TLS with an RSA certificate
	portPOP3       = "10110"
	portSubmission = "10587"
	portLMTP       = "10024"
)

// literal is what FETCH returns pieces of.
var literal = make([]byte, 8<<20)

// runStub is the role of a backend: IMAP, POP3, submission and LMTP on one address, IMAP also over TLS for direct
// connections. It accepts every password. Its words are as few as the tests need, so that it costs little.
func runStub(args []string) error {
	ip, cert, identity := args[0], args[1], len(args) > 2 && args[2] == "identity"
	config, err := serverTLS(cert)
	if err != nil {
		return err
	}
	s := &stub{name: ip, identity: identity}
	errs := make(chan error)
	for port, serve := range map[string]func(*peerConn) error{
		portIMAP: s.imap, portIMAPS: s.imap, portPOP3: s.pop3, portSubmission: s.submission,
		portLMTP: s.submission,
	} {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, port))
		if err != nil {
			return err
		}
		go func() {
			for {
				nc, err := l.Accept()
				if err != nil {
					errs <- err
					return
				}
				if port == portIMAPS {
					nc = config(nc)
				}
				go s.serve(nc, serve)
			}
		}()
	}
	return <-errs
}

type stub struct {
	name     string
	identity bool // offer IMAP's ID, and XCLIENT
}

// peerConn is a connection of a stub's with one buffer for lines.
type peerConn struct {
	net.Conn
	r *bufio.Reader
}

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 1024) }}

func (s *stub) serve(nc net.Conn, speak func(*peerConn) error) {
	defer nc.Close()
	c := &peerConn{nc, readers.Get().(*bufio.Reader)}
	c.r.Reset(nc)
	speak(c)
	c.r.Reset(nil)
	readers.Put(c.r)
}

func (c *peerConn) line() (string, error) {
	l, err := c.r.ReadString('\n')
	return strings.TrimRight(l, "\r\n"), err
}

func (c *peerConn) say(parts ...string) { io.WriteString(c, strings.Join(parts, "")) }

func (s *stub) imap(c *peerConn) error {
	can := "IMAP4rev1 SASL-IR LITERAL+ IDLE AUTH=PLAIN"
	if s.identity {
		can += " ID"
	}
	c.say("* OK [CAPABILITY ", can, "] stub\r\n")
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		w := strings.SplitN(line, " ", 3)
		if len(w) < 2 {
			return fmt.Errorf("not a command: %q", line)
		}
		switch strings.ToUpper(w[1]) {
		case "CAPABILITY":
			c.say("* CAPABILITY ", can, "\r\n", w[0], " OK\r\n")
		case "ID":
			c.say("* ID NIL\r\n", w[0], " OK\r\n")
		case "LOGIN":
			if err := s.literals(c, line); err != nil {
				return err
			}
			c.say(w[0], " OK [CAPABILITY IMAP4rev1 LITERAL+ IDLE] ", s.name, "\r\n")
		case "AUTHENTICATE":
			if len(w) < 3 || !strings.Contains(w[2], " ") {
				c.say("+ \r\n")
				if _, err := c.line(); err != nil {
					return err
				}
			}
			c.say(w[0], " OK [CAPABILITY IMAP4rev1 LITERAL+ IDLE] ", s.name, "\r\n")
		case "FETCH":
			n, err := strconv.Atoi(w[2])
			if err != nil || n > len(literal) {
				return fmt.Errorf("cannot fetch %q", w[2])
			}
			c.say("* 1 FETCH (BODY[] {", w[2], "}\r\n")
			c.Write(literal[:n])
			c.say(")\r\n", w[0], " OK\r\n")
		case "LOGOUT":
			c.say("* BYE\r\n", w[0], " OK\r\n")
			return nil
		default:
			c.say(w[0], " OK\r\n")
		}
	}
}

// literals asks for the literals of a LOGIN, which nginx sends.
func (s *stub) literals(c *peerConn, line string) error {
	for strings.HasSuffix(line, "}") {
		if !strings.HasSuffix(line, "+}") {
			c.say("+ \r\n")
		}
		size := strings.TrimSuffix(line[strings.LastIndexByte(line, '{')+1:len(line)-1], "+")
		n, err := strconv.Atoi(size)
		if err != nil {
			return err
		}
		if _, err := c.r.Discard(n); err != nil {
			return err
		}
		if line, err = c.line(); err != nil {
			return err
		}
	}
	return nil
}

func (s *stub) pop3(c *peerConn) error {
	if s.identity {
		c.say("+OK [XCLIENT] stub\r\n")
	} else {
		c.say("+OK stub\r\n")
	}
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		verb, arg, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "CAPA":
			c.say("+OK\r\nUSER\r\nSASL PLAIN\r\nPIPELINING\r\n.\r\n")
		case "AUTH":
			if !strings.Contains(arg, " ") {
				c.say("+ \r\n")
				if _, err := c.line(); err != nil {
					return err
				}
			}
			c.say("+OK ", s.name, "\r\n")
		case "QUIT":
			c.say("+OK\r\n")
			return nil
		default:
			c.say("+OK ", s.name, "\r\n")
		}
	}
}

func (s *stub) submission(c *peerConn) error {
	c.say("220 stub ESMTP\r\n")
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		verb, _, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "EHLO", "LHLO":
			if s.identity {
				c.say("250-stub\r\n250-PIPELINING\r\n250-AUTH PLAIN LOGIN\r\n250-XCLIENT ADDR PORT LOGIN SESSION TTL\r\n250 SIZE\r\n")
			} else {
				c.say("250-stub\r\n250-PIPELINING\r\n250-AUTH PLAIN LOGIN\r\n250 SIZE\r\n")
			}
		case "XCLIENT":
			c.say("220 stub ESMTP\r\n")
		case "AUTH":
			if strings.Count(line, " ") < 2 {
				c.say("334 \r\n")
				if _, err := c.line(); err != nil {
					return err
				}
			}
			c.say("235 2.7.0 ", s.name, "\r\n")
		case "DATA":
			c.say("354 go on\r\n")
			for line != "." {
				if line, err = c.line(); err != nil {
					return err
				}
			}
			c.say("250 2.0.0 taken\r\n")
		case "QUIT":
			c.say("221 2.0.0 bye\r\n")
			return nil
		default:
			c.say("250 2.0.0 ok\r\n")
		}
	}
}

// ready waits until an address accepts connections.
func ready(address string) error {
	var err error
	for range 200 {
		var nc net.Conn
		if nc, err = net.DialTimeout("tcp", address, time.Second); err == nil {
			return nc.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}
