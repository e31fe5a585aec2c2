package admin

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mailmux/directory"
	"mailmux/proxy"
	"mailmux/proxy/backend"
	"mailmux/proxy/spool"
)

var update = flag.Bool("update", false, "write the golden files")

// fake is a frontend that remembers what it was asked.
type fake struct {
	sessions []proxy.Info
	kicked   []string
	asked    []string
	status   Status
	fault    error
}

func (f *fake) Who(match func(*proxy.Info) bool) []proxy.Info {
	var list []proxy.Info
	for _, i := range f.sessions {
		if match(&i) {
			list = append(list, i)
		}
	}
	return list
}

func (f *fake) Kick(match func(*proxy.Info) bool) int {
	list := f.Who(match)
	for _, i := range list {
		f.kicked = append(f.kicked, i.ID)
	}
	return len(list)
}

func (f *fake) Withdraw(t Target) error {
	f.asked = append(f.asked, fmt.Sprintf("withdraw %s %v %v", t.Target, t.Evacuate, t.Stay))
	return f.fault
}

func (f *fake) Ready(target string) error {
	f.asked = append(f.asked, "ready "+target)
	return f.fault
}

func (f *fake) Status() Status { return f.status }

func (f *fake) Reload(context.Context) ([]string, error) {
	f.asked = append(f.asked, "reload")
	return []string{"a warning"}, f.fault
}

func (f *fake) Normal(login string) string {
	if strings.Contains(login, "@") {
		return strings.ToLower(login)
	}
	return login + "@example.com"
}

func (f *fake) Explain(_ context.Context, login string) (Explanation, error) {
	if login == "" {
		return Explanation{}, errors.New("no name")
	}
	return Explanation{Login: login, Name: f.Normal(login), Host: "back1.example.com"}, nil
}

func (f *fake) Forget(host string, accounts []string) int {
	f.asked = append(f.asked, fmt.Sprintf("forget %s %q", host, accounts))
	return len(accounts)
}

// newFake is a frontend with three sessions on two hosts.
func newFake() *fake {
	began := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	info := func(n int, service, account, member, client string) proxy.Info {
		return proxy.Info{ID: fmt.Sprintf("s-%d", n), Service: service, Client: netip.MustParseAddrPort(client), Account: account, Login: account,
			Host: "east.example.com", Member: member, Began: began.Add(time.Duration(-n) * time.Minute), LoggedIn: account != "", Up: 10, Down: 2000}
	}
	return &fake{
		sessions: []proxy.Info{
			info(1, "imap", "ann@example.com", "n1", "192.0.2.1:1000"),
			info(2, "pop3", "bob@example.com", "n2", "192.0.2.2:1000"),
			info(3, "imap", "", "", "[2001:db8::1]:1000"),
		},
		status: Status{
			Hostname: "mail.example.com", Version: "v1.2.3", State: Serving, Started: time.Now().Add(-26 * time.Hour), Loaded: time.Now().Add(-time.Hour),
			Claims:   &proxy.ClaimStatus{State: "held", Accounts: 2, Sessions: 3, Left: 6 * time.Second, Epoch: 4},
			Sessions: Count{Open: 3, Relayed: 2, Limit: 100, Service: map[string]int{"imap": 2, "pop3": 1}},
			Hosts: []backend.HostStatus{{Name: "east.example.com", Sticky: "hash", Members: []backend.MemberStatus{
				{Name: "n1", Address: "10.0.1.1", Wish: inService, Available: true, Sessions: 1, Total: 5, Services: []backend.ServiceStatus{{Service: "imap", State: "up"}}},
				{Name: "n2", Address: "10.0.1.2", Wish: inService, Services: []backend.ServiceStatus{{Service: "imap", State: "down", Why: "<b>no</b> greeting"}}},
				{Name: "n3", Address: "10.0.1.3", Wish: "withdrawn", WishSince: began},
			}}},
			Directory: directory.Stats{Servers: []directory.ServerStats{{URL: "ldap://10.0.0.1", Up: true, Connections: 4}, {URL: "ldap://10.0.0.2", LastError: "refused"}}},
			Listeners: []ListenerStatus{{"imap", "192.0.2.9:143", "starttls"}},
			Queue: &QueueStatus{Messages: 12, Bytes: 3456, Oldest: began, Held: 3, Quarantined: 1, Away: []string{"back2.example.com/<i>b</i>"},
				Hosts: []spool.HostStats{{Host: "back2.example.com", Messages: 10, Oldest: began}, {Messages: 2, Oldest: began}}, Deferred: 40, Expired: 2},
		},
	}
}

func newServer(t *testing.T, f *fake) *Server {
	t.Helper()
	m := NewMetrics("v1.2.3")
	m.Watch(f)
	s, err := Start(Config{Address: "off"}, Parts{Engine: f, Switches: f, Frontend: f, Explainer: f, Forgetter: f, Metrics: m})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCommands holds what each command answers, and what it asks of the frontend.
func TestCommands(t *testing.T) {
	tests := []struct {
		method, path, body string
		code               int
		want               string   // in the answer
		asked              []string // of the frontend
	}{
		{"GET", "/who", "", 200, `"id": "s-3"`, nil},
		{"GET", "/who?account=ann", "", 200, `"id": "s-1"`, nil},
		{"GET", "/who?client=nonsense", "", 400, `neither an address nor a network`, nil},
		{"GET", "/lookup?login=ann", "", 200, `"name": "ann@example.com"`, nil},
		{"GET", "/lookup", "", 400, `{"error":"no name"}`, nil},
		{"GET", "/status", "", 200, `"hostname": "mail.example.com"`, nil},
		{"GET", "/healthz", "", 200, "serving\n", nil},
		{"POST", "/kick", `{"account":"ANN@example.com"}`, 200, `"sessions": 1`, []string{"s-1"}},
		{"POST", "/kick", `{"client":"192.0.2.0/24"}`, 200, `"sessions": 2`, []string{"s-1", "s-2"}},
		{"POST", "/kick", `{"client":"2001:db8::/32"}`, 200, `"sessions": 1`, []string{"s-3"}},
		{"POST", "/kick", `{"member":"n2","service":"imap"}`, 200, `"sessions": 0`, nil},
		{"POST", "/kick", `{}`, 400, `say whose sessions`, nil},
		{"POST", "/kick", `{"acount":"ann"}`, 400, `unknown field`, nil},
		{"GET", "/kick", "", 405, "Method Not Allowed", nil},
		{"POST", "/withdraw", `{"target":"n1","evacuate":true}`, 200, `"state": "withdrawn"`, []string{"withdraw n1 true false"}},
		{"POST", "/ready", `{"target":"self"}`, 200, `"state": "ready"`, []string{"ready self"}},
		{"POST", "/reload", `{}`, 200, `a warning`, []string{"reload"}},
		{"POST", "/forget", `{"host":"a","accounts":["ann"]}`, 200, `"names": 1`, []string{`forget a ["ann"]`}},
		{"GET", "/metrics", "", 200, `mailmux_sessions{service="imap"} 2`, nil},
		{"GET", "/debug/pprof/goroutine?debug=1", "", 200, "goroutine profile", nil},
		{"GET", "/nothing", "", 404, "not found", nil},
	}
	for _, tt := range tests {
		t.Run(tt.method+tt.path+tt.body, func(t *testing.T) {
			f := newFake()
			w := httptest.NewRecorder()
			newServer(t, f).operator().ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body)))
			if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("%d %s, want %d with %s", w.Code, w.Body, tt.code, tt.want)
			}
			if got := append(f.asked, f.kicked...); !slices.Equal(got, tt.asked) {
				t.Errorf("asked %q, want %q", got, tt.asked)
			}
		})
	}
}

// TestRefused wants the frontend's own words in the answer to a command that fails.
func TestRefused(t *testing.T) {
	f := newFake()
	f.fault = errors.New("no such host")
	s := newServer(t, f)
	for path, code := range map[string]int{"/withdraw": 404, "/ready": 404, "/reload": 422} {
		w := httptest.NewRecorder()
		s.operator().ServeHTTP(w, httptest.NewRequest("POST", path, strings.NewReader(`{"target":"x"}`)))
		var p Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != code || p.Error != "no such host" {
			t.Errorf("%s: %d %s (%v)", path, w.Code, w.Body, err)
		}
	}
}

// TestVisitor wants a TCP address to show and never to change or to name accounts, least of all to other machines.
func TestVisitor(t *testing.T) {
	s := newServer(t, newFake())
	loopback := s.visitor(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	other := s.visitor(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)})
	tests := []struct {
		method, path string
		at           http.Handler
		host         string
		code         int
	}{
		{"GET", "/", loopback, "127.0.0.1:9143", 200},
		{"GET", "/status", loopback, "localhost:9143", 200},
		{"GET", "/metrics", loopback, "[::1]:9143", 200},
		{"GET", "/healthz", loopback, "127.0.0.1", 200},
		{"GET", "/status", loopback, "attacker.example", 403},
		{"GET", "/who", loopback, "127.0.0.1", 404},
		{"GET", "/lookup?login=ann", loopback, "127.0.0.1", 404},
		{"POST", "/kick", loopback, "127.0.0.1", 404},
		{"POST", "/reload", loopback, "127.0.0.1", 404},
		{"POST", "/status", loopback, "127.0.0.1", 405},
		{"GET", "/debug/pprof/", loopback, "127.0.0.1", 404},
		{"GET", "/metrics", other, "mail.example.com", 200},
		{"GET", "/healthz", other, "mail.example.com", 200},
		{"GET", "/status", other, "mail.example.com", 404},
		{"GET", "/", other, "mail.example.com", 404},
	}
	for _, tt := range tests {
		r := httptest.NewRequest(tt.method, tt.path, strings.NewReader("{}"))
		r.Host = tt.host
		w := httptest.NewRecorder()
		tt.at.ServeHTTP(w, r)
		if w.Code != tt.code {
			t.Errorf("%s %s as %s: %d, want %d", tt.method, tt.path, tt.host, w.Code, tt.code)
		}
	}
}

// TestHealth wants load balancers to be told when a frontend takes no sessions.
func TestHealth(t *testing.T) {
	for state, code := range map[string]int{Serving: 200, Withdrawn: 503, Draining: 503} {
		f := newFake()
		f.status.State = state
		w := httptest.NewRecorder()
		newServer(t, f).operator().ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
		if w.Code != code || w.Body.String() != state+"\n" {
			t.Errorf("%s: %d %q", state, w.Code, w.Body)
		}
	}
}

// TestPage wants the state of every member on the page, what comes from outside escaped, and no script.
func TestPage(t *testing.T) {
	w := httptest.NewRecorder()
	newServer(t, newFake()).operator().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	page := w.Body.String()
	for _, want := range []string{"mail.example.com", "good\">up", "bad\">down", "&lt;b&gt;no&lt;/b&gt; greeting", "withdrawn", "192.0.2.9:143", "up 1d02h",
		"queue<b>12</b>", "3 held", "1 in quarantine", "back2.example.com/&lt;i&gt;b&lt;/i&gt;"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not on the page", want)
		}
	}
	if strings.Contains(page, "<script") || strings.Contains(page, "http://") || strings.Contains(page, "ZgotmplZ") {
		t.Error("the page has a script, loads something, or a value in a wrong place")
	}
	if policy := w.Header().Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") {
		t.Errorf("policy %q", policy)
	}
}

// TestMetricNames holds names, types and labels: they are public.
func TestMetricNames(t *testing.T) {
	f := newFake()
	m := NewMetrics("v1.2.3")
	m.Watch(f)
	m.DirectoryRequest("ldap://10.0.0.1", "search", "ok", time.Millisecond)
	list, err := m.List()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, metric := range list {
		fmt.Fprintln(&b, strings.TrimSpace(metric.Name+" "+metric.Type+" "+strings.Join(metric.Labels, ",")))
	}
	golden := filepath.Join("testdata", "metrics.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("metrics are\n%s\nwant\n%s\n(go test -update writes the list anew)", b.String(), want)
	}
}

// TestCounting wants events to arrive in the right series, and strangers' words in none.
func TestCounting(t *testing.T) {
	f := newFake()
	m := NewMetrics("v1.2.3")
	m.Watch(f)
	m.SessionStarted("imap")
	m.SessionStarted("gopher")
	m.SessionEnded("imap", "ok", 100, 200, time.Second)
	m.SessionEnded("imap", "words from outside", 0, 0, time.Second)
	m.LoggedIn("imap", 20*time.Millisecond)
	m.LoginFailed("imap", proxy.CauseAuth)
	m.LoginFailed("imap", proxy.Cause(250))
	m.Handshake("imap", true, nil)
	m.Handshake("imap", false, nil)
	m.Handshake("imap", false, io.EOF)
	m.Panicked("imap")
	m.Delivered("lmtp", "delivered", 20*time.Millisecond)
	m.Delivered("smtp", "words from outside", time.Second)
	m.Delivered("gopher", "delivered", time.Second)
	m.DirectoryLookup("found", time.Millisecond)
	m.DirectoryLookup("hit", time.Microsecond)
	m.DirectoryLookup("words from outside", time.Microsecond)
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text := w.Body.String()
	for _, want := range []string{
		`mailmux_sessions_started_total{service="imap"} 1`,
		`mailmux_sessions_started_total{service="other"} 1`,
		`mailmux_sessions_ended_total{outcome="ok",service="imap"} 1`,
		`mailmux_sessions_ended_total{outcome="temporary",service="imap"} 1`,
		`mailmux_relayed_bytes_total{direction="up",service="imap"} 100`,
		`mailmux_relayed_bytes_total{direction="down",service="imap"} 200`,
		`mailmux_login_seconds_count{service="imap"} 1`,
		`mailmux_login_failures_total{cause="auth_failed",service="imap"} 1`,
		`mailmux_tls_handshakes_total{result="resumed",service="imap"} 1`,
		`mailmux_tls_handshakes_total{result="full",service="imap"} 1`,
		`mailmux_tls_handshakes_total{result="failed",service="imap"} 1`,
		`mailmux_panics_total{service="imap"} 1`,
		`mailmux_directory_lookups_total{outcome="found"} 1`,
		`mailmux_directory_lookup_seconds_count 2`,
		`mailmux_member_available{host="east.example.com",member="n1",service="imap"} 1`,
		`mailmux_member_available{host="east.example.com",member="n2",service="imap"} 0`,
		`mailmux_member_withdrawn{host="east.example.com",member="n3"} 1`,
		`mailmux_directory_up{server="ldap://10.0.0.2"} 0`,
		`mailmux_deliveries_total{outcome="delivered",service="lmtp"} 1`,
		`mailmux_deliveries_total{outcome="refused",service="smtp"} 0`,
		`mailmux_delivery_seconds_count{service="lmtp"} 1`,
		`mailmux_queue_messages{state="waiting"} 12`,
		`mailmux_queue_messages{state="held"} 3`,
		`mailmux_queue_host_messages{host="back2.example.com"} 10`,
		`mailmux_queue_host_messages{host="other"} 2`,
		`mailmux_queue_deliveries_total{outcome="deferred"} 40`,
		"go_goroutines", "process_open_fds",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not among the metrics", want)
		}
	}
	if strings.Contains(text, "from outside") || strings.Contains(text, "gopher") {
		t.Error("a label holds a word that is none of its set")
	}
}
