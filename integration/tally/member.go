package tally

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Member is a fake server that speaks as much IMAP and LMTP as a session needs. It takes every password but "wrong".
type Member struct {
	Name string

	tally *Tally
	addrs map[string]string // by service

	mu        sync.Mutex
	listeners []net.Listener
	conns     map[*net.TCPConn]bool
	hung      chan struct{} // closed when it goes on; nil while it works
	work      sync.WaitGroup
}

// NewMember makes a member that is not there yet. addrs are its addresses, by imap and lmtp.
func (l *Tally) NewMember(name string, addrs map[string]string) *Member {
	return &Member{Name: name, tally: l, addrs: addrs, conns: map[*net.TCPConn]bool{}}
}

// Start listens.
func (m *Member) Start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for service, addr := range m.addrs {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		m.listeners = append(m.listeners, l)
		m.work.Go(func() { m.accept(l, service) })
	}
	return nil
}

// Kill ends the member as kill -9 does: nobody listens, and every connection is reset.
func (m *Member) Kill() {
	m.mu.Lock()
	for _, l := range m.listeners {
		l.Close()
	}
	m.listeners = nil
	for c := range m.conns {
		c.SetLinger(0)
		c.Close()
	}
	m.mu.Unlock()
	m.Resume()
	m.work.Wait()
}

// Hang stops the member as SIGSTOP does: the kernel takes connections, nobody answers, and what is open stays open.
func (m *Member) Hang() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hung == nil {
		m.hung = make(chan struct{})
	}
}

// Resume takes Hang back.
func (m *Member) Resume() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hung != nil {
		close(m.hung)
		m.hung = nil
	}
}

// pass waits while the member hangs.
func (m *Member) pass() {
	m.mu.Lock()
	hung := m.hung
	m.mu.Unlock()
	if hung != nil {
		<-hung
	}
}

func (m *Member) accept(l net.Listener, service string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		conn := c.(*net.TCPConn)
		m.mu.Lock()
		if len(m.listeners) == 0 {
			m.mu.Unlock()
			conn.Close()
			return
		}
		m.conns[conn] = true
		m.mu.Unlock()
		m.work.Go(func() {
			s := &session{member: m, conn: conn, lines: bufio.NewScanner(conn), service: service}
			s.run()
			m.mu.Lock()
			delete(m.conns, conn)
			m.mu.Unlock()
			conn.Close()
			s.leave()
		})
	}
}

// session is one connection.
type session struct {
	member  *Member
	conn    *net.TCPConn
	lines   *bufio.Scanner
	service string
	entries []*entry
}

func (s *session) run() {
	s.lines.Buffer(nil, 1<<20)
	s.member.pass()
	if s.service == "lmtp" {
		s.lmtp()
		return
	}
	s.imap()
}

func (s *session) say(format string, args ...any) {
	s.member.pass()
	fmt.Fprintf(s.conn, format+"\r\n", args...) // the reader notices when the peer is gone
}

func (s *session) enter(account string) {
	e := &entry{account: strings.ToLower(account), member: s.member.Name, service: s.service, conn: s.conn, since: time.Now()}
	s.entries = append(s.entries, e)
	s.member.tally.enter(e)
}

func (s *session) leave() {
	for _, e := range s.entries {
		s.member.tally.leave(e)
	}
	s.entries = nil
}

const capability = "CAPABILITY IMAP4rev1 SASL-IR LITERAL+ AUTH=PLAIN"

var login = regexp.MustCompile(`^"?([^" ]+)"? "?([^" ]+)"?$`)

func (s *session) imap() {
	s.say("* OK [%s] %s", capability, s.member.Name)
	for s.lines.Scan() {
		s.member.pass()
		tag, rest, _ := strings.Cut(s.lines.Text(), " ")
		verb, args, _ := strings.Cut(rest, " ")
		switch strings.ToUpper(verb) {
		case "LOGIN":
			m := login.FindStringSubmatch(args)
			if m == nil {
				s.say("%s BAD login", tag)
				continue
			}
			s.loggedIn(tag, m[1], m[2])
		case "AUTHENTICATE":
			_, initial, _ := strings.Cut(args, " ")
			text, err := base64.StdEncoding.DecodeString(initial)
			parts := strings.Split(string(text), "\x00")
			if err != nil || len(parts) != 3 {
				s.say("%s BAD authenticate", tag)
				continue
			}
			s.loggedIn(tag, parts[1], parts[2])
		case "CAPABILITY":
			s.say("* %s\r\n%s OK done", capability, tag)
		case "LOGOUT":
			s.say("* BYE\r\n%s OK done", tag)
			return
		default:
			s.say("%s OK %s", tag, s.member.Name)
		}
	}
}

func (s *session) loggedIn(tag, account, password string) {
	if password == "wrong" {
		s.say("%s NO [AUTHENTICATIONFAILED] no", tag)
		return
	}
	s.enter(account)
	s.say("%s OK [%s] logged in at %s", tag, capability, s.member.Name)
}

func (s *session) lmtp() {
	s.say("220 %s LMTP", s.member.Name)
	data, rcpts := false, 0
	for s.lines.Scan() {
		s.member.pass()
		line := s.lines.Text()
		verb, args, _ := strings.Cut(strings.ToUpper(line), " ")
		switch {
		case data && line == ".":
			s.leave() // before the answers: the mail is there, and the claim may go
			for range rcpts {
				s.say("250 2.0.0 %s has it", s.member.Name)
			}
			data, rcpts = false, 0
		case data:
		case verb == "LHLO":
			s.say("250-%s\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES", s.member.Name)
		case verb == "RCPT":
			address, _, _ := strings.Cut(strings.TrimPrefix(args, "TO:<"), ">")
			s.enter(address)
			rcpts++
			s.say("250 2.1.5 OK")
		case verb == "DATA":
			data = true
			s.say("354 go on")
		case verb == "RSET":
			s.leave()
			rcpts = 0
			s.say("250 2.0.0 OK")
		case verb == "QUIT":
			s.say("221 2.0.0 bye")
			return
		default:
			s.say("250 2.0.0 OK")
		}
	}
}
