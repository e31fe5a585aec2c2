package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailmux/integration/stage"
	"mailmux/integration/tally"
)

// claimSite is a cluster of fake members behind frontends that agree through etcd.
type claimSite struct {
	Dir      string
	Net      *stage.Network
	Tally    *tally.Tally
	Members  []*tally.Member
	Fronts   []*claimFront
	Etcd     []*etcdNode // none when the first frontend has it inside
	Accounts []stage.Account
	Password string // the file with that of etcd's user mux; empty: etcd asks for none

	sticky  string
	outage  string
	weights []int
}

// claimFront is one frontend, with its own wire to etcd.
type claimFront struct {
	*stage.Mailmux

	IP     string
	Link   *tally.Link // nil without a wire that can be cut
	Claims string      // the section claims but for the name; empty: that of the site
}

// The times of a claimSite: the shortest that are allowed, so that much happens in a short time.
const (
	claimLease  = 3 * time.Second
	claimMargin = time.Second
)

const (
	claimHost     = "east.example.com"
	firstFront    = 21
	firstMember   = 41
	claimIMAP     = 10143
	claimLMTP     = 10024
	claimAccounts = 24
)

// claimOptions say what a site is like.
type claimOptions struct {
	Members, Fronts int
	Nodes           int // servers of etcd: 1 when absent; more have no Links, and want a password
	Embedded        bool
	Sticky          string // claim when absent
	Outage          string // claims.on_outage
}

// newClaimSite starts everything and waits until every frontend has a lease.
func newClaimSite(t testing.TB, o claimOptions) *claimSite {
	t.Helper()
	dir, err := os.MkdirTemp("", "mux") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &claimSite{Dir: dir, Tally: tally.New(), sticky: o.Sticky, outage: o.Outage}
	if s.sticky == "" {
		s.sticky = "claim"
	}
	if s.Net, err = stage.NewNetwork(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Net.Close() })
	for i := range claimAccounts {
		s.Accounts = append(s.Accounts, stage.Account{Login: fmt.Sprintf("user%02d@example.com", i), Password: "open", Host: claimHost})
	}
	writeLDIF(t, dir, s.Accounts...)
	for i := range o.Members {
		ip := s.Net.IP(firstMember + i)
		m := s.Tally.NewMember(fmt.Sprintf("n%d", i+1), map[string]string{
			"imap": fmt.Sprintf("%s:%d", ip, claimIMAP), "lmtp": fmt.Sprintf("%s:%d", ip, claimLMTP)})
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Kill)
		s.Members = append(s.Members, m)
		s.weights = append(s.weights, 1)
	}
	if !o.Embedded {
		s.startEtcd(t, max(1, o.Nodes))
	}
	for i := range o.Fronts {
		s.addFront(t, i)
	}
	for _, f := range s.Fronts {
		f.awaitClaims(t, 20*time.Second)
	}
	return s
}

// addFront starts the n-th frontend.
func (s *claimSite) addFront(t testing.TB, n int) {
	t.Helper()
	f := &claimFront{}
	if len(s.Etcd) == 1 {
		var err error
		if f.Link, err = tally.NewLink(s.Etcd[0].addr); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Link.Close)
	}
	s.startFront(t, n, f)
	s.Fronts = append(s.Fronts, f)
}

// startFront starts a frontend as the n-th one.
func (s *claimSite) startFront(t testing.TB, n int, f *claimFront) {
	t.Helper()
	f.IP = s.Net.IP(firstFront + n)
	dir := filepath.Join(s.Dir, fmt.Sprintf("f%d", n+1))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	greets := map[string]string{fmt.Sprintf("%s:%d", f.IP, claimIMAP): "* OK", fmt.Sprintf("%s:%d", f.IP, claimLMTP): "220"}
	var err error
	f.Mailmux, err = stage.StartMailmux(builtProgram(t, "mailmux"), dir, s.config(n, f), greets)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Stop()
		if keep := os.Getenv("MAILMUX_KEEP_LOGS"); keep != "" {
			if text, err := os.ReadFile(f.Log); err == nil {
				_ = os.WriteFile(filepath.Join(keep, fmt.Sprintf("f%d.log", n+1)), text, 0o600)
			}
		}
	})
}

// config is the configuration of the n-th frontend, with the weights of now.
func (s *claimSite) config(n int, f *claimFront) string {
	var members []string
	for i, m := range s.Members {
		members = append(members, fmt.Sprintf("{address: %s, name: %s, weight: %d}", s.Net.IP(firstMember+i), m.Name, s.weights[i]))
	}
	claims := f.Claims
	if claims == "" {
		claims = s.claims(n, f)
	}
	return fmt.Sprintf(`hostname: f%d.example.com
directory: {servers: ["ldif:%s/accounts.ldif"], base: "%s", filter: "(uid={address})", attributes: {login: uid}}
hosts:
  %s: {members: [%s], sticky: %s}
backend: {ports: {imap: %d, lmtp: %d}}
domains: {default: example.com}
listeners:
  - {service: imap, address: "%s:%d", allow_plaintext: true}
  - {service: lmtp, address: "%s:%d"}
limits: {per_address: 20000, per_account: 20000, hand_over_timeout: 12s, drain_timeout: 2s, close_spread: 1s}
claims: {%s, name: f%d.example.com}
admin: {address: "unix:%s/f%d/admin.sock", state: %s/f%d/state.json}
log: {level: info, format: text}
`, n+1, s.Dir, stage.Base, claimHost, strings.Join(members, ", "), s.sticky, claimIMAP, claimLMTP, f.IP, claimIMAP, f.IP, claimLMTP,
		claims, n+1, s.Dir, n+1, s.Dir, n+1)
}

// claims is the section of that name for the n-th frontend.
func (s *claimSite) claims(n int, f *claimFront) string {
	var where string
	switch {
	case f.Link != nil:
		where = fmt.Sprintf(`endpoints: ["http://%s"]`, f.Link.Addr())
	case len(s.Etcd) > 0:
		var urls []string
		for _, e := range s.Etcd {
			urls = append(urls, fmt.Sprintf("%q", e.url()))
		}
		where = fmt.Sprintf("endpoints: [%s], user: mux, password_file: %s", strings.Join(urls, ", "), s.Password)
	case n > 0:
		where = fmt.Sprintf(`endpoints: ["unix://%s/f1/etcd/client.sock"]`, s.Dir)
	default:
		where = fmt.Sprintf("embedded: %s/f1/etcd", s.Dir)
	}
	if s.outage != "" {
		where += ", on_outage: " + s.outage
	}
	return fmt.Sprintf("%s, lease: %s, margin: %s, timeout: 1s", where, claimLease, claimMargin)
}

// claimState is what a test reads of /status.
type claimState struct {
	Claims struct {
		State      string   `json:"state"`
		Error      string   `json:"error"`
		Leading    bool     `json:"leading"`
		Controller string   `json:"controller"`
		Epoch      int64    `json:"epoch"`
		Down       []string `json:"down"`
		Fenced     int64    `json:"fenced"`
		Accounts   int      `json:"accounts"`
		Sessions   int      `json:"sessions"`
		Frontends  []struct {
			Name  string `json:"name"`
			Epoch int64  `json:"epoch"`
		} `json:"frontends"`
	} `json:"claims"`
}

func (f *claimFront) state(ctx context.Context) (s claimState, err error) {
	text, err := f.Get(ctx, "/status")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(text), &s)
}

// await asks until ok, and fails the test after a while.
func (f *claimFront) await(t testing.TB, within time.Duration, what string, ok func(claimState) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	var last claimState
	for {
		s, err := f.state(ctx)
		if err == nil && ok(s) {
			return
		}
		if err == nil {
			last = s
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %+v, %v\n%s", what, within, last.Claims, err, f.Tail(3000))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (f *claimFront) awaitClaims(t testing.TB, within time.Duration) {
	t.Helper()
	f.await(t, within, "a lease", func(s claimState) bool { return s.Claims.State == "held" })
}

// post says a command over the admin socket.
func (f *claimFront) post(ctx context.Context, path string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", f.Admin)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://admin"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	resp, err := (&http.Transport{DialContext: dial, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, answer)
	}
	return err
}

// mail is one client's IMAP session.
type mail struct {
	conn   net.Conn
	lines  *bufio.Reader
	member string
}

// errTemporary is a login that is to be tried again.
var errTemporary = errors.New("temporary")

// login logs in by IMAP. The error is errTemporary for NO [UNAVAILABLE], BYE and connections that end.
func (f *claimFront) login(a stage.Account, within time.Duration) (*mail, error) {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", f.IP, claimIMAP), time.Second)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errTemporary, err)
	}
	m := &mail{conn: conn, lines: bufio.NewReader(conn)}
	_ = conn.SetDeadline(time.Now().Add(within))
	if _, err := m.lines.ReadString('\n'); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: greeting: %w", errTemporary, err)
	}
	answer, err := m.say(fmt.Sprintf("LOGIN %s %s", a.Login, a.Password))
	if err == nil {
		if _, at, ok := strings.Cut(answer, "logged in at "); ok {
			m.member = at
			return m, nil
		}
	}
	conn.Close()
	if err != nil || strings.HasPrefix(answer, "* BYE") || strings.Contains(answer, "[UNAVAILABLE]") {
		return nil, fmt.Errorf("%w: %s %w", errTemporary, answer, err)
	}
	return nil, fmt.Errorf("login of %s: %s", a.Login, answer)
}

// say says a command and returns the tagged answer, or BYE.
func (m *mail) say(command string) (string, error) {
	if _, err := fmt.Fprintf(m.conn, "a %s\r\n", command); err != nil {
		return "", err
	}
	for {
		line, err := m.lines.ReadString('\n')
		if err != nil {
			return "", err
		}
		if strings.HasPrefix(line, "a ") || strings.HasPrefix(line, "* BYE") {
			return strings.TrimSpace(line), nil
		}
	}
}

func (m *mail) close() { m.conn.Close() }

// deliver hands a message over by LMTP and returns the answer to it.
func (f *claimFront) deliver(a stage.Account, within time.Duration) (string, error) {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", f.IP, claimLMTP), time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(within))
	lines := bufio.NewReader(conn)
	last := ""
	for i, say := range []string{"", "LHLO client", "MAIL FROM:<x@example.org>", "RCPT TO:<" + a.Login + ">", "DATA", "Subject: x\r\n\r\nx\r\n."} {
		if i > 0 {
			fmt.Fprintf(conn, "%s\r\n", say)
		}
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return last, err
			}
			if last = strings.TrimSpace(line); len(line) > 3 && line[3] != '-' {
				break
			}
		}
		if last[0] == '4' || last[0] == '5' {
			return last, nil
		}
	}
	return last, nil
}
