package prototest

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mailmux/directory"
	"mailmux/proxy"
	"mailmux/proxy/backend"
)

// The world of a script: who is who.
const (
	Hostname = "frontend.example.com"
	Host     = "store.example.com" // the home host
	Account  = "ann@example.com"
	client   = "192.0.2.7:50123"
	frontend = "198.51.100.1"
)

// World is an engine with one protocol, a directory that knows one account, and a host whose members are played by
// whoever takes their connections from Dials.
type World struct {
	Server *proxy.Server
	// Dials are the connections that mailmux makes to members.
	Dials chan Dial

	service  string
	listener proxy.Listener
	dir      *fakeDirectory
	events   events

	clientFault, backendFault Fault // of what mailmux reads

	mu      sync.Mutex
	refuses bool
}

// Dial is a connection that mailmux has made: the member's end of it.
type Dial struct {
	Conn   *Conn
	Member string
	Info   backend.DialInfo
}

// NewWorld builds the world for a protocol with the settings of a script. It may be called inside a synctest bubble;
// files are those of Files, which has to be called outside.
func NewWorld(t testing.TB, handler proxy.Handler, service string, files *Files, settings ...Setting) *World {
	t.Helper()
	w := &World{
		Dials:    make(chan Dial, 100),
		service:  service,
		listener: proxy.Listener{Service: service, Address: frontend + ":1", AllowPlaintext: true},
		dir:      &fakeDirectory{account: directory.Account{DN: "mail=" + Account, Login: Account, Host: Host}, password: "sesame"},
	}
	c := config{
		engine: proxy.Config{
			Hostname: Hostname,
			Trace:    []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
			TLS:      proxy.TLS{Certificates: []proxy.Certificate{{Cert: files.Cert, Key: files.Key}}, ClientCAFile: files.CA},
		},
		host: backend.HostConfig{},
		size: 1,
	}
	c.host.TLSCAFile = files.CA
	c.host.Master.PasswordFile = files.Secret
	for _, s := range settings {
		if err := w.set(&c, s); err != nil {
			t.Fatalf("setting %s=%s: %v", s.Key, s.Value, err)
		}
	}
	for i := range c.size {
		c.host.Members = append(c.host.Members, backend.MemberConfig{Address: fmt.Sprintf("10.0.0.%d", i+1)})
	}
	hosts, err := backend.New(backend.Config{Hosts: map[string]backend.HostConfig{Host: c.host}}, backend.Options{Services: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	learn(t, hosts, service, c.capabilities)
	w.Server, err = proxy.New(proxy.Parts{
		Config:    c.engine,
		Directory: w.dir,
		Domains:   directory.Domains{Default: "example.com"},
		Hosts:     hosts,
		Handlers:  map[string]proxy.Handler{service: handler},
		Log:       slog.New(&w.events),
		Dial:      w.dial,
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// config is what settings change.
type config struct {
	engine       proxy.Config
	host         backend.HostConfig
	size         int
	capabilities [][]string
}

func (w *World) set(c *config, s Setting) (err error) {
	if key, ok := strings.CutPrefix(s.Key, "limits."); ok {
		return setLimit(&c.engine.Limits, key, s.Value)
	}
	switch s.Key {
	case "account.status":
		words := map[string]directory.Status{"active": directory.Active, "hold": directory.Held, "disabled": directory.Disabled, "unknown": directory.Unknown}
		status, ok := words[s.Value]
		if !ok {
			return errors.New("no such status")
		}
		w.dir.account.Status = status
	case "account.host":
		w.dir.account.Host = s.Value
	case "account.login":
		w.dir.account.Login = s.Value
	case "account.password":
		w.dir.password = s.Value
	case "directory":
		words := map[string]error{"down": directory.ErrUnavailable, "ambiguous": directory.ErrAmbiguous, "nohost": directory.ErrNoHost}
		if w.dir.err = words[s.Value]; w.dir.err == nil {
			return errors.New("no such outage")
		}
	case "members":
		c.size, err = strconv.Atoi(s.Value)
	case "capabilities":
		c.capabilities = append(c.capabilities, strings.Fields(s.Value))
		c.size = max(c.size, len(c.capabilities))
	case "listener.tls":
		w.listener.TLS = proxy.TLSMode(s.Value)
	case "listener.allow_plaintext":
		w.listener.AllowPlaintext, err = strconv.ParseBool(s.Value)
	case "listener.identity_from":
		var prefix netip.Prefix
		prefix, err = netip.ParsePrefix(s.Value)
		w.listener.IdentityFrom = append(w.listener.IdentityFrom, prefix)
	case "backend.login":
		c.host.Login, c.host.Master.User = s.Value, "admin"
	case "backend.format":
		c.host.Master.Format = s.Value
	case "backend.tls":
		c.host.TLS = s.Value
	case "backend.identity":
		c.host.Identity = s.Value
	case "auth.mechanisms":
		c.engine.Auth.Mechanisms = strings.Split(s.Value, ",")
	case "trace":
		if s.Value != "off" {
			return errors.New("it is on, and can be off")
		}
		c.engine.Trace = nil
	case "certificate", "chunk": // the player's
	default:
		return errors.New("no such setting")
	}
	return err
}

func setLimit(limits *proxy.Limits, key, value string) (err error) {
	number := func(into *int) { *into, err = strconv.Atoi(value) }
	span := func(into *time.Duration) { *into, err = time.ParseDuration(value) }
	switch key {
	case "bad_commands":
		number(&limits.BadCommands)
	case "line_length":
		number(&limits.LineLength)
	case "per_account":
		number(&limits.PerAccount)
	case "per_address":
		number(&limits.PerAddress)
	case "exempt":
		var prefix netip.Prefix
		prefix, err = netip.ParsePrefix(value)
		limits.Exempt = append(limits.Exempt, prefix)
	case "login_timeout":
		span(&limits.LoginTimeout)
	case "hand_over_timeout":
		span(&limits.HandOverTimeout)
	default:
		return errors.New("no such setting")
	}
	return err
}

// learn shows capabilities to the members, as health checks do.
func learn(t testing.TB, hosts *backend.Table, service string, lists [][]string) {
	t.Helper()
	host, err := hosts.Host(Host)
	if err != nil {
		t.Fatal(err)
	}
	var tried backend.Tried
	for _, list := range lists {
		m, err := host.Choose(service, Account, &tried)
		if err != nil {
			t.Fatal(err)
		}
		m.Learn(service, list)
		tried.Add(m, errors.New("next"))
	}
}

// Connect makes a client's connection and its session, which runs in a goroutine of its own.
func (w *World) Connect() *Conn {
	c, s := Pipe(tcpAddr(client), tcpAddr(frontend+":1"))
	s.FaultIn(w.clientFault)
	go w.Server.ServeConn(s, w.listener)
	return c
}

// Stream is a connection that can be half-closed.
type Stream interface {
	net.Conn
	CloseWrite() error
}

// ConnectTLS is Connect, with TLS over it if that is wanted.
func (w *World) ConnectTLS(t testing.TB, files *Files, encrypt bool) Stream {
	t.Helper()
	c := w.Connect()
	if !encrypt {
		return c
	}
	c.SetDeadline(time.Now().Add(time.Minute))
	encrypted := tls.Client(c, &tls.Config{RootCAs: files.pool, ServerName: Hostname})
	if err := encrypted.Handshake(); err != nil {
		t.Fatal(err)
	}
	return encrypted
}

// FailLookups makes the directory answer with an error from now on; nil lets it work again.
func (w *World) FailLookups(err error) {
	w.dir.mu.Lock()
	defer w.dir.mu.Unlock()
	w.dir.err = err
}

// RefuseDials makes the members refuse connections, or take them again.
func (w *World) RefuseDials(refuse bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuses = refuse
}

// PlayMembers has each member that mailmux dials played by play, which says by an error that it has heard what no member
// may hear. The function returned ends the world, and gives all errors.
func (w *World) PlayMembers(play func(*Conn) error) (end func() error) {
	heard := make(chan error)
	go func() {
		var faults []error
		for dial := range w.Dials {
			if err := play(dial.Conn); err != nil {
				faults = append(faults, err)
			}
			dial.Conn.Close()
		}
		heard <- errors.Join(faults...)
	}()
	return func() error {
		w.Server.Close()
		close(w.Dials)
		return <-heard
	}
}

// Say has a client say all of a text and no more, and returns what it hears until mailmux ends the session.
func (w *World) Say(t testing.TB, text string) (heard string) {
	t.Helper()
	c := w.Connect()
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Error(err)
	}
	c.CloseWrite()
	answers, _ := io.ReadAll(c)
	return string(answers)
}

func (w *World) dial(ctx context.Context, m *backend.Member, service string, info backend.DialInfo) (net.Conn, error) {
	w.mu.Lock()
	refuses := w.refuses
	w.mu.Unlock()
	if refuses {
		m.Failed(service, syscall.ECONNREFUSED)
		return nil, fmt.Errorf("connect to %s: %w", m, syscall.ECONNREFUSED)
	}
	c, s := Pipe(tcpAddr(frontend+":40000"), tcpAddr(m.Address(service)))
	c.FaultIn(w.backendFault)
	select {
	case w.Dials <- Dial{s, m.Name(), info}:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func tcpAddr(s string) *net.TCPAddr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

// fakeDirectory knows one account.
type fakeDirectory struct {
	mu       sync.Mutex
	account  directory.Account
	password string
	err      error
}

// Lookup is directory.Lookup's.
func (d *fakeDirectory) Lookup(_ context.Context, name directory.Name) (directory.Account, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.err != nil:
		return directory.Account{}, d.err
	case name.String() != Account:
		return directory.Account{}, directory.ErrNoUser
	}
	return d.account, nil
}

// Refresh is directory.Lookup's.
func (d *fakeDirectory) Refresh(ctx context.Context, name directory.Name) (directory.Account, error) {
	return d.Lookup(ctx, name)
}

// CheckPassword is directory.Lookup's.
func (d *fakeDirectory) CheckPassword(_ context.Context, _ directory.Account, password string) error {
	if password == "" || password != d.password {
		return directory.ErrBadPassword
	}
	return nil
}

// events keeps the session events that the engine logs, and what they or a trace showed that they should not.
type events struct {
	mu    sync.Mutex
	list  []map[string]string
	shown []string
}

// Enabled is slog.Handler's.
func (e *events) Enabled(context.Context, slog.Level) bool { return true }

// Handle is slog.Handler's.
func (e *events) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "session" && r.Message != "trace" {
		return nil
	}
	event := map[string]string{}
	r.Attrs(func(a slog.Attr) bool {
		event[a.Key] = a.Value.String()
		return true
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.Message == "session" {
		e.list = append(e.list, event)
	}
	for _, key := range []string{"line", "reason"} {
		if secret(event[key]) {
			e.shown = append(e.shown, event["leg"]+" "+key+": "+event[key])
		}
	}
	return nil
}

// secret says whether a line holds a password of these worlds, plain or in base64.
func secret(line string) bool {
	for word := range strings.FieldsFuncSeq(line, func(r rune) bool { return r == ' ' || r == '"' }) {
		plain, _ := base64.StdEncoding.DecodeString(word)
		for _, text := range []string{word, string(plain)} {
			for _, password := range []string{"sesame", "secret", "t0ken"} {
				if strings.Contains(text, password) {
					return true
				}
			}
		}
	}
	return false
}

// WithAttrs is slog.Handler's.
func (e *events) WithAttrs([]slog.Attr) slog.Handler { return e }

// WithGroup is slog.Handler's.
func (e *events) WithGroup(string) slog.Handler { return e }

// leaks are the traced lines and the reasons that show a password.
func (e *events) leaks() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.shown
}

// last is the event of the session that ended last, nil if none has.
func (e *events) last() map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.list) == 0 {
		return nil
	}
	return e.list[len(e.list)-1]
}
