package deliver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"mailmux/directory"
	"mailmux/proxy"
	"mailmux/proxy/backend"
	"mailmux/proxy/envelope"
)

// sink is a member that speaks LMTP and keeps what it is told.
type sink struct {
	*net.TCPListener

	mu     sync.Mutex
	lines  []string
	texts  strings.Builder
	conns  int
	hangUp bool                            // after each message
	answer func(rcpt string, n int) string // to the message, for one recipient; "" closes the connection
}

func newSink(t *testing.T, answer func(string, int) string) *sink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{TCPListener: l.(*net.TCPListener), answer: answer}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { s.serve(nc) })
		}
	})
	t.Cleanup(func() { l.Close(); work.Wait() })
	return s
}

func (s *sink) serve(nc net.Conn) {
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second)) // so that the test ends
	s.mu.Lock()
	s.conns++
	s.mu.Unlock()
	say := func(text string) { _, _ = io.WriteString(nc, text+"\r\n") }
	say("220 sink ready")
	r := bufio.NewReader(nc)
	var rcpts []string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		s.mu.Lock()
		s.lines = append(s.lines, line)
		s.mu.Unlock()
		switch verb := strings.ToUpper(line[:4]); {
		case verb == "LHLO":
			say("250-sink\r\n250-8BITMIME\r\n250 PIPELINING")
		case verb == "RCPT" && strings.Contains(line, "unknown"):
			say("550 5.1.1 <unknown> is not here")
		case verb == "RCPT":
			rcpts = append(rcpts, line)
			say("250 2.1.5 OK")
		case verb == "DATA":
			say("354 go on")
			var text strings.Builder
			for line := ""; line != ".\r\n"; {
				if line, err = r.ReadString('\n'); err != nil {
					return
				}
				text.WriteString(line)
			}
			s.mu.Lock()
			s.texts.WriteString(text.String())
			s.mu.Unlock()
			for i, rcpt := range rcpts {
				reply := s.answer(rcpt, i)
				if reply == "" {
					return
				}
				say(reply)
			}
			rcpts = nil
			s.mu.Lock()
			hangUp := s.hangUp
			s.mu.Unlock()
			if hangUp {
				return
			}
		default:
			say("250 2.0.0 OK")
		}
	}
}

func (s *sink) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.texts.String()
}

func (s *sink) heard() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

func (s *sink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// world is an engine with a host for each sink; the directory is a map.
type engine struct {
	table  *backend.Table
	mu     sync.Mutex
	homes  map[string]string // past the cache
	events []proxy.Delivery
}

func newEngine(t *testing.T, hosts map[string]string) *engine {
	t.Helper()
	cfg := backend.Config{Hosts: map[string]backend.HostConfig{}}
	for name, members := range hosts {
		h := backend.HostConfig{}
		for m := range strings.FieldsSeq(members) {
			h.Members = append(h.Members, backend.MemberConfig{Address: m, Name: m})
		}
		h.Check.Mode = "off"
		cfg.Hosts[name] = h
	}
	table, err := backend.New(cfg, backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(table.Close)
	return &engine{table: table, homes: map[string]string{}}
}

func (e *engine) route(t *testing.T, local, host string, cached bool) proxy.Route {
	t.Helper()
	h, err := e.table.Host(host)
	if err != nil {
		t.Fatal(err)
	}
	return proxy.Route{Name: directory.Name{Local: local, Domain: "example.com"}, Host: h,
		Account: directory.Account{Login: local + "@example.com", Host: host, Cached: cached}}
}

func (e *engine) Recipient(_ context.Context, address string, _ bool) (proxy.Route, error) {
	local, _, _ := strings.Cut(address, "@")
	h, err := e.table.Host(e.homes[address])
	return proxy.Route{Name: directory.Name{Local: local, Domain: "example.com"}, Host: h, Account: directory.Account{Login: address}}, err
}

func (e *engine) Member(r proxy.Route, service string, tried *backend.Tried) (*backend.Member, error) {
	return r.Host.Choose(service, r.Name.String(), tried)
}

func (e *engine) Delivered(d proxy.Delivery) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.events = append(e.events, d)
}

// send delivers one message and returns the replies.
func send(t *testing.T, d *Deliverer, e *engine, jobs ...Job) []string {
	t.Helper()
	body := d.NewBody()
	defer body.Close()
	if _, err := io.WriteString(body, "Subject: x\r\n\r\n.text\r\n"); err != nil {
		t.Fatal(err)
	}
	results := d.Deliver(t.Context(), e, &Message{Body: body, From: From{Hostname: "mail.example.com"}}, jobs)
	var replies []string
	for i := range jobs {
		replies = append(replies, results.Wait(i).Wire())
	}
	results.Close()
	return replies
}

func saved(string, int) string { return "250 2.0.0 saved" }

func job(r proxy.Route) Job {
	return Job{Recipient: envelope.Recipient{Address: r.Account.Login}, Route: r}
}

func newDeliverer(t *testing.T) *Deliverer {
	d := New(Config{MemberTimeout: 2 * time.Second, TempDir: t.TempDir()})
	t.Cleanup(d.Close)
	return d
}

func want(t *testing.T, got []string, prefixes ...string) {
	t.Helper()
	for i, p := range prefixes {
		if !strings.HasPrefix(got[i], p) {
			t.Errorf("reply %d is %q, want %q", i, got[i], p)
		}
	}
}

// Each recipient has the answer that its own member gave for it, whatever the others had: refused before the message, after
// it, not answered at all, and one that is given twice.
func TestEachRecipientHasItsOwnAnswer(t *testing.T) {
	good := newSink(t, func(rcpt string, _ int) string {
		if strings.Contains(rcpt, "full") {
			return "452 4.2.2 <full> is full"
		}
		return "250 2.0.0 saved"
	})
	dying := newSink(t, func(_ string, n int) string {
		if n == 1 {
			return ""
		}
		return "250 2.0.0 saved"
	})
	e := newEngine(t, map[string]string{"good": good.Addr().String(), "dying": dying.Addr().String(), "dead": "127.0.0.1:1"})
	d := newDeliverer(t)
	got := send(t, d, e, job(e.route(t, "ann", "good", false)), job(e.route(t, "unknown", "good", false)), job(e.route(t, "full", "good", false)),
		job(e.route(t, "bob", "dead", false)), job(e.route(t, "ann", "good", false)), job(e.route(t, "x", "dying", false)), job(e.route(t, "y", "dying", false)))
	want(t, got, "250 2.0.0", "550 5.1.1 <unknown>", "452 4.2.2 <full>", "451 4.4.1", "250 2.0.0", "250 2.0.0", "451 4.4.2")
	if len(e.events) != 7 {
		t.Errorf("%d delivery events, want 7", len(e.events))
	}
	if n := strings.Count(good.heard(), "RCPT TO:<ann@"); n != 1 {
		t.Errorf("ann was named %d times to her member", n)
	}
}

// Connections are used again, and one that the member has closed meanwhile is not a failure.
func TestConnectionsAreReused(t *testing.T) {
	s := newSink(t, saved)
	e := newEngine(t, map[string]string{"good": s.Addr().String()})
	d := newDeliverer(t)
	for range 5 {
		want(t, send(t, d, e, job(e.route(t, "ann", "good", false))), "250")
	}
	if n := s.count(); n != 1 {
		t.Errorf("%d connections for five messages", n)
	}
	closing := newSink(t, saved)
	closing.mu.Lock()
	closing.hangUp = true
	closing.mu.Unlock()
	e = newEngine(t, map[string]string{"good": closing.Addr().String()})
	for range 5 {
		want(t, send(t, d, e, job(e.route(t, "ann", "good", false))), "250")
	}
}

// Many messages at once share a few connections: each arrives whole, and once.
func TestMessagesShareConnections(t *testing.T) {
	s := newSink(t, saved)
	e := newEngine(t, map[string]string{"good": s.Addr().String()})
	d := newDeliverer(t)
	var work sync.WaitGroup
	const senders, each = 16, 20
	for i := range senders {
		r := job(e.route(t, fmt.Sprint("u", i), "good", false))
		work.Go(func() {
			for range each {
				want(t, send(t, d, e, r), "250")
			}
		})
	}
	work.Wait()
	if n := strings.Count(s.text(), "Subject: x\r\n\r\n..text\r\n.\r\n"); n != senders*each {
		t.Errorf("%d of %d messages arrived whole", n, senders*each)
	}
}

// A member that cannot be reached is left for the next one of its host; a recipient that is refused follows its account.
func TestDeliveriesFollow(t *testing.T) {
	s := newSink(t, saved)
	e := newEngine(t, map[string]string{"cluster": "127.0.0.1:1 " + s.Addr().String(), "old": s.Addr().String(), "new": newSink(t, saved).Addr().String()})
	moving := newSink(t, func(string, int) string { return "550 5.1.1 moved away" })
	d := newDeliverer(t)
	var jobs []Job
	for i := range 20 {
		jobs = append(jobs, job(e.route(t, fmt.Sprint("u", i), "cluster", false)))
	}
	for i, reply := range send(t, d, e, jobs...) {
		if !strings.HasPrefix(reply, "250") {
			t.Errorf("%d: %s", i, reply)
		}
	}
	e.homes["unknown@example.com"] = "old"
	want(t, send(t, d, e, job(e.route(t, "unknown", "old", true))), "550 5.1.1") // has not moved
	e = newEngine(t, map[string]string{"old": moving.Addr().String(), "new": s.Addr().String()})
	e.homes["ann@example.com"] = "new"
	want(t, send(t, d, e, job(e.route(t, "ann", "old", true))), "250")
	want(t, send(t, d, e, job(e.route(t, "ann", "old", false))), "550 5.1.1 moved away")
}

// A text that breaks off is not delivered: the member never sees an end of it.
func TestBrokenTextIsNotDelivered(t *testing.T) {
	s := newSink(t, saved)
	e := newEngine(t, map[string]string{"good": s.Addr().String()})
	d := newDeliverer(t)
	r := e.route(t, "ann", "good", false)
	m, err := e.Member(r, "lmtp", nil)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := d.Begin(t.Context(), m, "lmtp", &From{Hostname: "mail.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := tx.Rcpt(envelope.Recipient{Address: "ann@example.com"}, "ann@example.com"); err != nil || reply.Code != 250 {
		t.Fatal(reply, err)
	}
	broken := errors.New("the client is gone")
	if _, sent, err := tx.Data(io.MultiReader(strings.NewReader("half\r\n"), &failing{broken})); err != broken || sent {
		t.Errorf("%v, sent %t", err, sent)
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }
