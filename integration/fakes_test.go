package integration

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// fakes are members that misbehave, each at the address that the configuration gives its behaviour, for every protocol.
// They write down what they are told.
type fakes struct {
	w  *stage.World
	wg sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
	heard map[string]string // by behaviour: every byte that came in the clear or, below TLS, decrypted
}

// startFakes plays every behaviour until the end of the test; "dead" is played by nobody.
func startFakes(t testing.TB, w *stage.World) *fakes {
	f := &fakes{w: w, heard: make(map[string]string)}
	var listeners []net.Listener
	t.Cleanup(func() {
		for _, l := range listeners {
			l.Close()
		}
		f.mu.Lock()
		for _, c := range f.conns {
			c.Close()
		}
		f.mu.Unlock()
		f.wg.Wait()
	})
	for i, b := range stage.Behaviours() {
		if b == "dead" {
			continue
		}
		for _, p := range talk.Protocols() {
			l, err := net.Listen("tcp", w.Net.Addr(stage.HostFake+i, backendPort(p, talk.Plain)))
			if err != nil {
				t.Fatal(err)
			}
			listeners = append(listeners, l)
			f.wg.Go(func() { f.serve(l, b, p) })
		}
	}
	return f
}

func (f *fakes) serve(l net.Listener, behaviour string, p talk.Protocol) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns = append(f.conns, conn)
		f.mu.Unlock()
		f.wg.Go(func() {
			defer conn.Close()
			f.play(conn, behaviour, p)
		})
	}
}

// heardBy returns what the members of a behaviour were told so far.
func (f *fakes) heardBy(behaviour string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heard[behaviour]
}

func (f *fakes) note(behaviour, text string) {
	f.mu.Lock()
	f.heard[behaviour] += text
	f.mu.Unlock()
}

func (f *fakes) play(conn net.Conn, behaviour string, p talk.Protocol) {
	switch behaviour {
	case "silent":
		_, _ = io.Copy(io.Discard, conn) // until the frontend gives up
	case "closing":
	case "garbage":
		_, _ = conn.Write([]byte("\x00\xff\xfeHTTP/1.1 200 OK\r\nServer: none\r\n\r\n<html>\r\n"))
		_, _ = io.Copy(io.Discard, conn)
	case "endless":
		line := []byte("* " + strings.Repeat("la ", 1000))
		for {
			if _, err := conn.Write(line); err != nil {
				return
			}
		}
	default:
		s := &fakeSession{fakes: f, behaviour: behaviour, proto: p, conn: conn, r: bufio.NewReader(conn)}
		s.run()
	}
}

// fakeSession is a member that knows its protocol well enough to be logged in to.
type fakeSession struct {
	*fakes
	behaviour string
	proto     talk.Protocol
	conn      net.Conn
	r         *bufio.Reader
	secure    bool
}

// words are what a fake member says in one protocol.
type words struct{ greeting, ehlo, starttls, refusal, ok string }

func (s *fakeSession) words() words {
	return map[talk.Protocol]words{
		talk.IMAP: {greeting: "* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ STARTTLS AUTH=PLAIN AUTH=LOGIN] fake ready.\r\n",
			starttls: "OK begin\r\n", refusal: "NO [LIMIT] come back on Thursday\r\n", ok: "OK done\r\n"},
		talk.POP3: {greeting: "+OK fake ready.\r\n", starttls: "+OK begin\r\n", refusal: "-ERR [IN-USE] come back on Thursday\r\n", ok: "+OK\r\n"},
		talk.Submission: {greeting: "220 fake ready.\r\n", ehlo: "250-fake\r\n250-STARTTLS\r\n250-AUTH PLAIN LOGIN\r\n250 8BITMIME\r\n",
			starttls: "220 begin\r\n", refusal: "454 4.7.99 come back on Thursday\r\n", ok: "250 2.0.0 done\r\n"},
		talk.Sieve: {greeting: "\"IMPLEMENTATION\" \"fake\"\r\n\"SASL\" \"PLAIN LOGIN\"\r\n\"SIEVE\" \"fileinto\"\r\n\"STARTTLS\"\r\n\"VERSION\" \"1.0\"\r\nOK\r\n",
			starttls: "OK begin\r\n", refusal: "NO (QUOTA) \"come back on Thursday\"\r\n", ok: "OK\r\n"},
	}[s.proto]
}

func (s *fakeSession) say(text string) { _, _ = s.conn.Write([]byte(text)) } // the reader notices when the peer is gone

func (s *fakeSession) run() {
	w := s.words()
	s.say(w.greeting)
	for {
		line, err := s.r.ReadString('\n')
		s.note(s.behaviour, line)
		if err != nil {
			return
		}
		tag := ""
		if s.proto == talk.IMAP {
			tag, line, _ = strings.Cut(line, " ")
			tag += " "
		}
		verb := strings.ToUpper(strings.TrimSpace(line))
		switch verb, _, _ := strings.Cut(verb, " "); verb {
		case "STARTTLS", "STLS":
			if !s.startTLS(tag + w.starttls) {
				return
			}
		case "CAPABILITY":
			s.say("* CAPABILITY IMAP4rev1 SASL-IR LITERAL+ STARTTLS AUTH=PLAIN AUTH=LOGIN\r\n" + tag + w.ok)
		case "CAPA":
			s.say("+OK\r\nUSER\r\nSASL PLAIN LOGIN\r\nSTLS\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\n.\r\n")
		case "EHLO":
			s.say(w.ehlo)
		case "USER":
			s.say(w.ok)
		case "LOGIN", "PASS", "AUTH", "AUTHENTICATE":
			s.authenticate(tag, line)
		default:
			s.say(tag + w.ok)
		}
	}
}

// authenticate reads the response, if it was not with the command, and refuses.
func (s *fakeSession) authenticate(tag, line string) {
	fields := strings.Fields(line)
	if (strings.EqualFold(fields[0], "AUTH") || strings.EqualFold(fields[0], "AUTHENTICATE")) && len(fields) == 2 {
		s.say(map[talk.Protocol]string{talk.IMAP: "+ \r\n", talk.POP3: "+ \r\n", talk.Submission: "334 \r\n", talk.Sieve: "\"\"\r\n"}[s.proto])
		response, err := s.r.ReadString('\n')
		s.note(s.behaviour, response)
		if err != nil {
			return
		}
	}
	s.say(tag + s.words().refusal)
}

// startTLS answers STARTTLS as the behaviour has it, and says whether the session goes on.
func (s *fakeSession) startTLS(ok string) bool {
	if s.behaviour == "notls" {
		s.say(strings.NewReplacer("OK begin", "NO not today", "+OK begin", "-ERR not today", "220 begin", "454 4.7.0 not today").Replace(ok))
		return true
	}
	if s.behaviour == "injecting" {
		// An attacker on the wire adds an answer that the frontend would take for one given under TLS.
		s.say(ok + "* OK injected\r\n+OK injected\r\n250 injected\r\n")
	} else {
		s.say(ok)
	}
	pair, err := s.w.CA.Issue("other.example.com")
	if err != nil {
		return false
	}
	cert, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return false
	}
	c := tls.Server(s.conn, &tls.Config{Certificates: []tls.Certificate{cert}})
	_ = s.conn.SetDeadline(time.Now().Add(10 * time.Second))
	if err := c.Handshake(); err != nil {
		s.note(s.behaviour, "<handshake: "+err.Error()+">\n")
		return false
	}
	s.conn, s.r, s.secure = c, bufio.NewReader(c), true
	s.note(s.behaviour, "<TLS>\n")
	if s.proto == talk.Sieve {
		s.say(s.words().greeting)
	}
	return true
}

// scripted serves one listener with a handler for each connection, until the end of the test.
func scripted(t testing.TB, addr string, handle func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range slices.Clone(conns) {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
}
