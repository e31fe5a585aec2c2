package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// The listeners of every daemon beside those at the ordinary ports, which allow logins in the clear: the ports above by
// strict require TLS first, those above by proxied believe a PROXY header from the addresses of proxies.
const (
	strict  = 2000
	proxied = 3000
)

// Some last bytes of addresses with a meaning of their own.
const (
	hostOrg   = 30  // a dedicated address: names without a domain are those of example.org
	hostProxy = 250 // a load balancer
)

// setup is what one daemon's configuration says beyond configText.
type setup struct {
	W   *stage.World
	Dir string
	IP  string

	Directory string   // more keys of directory
	Hosts     string   // more rows of hosts
	Backend   string   // more keys of backend
	Limits    string   // the keys of limits
	TLS       string   // more keys of tls
	Mechs     string   // auth.mechanisms
	Servers   string   // directory.servers
	Listeners []string // more rows of listeners
	More      string   // more sections
	Greets    []string // host:port of those listeners that greet with 220
	TrustAll  bool     // every address of the network is a frontend that may say who its client is
}

// configText is the file that design and README describe, with the stage's addresses.
const configText = `hostname: mail.example.com

directory:
  servers: [{{.Servers}}]
  bind_dn: {{.BindDN}}
  bind_password_file: {{.Dir}}/bind.secret
  base: {{.Base}}
  filter: "(&(objectClass=mailAccount)(|(uid={address})(mail={address})(mailAlternateAddress={address})))"
  attributes: {host: hostServer, old_host: oldHostServer, login: uid, status: mailUserStatus}
  timeout: 2s
  connections: 2
{{.Directory}}

hosts:
  back1.example.com: {members: [{{.Back1}}]}
  back2.example.com: {members: [{{.Back2}}], tls: starttls}
  back3.example.com: {members: [{{.Back1}}], tls: implicit, tls_services: {sieve: starttls, lmtp: starttls}, ports: {imap: 10993, pop3: 10995, submission: 10465}}
  post.example.com: {members: [{{.Post}}]}
  self.example.com: {members: [{{.IP}}], check: {mode: off}}
{{- range .FakeRows}}
  {{.}}
{{- end}}
{{.Hosts}}

backend:
  ports: {imap: 10143, pop3: 10110, submission: 10587, sieve: 14190, lmtp: 10024, smtp: 10025}
  tls_ca_file: {{.CA}}
{{.Backend}}

domains:
  default: example.com
  addresses: {{"{"}}{{.OrgIP}}: example.org}
  server_names: {mail.example.org: example.org}
  aliases: {example.net: example.com}

listeners:
{{- range .ListenerRows}}
  - {{.}}
{{- end}}
{{- range .Listeners}}
  - {{.}}
{{- end}}

tls:
  certificates:
    - {cert: {{.FrontCert}}, key: {{.FrontKey}}}
    - {cert: {{.OrgCert}}, key: {{.OrgKey}}}
{{.TLS}}

auth: {mechanisms: [{{.Mechs}}]}

limits: {{"{"}}{{.Limits}}}

{{.More}}

admin: {address: "unix:{{.Dir}}/admin.sock", state: {{.Dir}}/state.json}
log: {level: info, format: json}
`

// Values for configText.

func (s *setup) BindDN() string    { return stage.BindDN }
func (s *setup) Base() string      { return stage.Base }
func (s *setup) Back1() string     { return s.W.Back1.IP }
func (s *setup) Back2() string     { return s.W.Back2.IP }
func (s *setup) Post() string      { return s.W.Net.IP(stage.HostPostfix) }
func (s *setup) CA() string        { return s.W.CA.File }
func (s *setup) OrgIP() string     { return s.W.Net.IP(hostOrg) }
func (s *setup) FrontCert() string { return s.W.Front.Cert }
func (s *setup) FrontKey() string  { return s.W.Front.Key }
func (s *setup) OrgCert() string   { return s.W.FrontOrg.Cert }
func (s *setup) OrgKey() string    { return s.W.FrontOrg.Key }

// FakeRows are the hosts of the fake members. They are not checked, so that sessions meet what they do.
func (s *setup) FakeRows() []string {
	var rows []string
	for i, b := range stage.Behaviours() {
		more := ""
		if b == "wrongname" || b == "notls" || b == "injecting" {
			more = ", tls: starttls"
		}
		rows = append(rows, fmt.Sprintf("%s: {members: [%s], check: {mode: off}, connect_timeout: 1s%s}",
			stage.FakeHost(b), s.W.Net.IP(stage.HostFake+i), more))
	}
	return rows
}

// ListenerRows are all listeners: every service in the clear with STARTTLS, and with implicit TLS; strict and proxied
// ones; and IMAP at the dedicated address of example.org.
func (s *setup) ListenerRows() []string {
	var rows []string
	row := func(p talk.Protocol, ip string, port int, more string) {
		rows = append(rows, fmt.Sprintf(`{service: %s, address: "%s:%d"%s}`, p, ip, port, more))
	}
	for _, p := range talk.Protocols() {
		port := backendPort(p, talk.StartTLS)
		more := ""
		if s.TrustAll {
			more = ", identity_from: [127.0.0.0/8]"
		}
		row(p, s.IP, port, ", allow_plaintext: true"+more)
		row(p, s.IP, backendPort(p, talk.Implicit), ", tls: implicit")
		row(p, s.IP, port+strict, "")
		row(p, s.IP, port+proxied, fmt.Sprintf(", allow_plaintext: true, proxy_protocol: [%s/32]", s.W.Net.IP(hostProxy)))
	}
	if s.IP == s.W.Net.IP(stage.HostDaemon) {
		row(talk.IMAP, s.OrgIP(), stage.PortIMAP, ", allow_plaintext: true")
	}
	return rows
}

// text is the configuration file.
func (s *setup) text() (string, error) {
	var b strings.Builder
	t, err := template.New("mailmux.yaml").Parse(configText)
	if err != nil {
		return "", err
	}
	err = t.Execute(&b, s)
	return b.String(), err
}

func defaults(w *stage.World) *setup {
	return &setup{W: w, Servers: w.Slapd.URL, Mechs: "plain, login, scram-sha-256, scram-sha-1, oauthbearer, xoauth2",
		Limits: "per_address: 20000, per_account: 20000, failure_delay: 1ms, failure_delay_max: 1ms, hand_over_timeout: 4s, drain_timeout: 3s, bad_commands: 5"}
}

// writeLDIF puts the accounts into a file in dir, for a directory without a server, and returns its name.
func writeLDIF(t testing.TB, dir string, accounts ...stage.Account) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "accounts.ldif")
	if err := os.WriteFile(file, []byte(stage.LDIF(accounts)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// daemon is a mailmux and the world that it stands in.
type daemon struct {
	*stage.Mailmux
	*setup
}

// addr is where the daemon listens for a protocol.
func (d *daemon) addr(p talk.Protocol, mode talk.Mode) string {
	return fmt.Sprintf("%s:%d", d.IP, backendPort(p, mode))
}

// dial opens a session in the given mode.
func (d *daemon) dial(t testing.TB, p talk.Protocol, mode talk.Mode) *talk.Conn {
	t.Helper()
	return d.dialWith(t, p, d.addr(p, mode), talk.Options{TLS: mode})
}

// dialWith opens a session that trusts the stage's authority, and closes it at the end of the test.
func (d *daemon) dialWith(t testing.TB, p talk.Protocol, addr string, o talk.Options) *talk.Conn {
	t.Helper()
	o.Roots = d.W.CA.Pool
	c, err := talk.Dial(p, addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// startDaemon starts a mailmux at the last byte host of the world's network.
func startDaemon(w *stage.World, binary, dir string, host int, change func(*setup)) (*daemon, error) {
	s := defaults(w)
	s.Dir, s.IP = dir, w.Net.IP(host)
	if change != nil {
		change(s)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for name, secret := range map[string]string{"bind.secret": stage.BindPassword, "master.secret": stage.MasterPassword} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(secret+"\n"), 0o600); err != nil {
			return nil, err
		}
	}
	text, err := s.text()
	if err != nil {
		return nil, err
	}
	greets := make(map[string]string)
	for _, p := range talk.Protocols() {
		prefix := map[talk.Protocol]string{talk.IMAP: "* OK", talk.POP3: "+OK", talk.Submission: "220", talk.Sieve: `"`}[p]
		greets[fmt.Sprintf("%s:%d", s.IP, backendPort(p, talk.Plain))] = prefix
	}
	for _, addr := range s.Greets {
		greets[addr] = "220"
	}
	m, err := stage.StartMailmux(binary, dir, text, greets)
	if err != nil {
		return nil, err
	}
	return &daemon{Mailmux: m, setup: s}, nil
}

// front returns the shared daemon in front of the shared servers.
func front(t testing.TB) *daemon {
	t.Helper()
	w := world(t)
	bin := builtProgram(t, "mailmux")
	common.front.Do(func() {
		common.daemon, common.frontErr = startDaemon(w, bin, filepath.Join(w.Dir, "mux"), stage.HostDaemon, nil)
	})
	if common.frontErr != nil {
		t.Fatal(common.frontErr)
	}
	showDaemonLog(t, common.daemon)
	return common.daemon
}

// ownDaemon starts a daemon for one story in front of the servers of w.
func ownDaemon(t testing.TB, w *stage.World, change func(*setup)) *daemon {
	t.Helper()
	host := nextHost()
	d, err := startDaemon(w, builtProgram(t, "mailmux"), filepath.Join(w.Dir, fmt.Sprintf("mux%d", host)), host, change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Stop()
		if fault := d.faults(); fault != "" {
			t.Error(fault)
		}
	})
	showDaemonLog(t, d)
	return d
}

// faults tells what no daemon's log may have, whatever its story: a panic, or a data race.
func (d *daemon) faults() string {
	b, err := os.ReadFile(d.Log)
	if err != nil {
		return err.Error()
	}
	for _, bad := range []string{"DATA RACE", "panic", "fatal error:"} {
		if at := strings.Index(string(b), bad); at >= 0 {
			return fmt.Sprintf("mailmux's log tells of a %s:\n%s", bad, b[max(0, at-200):min(len(b), at+4000)])
		}
	}
	return ""
}

// nextHost gives out the last bytes of addresses for the daemons of single stories.
func nextHost() int {
	common.mu.Lock()
	defer common.mu.Unlock()
	common.last++
	return common.last
}

func showDaemonLog(t testing.TB, d *daemon) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of mailmux's log:\n%s", d.Tail(6000))
		}
	})
}
