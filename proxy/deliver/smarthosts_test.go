package deliver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"mailmux/directory"
	"mailmux/proxy"
	"mailmux/proxy/backend"
	"mailmux/proxy/spool"
	"mailmux/tools/certs/pki"
)

// relay is a smarthost: go-smtp's server, which keeps what it takes.
type relay struct {
	address string
	server  *smtp.Server
	login   string // user:password that it wants; "" takes everybody
	words   []string

	mu    sync.Mutex
	mails []string // sender, recipients and text
}

// newRelay starts one. Words are its mechanisms.
func newRelay(t *testing.T, config *tls.Config, login string, words ...string) *relay {
	t.Helper()
	return relayNamed(t, "relay.example.net", config, login, words...)
}

// relayNamed starts one that greets by a name.
func relayNamed(t *testing.T, name string, config *tls.Config, login string, words ...string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{address: l.Addr().String(), login: login, words: words}
	r.server = smtp.NewServer(r)
	r.server.Domain, r.server.TLSConfig, r.server.EnableDSN = name, config, true
	var work sync.WaitGroup
	work.Go(func() { _ = r.server.Serve(l) })
	t.Cleanup(func() { r.server.Close(); work.Wait() })
	return r
}

func (r *relay) NewSession(*smtp.Conn) (smtp.Session, error) {
	return &relaySession{relay: r, welcome: r.login == ""}, nil
}

func (r *relay) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.mails...)
}

type relaySession struct {
	*relay
	welcome  bool
	envelope []string
}

func (s *relaySession) AuthMechanisms() []string { return s.words }

func (s *relaySession) Auth(mechanism string) (sasl.Server, error) {
	if mechanism == sasl.Plain {
		return sasl.NewPlainServer(func(_, user, password string) error { return s.check(user, password) }), nil
	}
	return &loginServer{check: s.check}, nil
}

// loginServer is the other side of AUTH LOGIN.
type loginServer struct {
	check func(user, password string) error
	said  []string
}

func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	if response != nil {
		l.said = append(l.said, string(response))
	}
	if len(l.said) < 2 {
		return []byte([]string{"Username:", "Password:"}[len(l.said)]), false, nil
	}
	return nil, true, l.check(l.said[0], l.said[1])
}

func (s *relaySession) check(user, password string) error {
	if user+":"+password != s.login {
		return errors.New("wrong")
	}
	s.welcome = true
	return nil
}

func (s *relaySession) Mail(from string, _ *smtp.MailOptions) error {
	if !s.welcome {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "log in first"}
	}
	s.envelope = []string{from}
	return nil
}

func (s *relaySession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "unknown@") {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "nobody there"}
	}
	s.envelope = append(s.envelope, to)
	return nil
}

func (s *relaySession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mails = append(s.mails, strings.Join(append(s.envelope, string(text)), " "))
	return err
}

func (s *relaySession) Reset()        {}
func (s *relaySession) Logout() error { return nil }

// nobodyHome is a directory that knows nobody.
type nobodyHome struct{}

func (nobodyHome) Recipient(context.Context, string, bool) (proxy.Route, error) {
	return proxy.Route{}, directory.ErrNoUser
}

func (nobodyHome) Normalise(address string) (directory.Name, error) {
	local, domain, _ := strings.Cut(address, "@")
	return directory.Name{Local: local, Domain: domain}, nil
}

func (nobodyHome) Member(proxy.Route, string, *backend.Tried) (*backend.Member, error) {
	return nil, backend.ErrNoMember
}

func (nobodyHome) MemberNamed(string, string) *backend.Member { return nil }

// outgoing is a running queue whose mail leaves by the smarthosts of a configuration.
func outgoing(t *testing.T, delivery Config, cfg OutgoingConfig) (*spool.Spool, *Smarthosts) {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	hosts, err := NewSmarthosts(cfg, backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := New(delivery)
	q := &Queued{Deliverer: d, Smarthosts: hosts, Server: func() QueueServer { return nobodyHome{} }, Hostname: func() string { return "mx.example.com" }}
	s, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: 1 << 20, FirstRetry: 20 * time.Millisecond, MaxRetry: 100 * time.Millisecond},
		spool.Services{Router: q, Deliverer: q, Hostname: "mx.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		hosts.Close()
		d.Close()
	})
	return s, hosts
}

// bring queues a message for recipients elsewhere.
func bring(t *testing.T, s *spool.Spool, from string, to ...string) {
	t.Helper()
	e := &spool.Envelope{From: from}
	for _, a := range to {
		e.To = append(e.To, spool.Recipient{Address: a, Host: Outgoing, Relay: true})
	}
	if _, err := s.Accept(t.Context(), e, strings.NewReader("Subject: x\r\n\r\n.text\r\n")); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10s: %s", what)
		}
	}
}

// The first smarthost that can be reached takes the mail, over a certificate that is verified and after a login, by either
// mechanism. What it refuses for good is told the sender, by the same way.
func TestSmarthosts(t *testing.T) {
	ca, err := pki.NewCA("test", pki.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pki.Request{Hosts: []string{"relay.example.net"}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := ca.Write(dir, "ca"); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair.Certificate}}
	host := func(r *relay, name string) SmarthostConfig {
		return SmarthostConfig{Address: r.address, TLSServerName: name, TLSCAFile: filepath.Join(dir, "ca.pem"), User: "mux", PasswordFile: secret}
	}
	for _, words := range [][]string{{"PLAIN", "LOGIN"}, {"LOGIN"}} {
		stranger := newRelay(t, config, "mux:sesame", words...) // its certificate is for another name
		wrong := newRelay(t, config, "mux:other", words...)
		good := newRelay(t, config, "mux:sesame", words...)
		last := newRelay(t, config, "mux:sesame", words...)
		s, _ := outgoing(t, Config{LocalDomains: []string{"example.com"}}, OutgoingConfig{Smarthosts: []SmarthostConfig{
			{Address: "127.0.0.1:1", TLS: "off"}, host(stranger, "other.example.net"), host(wrong, "relay.example.net"), host(good, "relay.example.net"),
			host(last, "relay.example.net")}})
		for range 3 {
			bring(t, s, "ann@example.com", "one@elsewhere.example", "two@elsewhere.example")
		}
		bring(t, s, "someone@elsewhere.example", "unknown@elsewhere.example")
		bring(t, s, "ann@example.com", "nobody@example.com") // ours, and nobody's: it does not leave; ann is nobody's either
		eventually(t, "the queue is empty", func() bool { return s.Stats().Messages == 0 })
		mails := good.got()
		if len(mails) != 4 {
			t.Errorf("%q: %d messages left, want 4:\n%s", words, len(mails), strings.Join(mails, "\n"))
		}
		plain, notes := 0, 0
		for _, m := range mails {
			switch {
			case m == "ann@example.com one@elsewhere.example two@elsewhere.example Subject: x\r\n\r\n.text\r\n":
				plain++
			case strings.HasPrefix(m, " someone@elsewhere.example ") && strings.Contains(m, "550 5.1.1 nobody there"):
				notes++
			}
		}
		if plain != 3 || notes != 1 {
			t.Errorf("%q: %d messages and %d notifications, want 3 and 1:\n%s", words, plain, notes, strings.Join(mails, "\n"))
		}
		if n := len(stranger.got()) + len(wrong.got()) + len(last.got()); n != 0 {
			t.Errorf("%q: %d messages went where they should not", words, n)
		}
	}
}

// With choice: weight all smarthosts take a share; without smarthosts nothing leaves.
func TestSmarthostsByWeight(t *testing.T) {
	a, b := newRelay(t, nil, ""), newRelay(t, nil, "")
	s, hosts := outgoing(t, Config{}, OutgoingConfig{Choice: "weight", Smarthosts: []SmarthostConfig{{Address: a.address, TLS: "off"}, {Address: b.address, TLS: "off", Weight: 3}}})
	const all = 200
	for i := range all {
		bring(t, s, "ann@example.com", fmt.Sprintf("x%d@elsewhere.example", i))
	}
	eventually(t, "all have left", func() bool { return len(a.got())+len(b.got()) == all })
	// A quarter is 50; below 15 or above 95 it comes once in a hundred million runs.
	if n := len(a.got()); n < 15 || n > 95 {
		t.Errorf("the smarthosts have %d and %d messages, want one to three", n, len(b.got()))
	}
	// Mail from strangers does not leave, though its recipient is nobody's here: its account went while it waited.
	e := &spool.Envelope{To: []spool.Recipient{{Address: "gone@elsewhere.example", Host: "back1"}}}
	if _, err := s.Accept(t.Context(), e, strings.NewReader("text")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is given up", func() bool { return s.Stats().Failed == 1 && s.Stats().Messages == 0 })
	if err := hosts.Configure(OutgoingConfig{}); err != nil {
		t.Fatal(err)
	}
	bring(t, s, "", "x@elsewhere.example")
	eventually(t, "the message is given up", func() bool { return s.Stats().Messages == 0 })
	if n := len(a.got()) + len(b.got()); n != all {
		t.Errorf("%d messages left without a smarthost", n-all)
	}
}

// A smarthost that is our own listener, or greets by our name, is a loop: the mail waits.
func TestSmarthostLoops(t *testing.T) {
	r := relayNamed(t, "MX.example.com", nil, "")
	s, _ := outgoing(t, Config{}, OutgoingConfig{Smarthosts: []SmarthostConfig{{Address: r.address, TLS: "off"}}})
	bring(t, s, "ann@example.com", "x@elsewhere.example")
	reply := ""
	eventually(t, "the loop is found", func() bool {
		err := s.List(t.Context(), spool.Filter{}, func(i *spool.Info) error { reply = i.Recipients[0].Reply; return nil })
		return err == nil && reply != ""
	})
	if !strings.Contains(reply, "our own name") || len(r.got()) > 0 {
		t.Errorf("reply %q, %d messages left", reply, len(r.got()))
	}
}
