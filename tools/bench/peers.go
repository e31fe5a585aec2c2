package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// peer is one proxy under test, or the direct way.
type peer struct {
	name    string
	program string // that has to be installed, "" for our own
	host    int
	routes  bool // looks accounts up: the client checks that it is on its home
	ports   string
	note    string
	prepare func(w *world, p *peer) ([][]string, error)

	dir     string
	group   *group // nil for direct
	command [][]string
}

// everything is each port there is.
const everything = portIMAP + portIMAPS + portRSA + portPOP3 + portSubmission + portLMTP

// noLMTP is what login proxies have.
const noLMTP = portIMAP + portIMAPS + portRSA + portPOP3 + portSubmission

// peers are all of them, in the order of the tables.
func peers() []*peer {
	return []*peer{
		{name: "mailmux", host: hostMailmux, routes: true, ports: everything, prepare: prepareMailmux},
		{name: "nginx", program: "nginx", host: hostNginx, routes: true, ports: noLMTP, prepare: prepareNginx("4k"),
			note: "2 workers, auth_http helper with the accounts cached, its CPU included"},
		{name: "nginx-32k", program: "nginx", host: hostNginx32k, routes: true, ports: noLMTP, prepare: prepareNginx("32k"),
			note: "the same with proxy_buffer 32k"},
		{name: "dovecot", program: "dovecot", host: hostDovecot, routes: true, ports: noLMTP, prepare: prepareDovecot,
			note: "login proxy, passdb ldap with auth_cache"},
		{name: "perdition", program: "perdition.imap4", host: hostPerditon, routes: true, ports: portIMAP + portIMAPS + portPOP3, prepare: preparePerdition,
			note: "LDAP map"},
		{name: "haproxy", program: "haproxy", host: hostHAProxy, ports: everything, prepare: prepareHAProxy,
			note: "TCP mode with splice-response: looks nobody up, one backend"},
		{name: "gofloor", host: hostGofloor, ports: everything, prepare: prepareGofloor,
			note: "accept, dial and io.Copy in Go: looks nobody up, one backend"},
		{name: "direct", host: hostBack1, ports: portIMAP + portIMAPS + portPOP3 + portSubmission + portLMTP,
			note: "no proxy at all"},
	}
}

// start prepares a peer the first time, and starts it with fresh processes.
func (p *peer) start(w *world) error {
	if p.prepare == nil {
		return nil
	}
	if p.dir == "" {
		p.dir = filepath.Join(w.dir, p.name)
		if err := os.Mkdir(p.dir, 0o755); err != nil {
			return err
		}
		var err error
		if p.command, err = p.prepare(w, p); err != nil {
			return err
		}
		p.group = newGroup(p.dir, p.name)
	}
	for _, argv := range p.command {
		if argv[0] == p.program {
			path, err := find(argv[0])
			if err != nil {
				return err
			}
			argv = append([]string{path}, argv[1:]...)
		}
		if err := p.group.start(argv...); err != nil {
			return err
		}
	}
	for _, port := range []string{portIMAP, portIMAPS, portRSA, portPOP3, portSubmission, portLMTP} {
		if p.has(port) {
			if err := ready(w.addr(p.host, port)); err != nil {
				return fmt.Errorf("it does not come up: %w\n%s", err, p.lastWords())
			}
		}
	}
	return nil
}

// lastWords are the ends of the logs.
func (p *peer) lastWords() string {
	var b strings.Builder
	logs, _ := filepath.Glob(filepath.Join(p.dir, "*.log"))
	for _, path := range logs {
		text, _ := os.ReadFile(path)
		b.Write(text[max(0, len(text)-1000):])
	}
	return b.String()
}

func (p *peer) has(port string) bool { return strings.Contains(p.ports, port) }

func (p *peer) file(name, text string) (string, error) {
	path := filepath.Join(p.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

func prepareMailmux(w *world, p *peer) ([][]string, error) {
	conf, err := p.file("mailmux.yaml", expand(mailmuxConf, w, p, nil))
	return [][]string{{filepath.Join(w.dir, "mailmux-daemon"), "serve", "-config", conf}}, err
}

func prepareNginx(buffer string) func(*world, *peer) ([][]string, error) {
	return func(w *world, p *peer) ([][]string, error) {
		conf, err := p.file("nginx.conf", expand(nginxConf, w, p, map[string]string{"BUFFER": buffer}))
		return [][]string{
			{w.self, "auth", w.addr(p.host, "18080"), w.ldap(), base, w.secret()},
			{"nginx", "-e", p.dir + "/error.log", "-c", conf},
		}, err
	}
}

func prepareDovecot(w *world, p *peer) ([][]string, error) {
	if _, err := p.file("ldap.conf", expand(dovecotLDAP, w, p, nil)); err != nil {
		return nil, err
	}
	conf, err := p.file("dovecot.conf", expand(dovecotConf, w, p, nil))
	return [][]string{{"dovecot", "-F", "-c", conf}}, err
}

func preparePerdition(w *world, p *peer) ([][]string, error) {
	library, err := filepath.Glob("/usr/lib/*/libperditiondb_ldap.so.0")
	if err != nil || len(library) == 0 {
		return nil, fmt.Errorf("its LDAP map is missing: %s", packages[p.program])
	}
	base := []string{"--no_daemon", "--no_bind_banner", "--bind_address", w.ip(p.host), "--log_facility", filepath.Join(p.dir, "log"),
		"--map_library", library[0], "--map_library_opt", "3:" + w.ldap() + "/" + base + "?mail,hostServer?sub?(mail=%25s)",
		"--ssl_cert_file", w.ecdsa + ".pem", "--ssl_key_file", w.ecdsa + ".key", "--no_lookup", "--quiet"}
	run := func(program, port, out, mode string) []string {
		// It closes every descriptor that it may have, for each session: a lower limit makes it quicker.
		return append([]string{"/bin/sh", "-c", `ulimit -n 1024; exec "$@"`, "sh", program, "--listen_port", port, "--outgoing_port", out,
			"--ssl_mode", mode, "--pid_file", filepath.Join(p.dir, port+".pid")}, base...)
	}
	return [][]string{
		run("perdition.imap4", portIMAP, portIMAP, "none"), run("perdition.imap4", portIMAPS, portIMAP, "ssl_listen"),
		run("perdition.pop3", portPOP3, portPOP3, "none"),
	}, nil
}

func prepareHAProxy(w *world, p *peer) ([][]string, error) {
	conf, err := p.file("haproxy.cfg", expand(haproxyConf, w, p, nil))
	return [][]string{{"haproxy", "-db", "-f", conf}}, err
}

func prepareGofloor(w *world, p *peer) ([][]string, error) {
	return [][]string{{w.self, "relay", w.ip(p.host), w.ip(hostBack1), w.ecdsa, w.rsa}}, nil
}

// expand puts this run's addresses and files into a configuration.
func expand(text string, w *world, p *peer, more map[string]string) string {
	pairs := []string{
		"$IP", w.ip(p.host), "$DIR", p.dir, "$LDAP", w.ldap(), "$BASE", base, "$BINDDN", bindDN, "$PASSWORD", bindPassword,
		"$SECRET", w.secret(), "$BACK1", w.ip(hostBack1), "$BACK2", w.ip(hostBack2), "$ECDSA", w.ecdsa, "$RSA", w.rsa,
	}
	for k, v := range more {
		pairs = append(pairs, "$"+k, v)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}
