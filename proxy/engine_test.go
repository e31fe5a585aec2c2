package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailmux/directory"
	"mailmux/proxy/auth"
	"mailmux/proxy/backend"
	"mailmux/proxy/wire"
)

// toy is a protocol with as few words as the engine can be tried with.
//
//	S: HELLO            C: LOGIN user password     S: OK | NO cause      C: TLS  S: GO      C: PANIC
type toy struct{}

func (toy) Serve(ctx context.Context, s *Session) error {
	s.Client.Line("HELLO ", s.ID())
	for {
		line, err := s.Client.ReadLine()
		if err != nil {
			return err
		}
		words := strings.Split(string(line), " ")
		switch {
		case words[0] == "PANIC":
			panic("on purpose")
		case words[0] == "TLS":
			s.Client.Line("GO")
			if err := s.StartTLS(); err != nil {
				return err
			}
		case words[0] == "LOGIN" && len(words) == 3:
			if err := toyLogin(ctx, s, words[1], words[2]); err == nil {
				s.Client.Line("OK")
				return s.HandOver()
			} else if CauseOf(err) == CauseLimit {
				return err
			} else {
				s.Client.Line("NO ", CauseOf(err).String())
			}
		default:
			if err := s.BadCommand(false); err != nil {
				return err
			}
			s.Client.Line("BAD")
		}
	}
}

func (toy) Redact(line []byte) []byte {
	return wire.Redact(line, 0, func([]byte) wire.Showing { return wire.ShowVerb })
}

func (toy) Bye(_ *Session, cause Cause) string { return "BYE " + cause.String() + "\r\n" }

func toyLogin(ctx context.Context, s *Session, user, password string) error {
	creds, err := auth.Password(user, password)
	if err != nil {
		return err
	}
	return s.Login(ctx, creds, func(b *Backend) error {
		if line, err := b.Conn.ReadLine(); err != nil || string(line) != "WELCOME" {
			return errors.Join(ErrProtocol, err)
		}
		t, _ := b.Told()
		b.Conn.Secret("USER [redacted]", "USER ", t.User, " ", t.Password)
		line, err := b.Conn.ReadLine()
		switch {
		case err != nil:
			return err
		case string(line) == "OK":
			return nil
		case string(line) == "NO":
			return ErrRejected
		}
		return &Reply{Text: string(line)}
	})
}

// accounts is a directory in memory.
type accounts struct {
	mu     sync.Mutex
	hosts  map[string]string // fresh
	cached map[string]string // remembered, if different
	err    error
}

func (a *accounts) get(name directory.Name, cached bool) (directory.Account, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := name.String()
	if host, ok := a.cached[key]; ok && cached {
		return directory.Account{DN: "uid=" + key, Login: key, Host: host, Cached: true}, nil
	}
	if a.err != nil {
		return directory.Account{}, a.err
	}
	host, ok := a.hosts[key]
	if !ok {
		return directory.Account{}, directory.ErrNoUser
	}
	return directory.Account{DN: "uid=" + key, Login: key, Host: host}, nil
}

func (a *accounts) Lookup(_ context.Context, n directory.Name) (directory.Account, error) {
	return a.get(n, true)
}
func (a *accounts) Refresh(_ context.Context, n directory.Name) (directory.Account, error) {
	return a.get(n, false)
}
func (a *accounts) CheckPassword(context.Context, directory.Account, string) error { return nil }

// toyBackend listens as a member: it accepts "right", and "rightly" after a while, refuses "wrong", says "BUSY" to "busy",
// and then echoes.
func toyBackend(t testing.TB, ip string) string {
	l, err := net.Listen("tcp", ip+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.WriteString(c, "WELCOME\r\n")
				r := bufio.NewReader(c)
				line, _ := r.ReadString('\n')
				if strings.Contains(line, " rightly") {
					time.Sleep(300 * time.Millisecond) // what a slow member takes
				}
				switch {
				case strings.Contains(line, " right"):
					io.WriteString(c, "OK\r\nat "+ip+"\r\n")
					io.Copy(c, r)
				case strings.Contains(line, " busy"):
					io.WriteString(c, "BUSY\r\n")
				default:
					io.WriteString(c, "NO\r\n")
				}
			}()
		}
	}()
	return l.Addr().String()
}

// site is a server in front of two toy backends.
type site struct {
	*Server
	dir  *accounts
	addr string
}

func newSite(t testing.TB, change func(*Config), log ...*slog.Logger) *site {
	t.Helper()
	one, two := toyBackend(t, "127.0.0.1"), toyBackend(t, "127.0.0.2")
	table, err := backend.New(backend.Config{Hosts: map[string]backend.HostConfig{
		"one":  {Members: []backend.MemberConfig{{Address: one}}},
		"two":  {Members: []backend.MemberConfig{{Address: two}}},
		"dead": {Members: []backend.MemberConfig{{Address: "127.0.0.1:1"}}},
	}}, backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(table.Close)
	dir := &accounts{hosts: map[string]string{"ann": "one", "bob": "two", "dee": "dead", "eve": "nowhere"}, cached: map[string]string{}}
	cfg := Config{
		Hostname:  "mail.example.com",
		Listeners: []Listener{{Service: "imap", Address: "127.0.0.1:0", AllowPlaintext: true}},
		Limits:    Limits{FailureDelay: time.Millisecond, FailureDelayMax: 2 * time.Millisecond, HandOverTimeout: 5 * time.Second},
	}
	if change != nil {
		change(&cfg)
	}
	parts := Parts{Config: cfg, Directory: dir, Hosts: table, Handlers: map[string]Handler{"imap": toy{}}}
	if len(log) > 0 {
		parts.Log = log[0]
	}
	srv, err := New(parts)
	if err != nil {
		t.Fatal(err)
	}
	for i := range srv.timing.recent {
		srv.timing.recent[i] = time.Millisecond
	}
	if err := srv.Listen(nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	return &site{srv, dir, srv.Addrs()["imap"][0].String()}
}

// client speaks toy.
type client struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (s *site) dial(t *testing.T) *client {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{t, c, bufio.NewReader(c)}
}

func (c *client) say(line string) { io.WriteString(c, line+"\r\n") }

func (c *client) want(prefix string) {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	if !strings.HasPrefix(line, prefix) || line == "" {
		c.t.Fatalf("got %q, %v, want %q", line, err, prefix)
	}
}

func (c *client) wantEnd() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		c.t.Fatalf("at the end: %q, %v", rest, err)
	}
}

func (c *client) login(user, password, want string) {
	c.t.Helper()
	c.say("LOGIN " + user + " " + password)
	c.want(want)
}

func TestSessionReachesHomeBackend(t *testing.T) {
	s := newSite(t, nil)
	for user, ip := range map[string]string{"ann": "127.0.0.1", "BOB": "127.0.0.2"} {
		c := s.dial(t)
		c.want("HELLO")
		// What is sent behind the login reaches the backend, after the backend's own words.
		c.say("LOGIN " + user + " right\r\nhello")
		c.want("OK")
		c.want("at " + ip)
		c.want("hello")
	}
	if n := s.Counts(); n.LoggedIn != 2 || n.Sessions != 2 {
		t.Errorf("%+v", n)
	}
}

func TestRefusals(t *testing.T) {
	s := newSite(t, func(c *Config) { c.Limits.BadCommands = 100 })
	c := s.dial(t)
	c.want("HELLO")
	c.login("ann", "wrong", "NO auth_failed")
	c.login("nobody", "right", "NO auth_failed")
	c.login("ann", "busy", "NO backend_refused")
	c.login("dee", "right", "NO unreachable")
	c.login("eve", "right", "NO temporary")
	s.dir.mu.Lock()
	s.dir.err = directory.ErrUnavailable
	s.dir.mu.Unlock()
	c.login("ann", "right", "NO temporary")
	s.dir.mu.Lock()
	s.dir.err = nil
	s.dir.mu.Unlock()
	c.login("ann", "right", "OK")
	c.want("at 127.0.0.1")
}

// A remembered home host that refuses, or is dead, is looked up again, and the new one entered.
func TestMovedAccountIsFollowed(t *testing.T) {
	for _, old := range []string{"dead", "nowhere"} {
		s := newSite(t, nil)
		s.dir.mu.Lock()
		s.dir.cached["ann"] = old
		s.dir.mu.Unlock()
		c := s.dial(t)
		c.want("HELLO")
		c.login("ann", "right", "OK")
		c.want("at 127.0.0.1")
	}
}

// A login on another host closes the account's sessions on the old one first.
func TestOldHostIsLeft(t *testing.T) {
	s := newSite(t, nil)
	old := s.dial(t)
	old.want("HELLO")
	old.login("ann", "right", "OK")
	old.want("at 127.0.0.1")
	s.dir.mu.Lock()
	s.dir.hosts["ann"] = "two"
	s.dir.mu.Unlock()
	c := s.dial(t)
	c.want("HELLO")
	c.login("ann", "right", "OK")
	c.want("at 127.0.0.2")
	old.wantEnd()
}

func TestLimits(t *testing.T) {
	t.Run("per account", func(t *testing.T) {
		s := newSite(t, func(c *Config) { c.Limits.PerAccount = 2 })
		for i := range 3 {
			c := s.dial(t)
			c.want("HELLO")
			if i < 2 {
				c.login("ann", "right", "OK")
				continue
			}
			c.login("ann", "right", "BYE limit")
			c.wantEnd()
		}
	})
	t.Run("per address", func(t *testing.T) {
		s := newSite(t, func(c *Config) { c.Limits.PerAddress = 1 })
		s.dial(t).want("HELLO")
		c := s.dial(t)
		c.want("BYE limit")
		c.wantEnd()
	})
	t.Run("bad commands", func(t *testing.T) {
		s := newSite(t, func(c *Config) { c.Limits.BadCommands = 2 })
		c := s.dial(t)
		c.want("HELLO")
		c.say("x")
		c.want("BAD")
		c.say("x")
		c.want("BYE garbage")
		c.wantEnd()
	})
	t.Run("long line", func(t *testing.T) {
		s := newSite(t, func(c *Config) { c.Limits.LineLength = 1024 })
		c := s.dial(t)
		c.want("HELLO")
		c.say(strings.Repeat("x", 5000))
		c.want("BYE garbage")
	})
	t.Run("login timeout", func(t *testing.T) {
		s := newSite(t, func(c *Config) { c.Limits.LoginTimeout = 50 * time.Millisecond })
		c := s.dial(t)
		c.want("HELLO")
		c.want("BYE timeout")
		c.wantEnd()
	})
}

// At the ceiling, connections wait until a session ends; they are not refused.
func TestCeilingHoldsBackAccept(t *testing.T) {
	s := newSite(t, func(c *Config) { c.Limits.Sessions = 2 })
	a, b := s.dial(t), s.dial(t)
	a.want("HELLO")
	b.want("HELLO")
	c := s.dial(t)
	c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if line, err := c.r.ReadString('\n'); err == nil {
		t.Fatalf("greeted above the ceiling: %q", line)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	c.r.Reset(c.Conn)
	a.Close()
	c.want("HELLO")
}

func TestPanicEndsOnlyItsSession(t *testing.T) {
	s := newSite(t, nil)
	other := s.dial(t)
	other.want("HELLO")
	c := s.dial(t)
	c.want("HELLO")
	c.say("PANIC")
	c.want("BYE temporary")
	c.wantEnd()
	other.login("ann", "right", "OK")
}

func TestDrain(t *testing.T) {
	s := newSite(t, nil)
	before, after := s.dial(t), s.dial(t)
	before.want("HELLO")
	after.want("HELLO")
	after.login("ann", "right", "OK")
	after.want("at")
	done := make(chan int, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- s.Drain(ctx) }()
	before.want("BYE shutdown")
	before.wantEnd()
	if _, err := net.Dial("tcp", s.addr); err == nil {
		t.Error("still listens")
	}
	after.say("alive")
	after.want("alive")
	for s.Sessions() > 1 { // the client sees the end of its session before that is counted
		time.Sleep(time.Millisecond)
	}
	cancel()
	if cut := <-done; cut != 1 {
		t.Errorf("cut %d sessions, want 1", cut)
	}
	after.wantEnd()
}

// A client that has connected when the end begins, and is accepted then, is told so.
func TestDrainTellsTheLast(t *testing.T) {
	s := newSite(t, nil)
	s.draining.Store(true) // what Drain does first
	last := s.dial(t)
	last.want("BYE shutdown")
	last.wantEnd()
}

func TestProxyHeader(t *testing.T) {
	listed := func(c *Config) {
		c.Listeners[0].ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	}
	s := newSite(t, listed)
	c := s.dial(t)
	io.WriteString(c, "PROXY TCP4 192.0.2.7 192.0.2.1 1234 143\r\nLOGIN ann right\r\n")
	c.want("HELLO")
	c.want("OK")
	if who := s.Who(nil); len(who) != 1 || who[0].Client.String() != "192.0.2.7:1234" {
		t.Errorf("%+v", who)
	}
	c = s.dial(t)
	for _, b := range []byte("PROXY TCP4 192.0.2.8 192.0.2.1 1234 143\r\nLOGIN ann right\r\n") {
		c.Write([]byte{b}) // each byte in a packet of its own
	}
	c.want("HELLO")
	c.want("OK")
	c = s.dial(t)
	c.say("LOGIN ann right")
	c.wantEnd()
	c = s.dial(t)
	c.say("PROXY TCP4 " + strings.Repeat("1", 200))
	c.wantEnd()
	s = newSite(t, nil) // not listed
	c = s.dial(t)
	c.want("HELLO")
	c.say("PROXY TCP4 192.0.2.7 192.0.2.1 1234 143")
	c.want("BAD")
}

func TestReloadKeepsSessionsAndMovesListeners(t *testing.T) {
	s := newSite(t, nil)
	c := s.dial(t)
	c.want("HELLO")
	c.login("ann", "right", "OK")
	c.want("at")
	parts := s.state.Load().Parts
	parts.Config.Listeners = []Listener{{Service: "imap", Address: s.addr, AllowPlaintext: true}, {Service: "imap", Address: "127.0.0.3:0"}}
	if err := s.Reload(parts); err != nil {
		t.Fatal(err)
	}
	if got := len(s.Addrs()["imap"]); got != 2 {
		t.Errorf("%d listeners", got)
	}
	s.dial(t).want("HELLO")
	c.say("alive")
	c.want("alive")
	parts.Config.Listeners = append(parts.Config.Listeners, Listener{Service: "imap", Address: "192.0.2.1:1"})
	if err := s.Reload(parts); err == nil || !strings.Contains(err.Error(), "listeners[2].address") {
		t.Errorf("got %v", err)
	}
	if got := len(s.Addrs()["imap"]); got != 2 {
		t.Errorf("%d listeners after a reload that failed", got)
	}
}

func TestKick(t *testing.T) {
	s := newSite(t, nil)
	c := s.dial(t)
	c.want("HELLO")
	c.login("ann", "right", "OK")
	c.want("at")
	if n := s.Kick(func(i *Info) bool { return i.Account == "ann" }); n != 1 {
		t.Errorf("kicked %d", n)
	}
	c.wantEnd()
}

// A session that is logging in to a member while that is evacuated leaves it, too.
func TestEvacuateDuringALogin(t *testing.T) {
	s := newSite(t, nil)
	c := s.dial(t)
	c.want("HELLO")
	c.say("LOGIN ann rightly")
	for len(s.Who(func(i *Info) bool { return i.Member != "" })) == 0 {
		time.Sleep(time.Millisecond) // until the member is chosen
	}
	if err := s.state.Load().Hosts.Withdraw("one", true); err != nil {
		t.Fatal(err)
	}
	s.Evacuate(t.Context())
	c.want("OK")
	c.want("at")
	c.wantEnd()
	s.Evacuate(t.Context()) // comes to its end again
}

// Sessions end all the time while somebody lists them, and kicks a few: neither waits for the other for ever.
func TestWhoWhileSessionsEnd(t *testing.T) {
	s := newSite(t, nil)
	over := make(chan struct{})
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 150 {
				nc, err := net.Dial("tcp", s.addr)
				if err != nil {
					t.Error(err)
					return
				}
				nc.SetDeadline(time.Now().Add(20 * time.Second))
				io.WriteString(nc, "LOGIN ann right\r\n")
				lines := bufio.NewScanner(nc)
				for lines.Scan() && lines.Text() != "at 127.0.0.1" { // behind the hand-over, unless it was kicked
				}
				if errors.Is(lines.Err(), os.ErrDeadlineExceeded) {
					t.Error("the server stands still")
					nc.Close()
					return
				}
				nc.Close()
			}
		})
	}
	go func() {
		clients.Wait()
		close(over)
	}()
	var listed, kicked int
	for n := 0; ; n++ {
		select {
		case <-over:
			if listed == 0 || kicked == 0 {
				t.Errorf("%d sessions were listed, %d kicked", listed, kicked)
			}
			return
		default:
			listed += len(s.Who(nil))
			if n%50 == 0 {
				kicked += s.Kick(nil)
			}
		}
	}
}

func TestPenaltyGrowsAndIsBounded(t *testing.T) {
	p := penalties{table: map[netip.Addr]penalty{}}
	l := Limits{}.WithDefaults()
	a, now := netip.MustParseAddr("2001:db8::1"), time.Now()
	want := []time.Duration{0, 1, 2, 4, 8, 15, 15}
	for i, w := range want {
		// All of a /64 is one client.
		if got := p.delay(netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i)), &l, now); got != w*time.Second {
			t.Errorf("after %d failures: %s", i, got)
		}
		p.failed(a, now)
	}
	if p.delay(a, &l, now.Add(penaltyMemory+1)) != 0 {
		t.Error("never forgotten")
	}
	for i := range 3 * maxPenalties {
		p.failed(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	if len(p.table) > maxPenalties {
		t.Errorf("%d entries", len(p.table))
	}
}

// A traced client's words are in the log, without its password; those of others are not.
func TestTrace(t *testing.T) {
	for _, traced := range []bool{true, false} {
		var log bytes.Buffer
		s := newSite(t, func(c *Config) {
			if traced {
				c.Trace = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			}
		}, slog.New(slog.NewTextHandler(&log, nil)))
		c := s.dial(t)
		c.want("HELLO")
		c.login("ann", "right", "OK")
		c.Close()
		s.Close()
		text := log.String()
		if strings.Contains(text, "LOGIN [redacted]") != traced || strings.Contains(text, "USER [redacted]") != traced || strings.Contains(text, "right") {
			t.Errorf("traced %v:\n%s", traced, text)
		}
		if strings.Count(text, "msg=session ") != 1 {
			t.Errorf("not one session event:\n%s", text)
		}
	}
}

// The keys of the session event are public.
func TestEventKeys(t *testing.T) {
	var log bytes.Buffer
	s := newSite(t, nil, slog.New(slog.NewJSONHandler(&log, nil)))
	c := s.dial(t)
	c.want("HELLO")
	c.login("ann", "right", "OK")
	c.want("at")
	c.Close()
	s.Close()
	var event map[string]any
	if err := json.Unmarshal(log.Bytes(), &event); err != nil {
		t.Fatal(err, log.String())
	}
	got := slices.Sorted(maps.Keys(event))
	want := strings.Fields("account bytes_down bytes_up client directory failed_logins host id level login mechanism member " +
		"member_tls msg outcome reason seconds service time tls")
	if !slices.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if event["account"] != "ann" || event["host"] != "one" || event["outcome"] != "ok" || event["bytes_down"] != 14.0 {
		t.Errorf("%v", event)
	}
}
