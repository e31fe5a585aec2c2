package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// fleet is a dynamic cluster of Dovecots behind frontends, with accounts of its own and, unless the story says otherwise,
// a directory that is a file.
type fleet struct {
	Dir      string
	Net      *stage.Network
	Accounts []stage.Account
	Members  []*stage.Dovecot

	ca    *stage.Authority
	relay string
}

// fleetHost is the home host of all accounts of a fleet: the cluster.
const fleetHost = "east.example.com"

// member is the host name of the n-th Dovecot of a fleet, by which a client can tell where it is.
func member(n int) string { return fmt.Sprintf("n%d.example.com", n+1) }

// fleetAccounts are n people whose home is the cluster.
func fleetAccounts(n int) []stage.Account {
	accounts := make([]stage.Account, n)
	for i := range accounts {
		accounts[i] = stage.Account{Login: fmt.Sprintf("user%02d@example.com", i), Password: "open", Host: fleetHost}
	}
	return accounts
}

// newFleet starts members that serve the accounts; with shared they have one mail directory. A fleet without members has
// what frontends need.
func newFleet(t testing.TB, members, accounts int, shared bool) *fleet {
	t.Helper()
	dir, err := os.MkdirTemp("", "mux") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // what stays behind harms nobody
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f := &fleet{Dir: dir, Accounts: fleetAccounts(accounts)}
	if f.Net, err = stage.NewNetwork(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Net.Close() })
	if f.ca, err = stage.NewAuthority(dir, "ca"); err != nil {
		t.Fatal(err)
	}
	f.relay = f.Net.Addr(stage.HostPostfix, stage.PortSMTP)
	mail := ""
	if shared {
		mail = filepath.Join(dir, "mail")
	}
	for n := range members {
		f.addMember(t, n, mail)
	}
	return f
}

// addMember starts the n-th Dovecot.
func (f *fleet) addMember(t testing.TB, n int, shared string) {
	t.Helper()
	cert, err := f.ca.Issue(member(n))
	if err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(f.Dir, fmt.Sprintf("n%d", n))
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := stage.StartDovecot(sub, f.Net, stage.DovecotOptions{HostName: member(n), Host: stage.HostBack1 + n, TLS: cert, CA: f.ca.File,
		Relay: f.relay, Shared: shared}, f.Accounts)
	need(t, err)
	t.Cleanup(func() {
		d.Stop()
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", d.HostName, d.Tail(2000))
		}
	})
	f.Members = append(f.Members, d)
}

// frontText is the configuration of a fleet's frontend.
const frontText = `hostname: {{.Name}}
directory:
  servers: [{{.Servers}}]
  base: ou=accounts,dc=example,dc=com
  filter: "(uid={address})"
  attributes: {login: uid}
{{.Directory}}
hosts:
{{.Hosts}}
backend:
{{.Backend}}
domains: {default: example.com}
listeners:
  - {service: imap, address: "{{.IP}}:{{.Port 143}}", allow_plaintext: true, identity_from: [127.0.0.0/8]}
{{- if not .IMAPOnly}}
  - {service: pop3, address: "{{.IP}}:{{.Port 110}}", allow_plaintext: true, identity_from: [127.0.0.0/8]}
  - {service: submission, address: "{{.IP}}:{{.Port 587}}", allow_plaintext: true, identity_from: [127.0.0.0/8]}
  - {service: lmtp, address: "{{.IP}}:{{.Port 24}}"}
{{- end}}
limits: {per_address: 20000, per_account: 20000, failure_delay: 1ms, failure_delay_max: 1ms, drain_timeout: 2s, evacuation_rate: 20}
admin: {address: "unix:{{.Dir}}/admin.sock", state: {{.Dir}}/state.json}
log: {level: info, format: json}
`

// frontend is a mailmux in front of a fleet.
type frontend struct {
	*stage.Mailmux
	Name      string
	IP        string
	Dir       string
	Servers   string // directory.servers
	Directory string // more keys of directory
	Hosts     string // the rows of hosts
	Backend   string // the keys of backend: the ports of the members when empty
	IMAPOnly  bool   // no other listeners
	Base      int    // added to the well-known ports: 10000 when 0
}

// Port is a well-known port as this frontend has it.
func (f *frontend) Port(known int) int { return known + f.Base }

// listed is a row of hosts with the members of a fleet, each under a name that says which one it is.
func (f *fleet) listed(sticky, more string) string {
	var rows []string
	for n, d := range f.Members {
		rows = append(rows, fmt.Sprintf("{name: n%d, address: %s}", n+1, d.IP))
	}
	return fmt.Sprintf("  %s: {members: [%s], sticky: %s%s}", fleetHost, strings.Join(rows, ", "), sticky, more)
}

// front starts a frontend at a last byte of the fleet's network. change may alter its configuration before.
func (f *fleet) front(t testing.TB, host int, change func(*frontend)) *frontend {
	t.Helper()
	d := &frontend{Name: fmt.Sprintf("mx%d.example.com", host), IP: f.Net.IP(host), Dir: filepath.Join(f.Dir, fmt.Sprintf("mux%d", host)),
		Hosts: f.listed("hash", ""), Base: 10000}
	d.Servers = "ldif:" + writeLDIF(t, d.Dir, f.Accounts...)
	if change != nil {
		change(d)
	}
	if !strings.Contains(d.Backend, "ports:") {
		d.Backend += "\n  ports: {imap: 10143, pop3: 10110, submission: 10587, sieve: 14190, lmtp: 10024}"
	}
	text, err := d.text()
	if err != nil {
		t.Fatal(err)
	}
	greets := map[string]string{fmt.Sprintf("%s:%d", d.IP, d.Port(143)): "* OK"}
	if d.Mailmux, err = stage.StartMailmux(builtProgram(t, "mailmux"), d.Dir, text, greets); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Stop()
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", d.Name, d.Tail(4000))
		}
		if log, err := os.ReadFile(d.Log); err != nil || strings.Contains(string(log), "panic") || strings.Contains(string(log), "DATA RACE") {
			t.Errorf("the log of %s tells of a panic or a race (%v):\n%s", d.Name, err, d.Tail(4000))
		}
	})
	return d
}

func (f *frontend) text() (string, error) {
	tmpl, err := template.New("mailmux.yaml").Parse(frontText)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = tmpl.Execute(&b, f)
	return b.String(), err
}

// addr is where the frontend serves IMAP.
func (f *frontend) addr() string { return fmt.Sprintf("%s:%d", f.IP, f.Port(143)) }

// command runs one of the operator's commands and wants it to end with 0.
func (f *frontend) command(t testing.TB, args ...string) string {
	t.Helper()
	out, code, err := f.Run(t.Context(), args[0], args[1:]...)
	if err != nil || code != 0 {
		t.Fatalf("mailmux %s on %s ends with %d, %v:\n%s", strings.Join(args, " "), f.Name, code, err, out)
	}
	return out
}

// memberState is what status -json says of a member, as far as the stories ask.
type memberState struct {
	Name      string  `json:"name"`
	Address   string  `json:"address"`
	Wish      string  `json:"wish"`
	Available bool    `json:"available"`
	Weight    int     `json:"weight"`
	Priority  int     `json:"priority"`
	Agent     string  `json:"agent"`
	Load      int     `json:"load_percent"`
	Sessions  int     `json:"sessions"`
	Rate      float64 `json:"logins_per_second"`
	Services  []struct {
		Service string    `json:"service"`
		Address string    `json:"address"`
		State   string    `json:"state"`
		Since   time.Time `json:"since"`
		Why     string    `json:"why"`
		Check   int64     `json:"check_ns"`
	} `json:"services"`
}

// state says of a service of the member whether it is up, down or failing.
func (m memberState) state(service string) string {
	for _, s := range m.Services {
		if s.Service == service {
			return s.State
		}
	}
	return ""
}

// members are the members of a host by status -json.
func (f *frontend) members(ctx context.Context, host string) ([]memberState, error) {
	text, code, err := f.Run(ctx, "status", "-json")
	if err != nil || code != 0 {
		return nil, fmt.Errorf("status ends with %d: %w: %s", code, err, text)
	}
	var s struct {
		Hosts []struct {
			Name    string        `json:"name"`
			Members []memberState `json:"members"`
		} `json:"hosts"`
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return nil, err
	}
	for _, h := range s.Hosts {
		if h.Name == host {
			return h.Members, nil
		}
	}
	return nil, fmt.Errorf("status knows no host %s", host)
}

// awaitMembers waits until the members of a host, as shown by show, are these.
func (f *frontend) awaitMembers(t testing.TB, host string, show func(memberState) string, want ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s has the members %q", f.Name, want), func() error {
		members, err := f.members(t.Context(), host)
		if err != nil {
			return err
		}
		var got []string
		for _, m := range members {
			got = append(got, show(m))
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("they are %q", got)
		}
		return nil
	})
}

// imapState shows a member's name and the state of its IMAP.
func imapState(m memberState) string { return m.Name + " " + m.state("imap") }

// chosen is the member that a frontend would take for an account's IMAP session.
func (f *frontend) chosen(t testing.TB, account string) string {
	t.Helper()
	var x struct {
		Choices []struct {
			Service string `json:"service"`
			Chosen  string `json:"chosen"`
		} `json:"choices"`
	}
	out := f.command(t, "lookup", "-json", account)
	if err := json.Unmarshal([]byte(out), &x); err != nil {
		t.Fatal(err)
	}
	for _, c := range x.Choices {
		if c.Service == "imap" {
			return c.Chosen
		}
	}
	t.Fatalf("lookup names no member for IMAP:\n%s", out)
	return ""
}

// tryLogin opens an IMAP session of an account at an address and says on which Dovecot it is. The caller closes it.
func tryLogin(addr string, a stage.Account) (c *talk.Conn, at string, err error) {
	c, err = talk.Dial(talk.IMAP, addr, talk.Options{})
	if err != nil {
		return nil, "", err
	}
	r, err := c.Login("PLAIN-IR", a.Login, a.Password)
	if err == nil && !r.OK {
		err = &refusal{r.Final}
	}
	if err == nil {
		at, err = c.Where()
	}
	if err != nil {
		c.Close()
		return nil, "", err
	}
	return c, at, nil
}

// session is tryLogin that has to succeed.
func (f *frontend) session(t testing.TB, a stage.Account) (c *talk.Conn, at string) {
	t.Helper()
	c, at, err := tryLogin(f.addr(), a)
	if err != nil {
		t.Fatalf("log in as %s at %s: %v", a.Login, f.Name, err)
	}
	t.Cleanup(c.Close)
	return c, at
}

// writeSecret writes a password file.
func writeSecret(t testing.TB, path, secret string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}
