package conf

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mailmux/tools/certs/pki"
)

// sound is a small configuration without a fault or a warning. Tests change lines of it.
const sound = `hostname: mail.example.com
directory:
  servers: [ldap://127.0.0.1:389]
  base: dc=example,dc=com
hosts:
  back1.example.com: {members: [10.0.0.11]}
  east.example.com:
    members: [{address: 10.0.1.1, weight: 2}, 10.0.1.2]
listeners:
  - {service: imap, address: "127.0.0.1:143", allow_plaintext: true}
`

// load writes a configuration to a file of its own and loads it.
func load(t *testing.T, text string) (*Config, []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mailmux.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(path)
	return cfg, lines(path, err)
}

// lines are an error's lines without the directory of the file.
func lines(path string, err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(strings.ReplaceAll(err.Error(), filepath.Dir(path)+"/", ""), "\n")
}

func TestSound(t *testing.T) {
	cfg, faults := load(t, sound)
	if faults != nil || cfg.Warnings != nil {
		t.Fatalf("faults %q, warnings %v", faults, cfg.Warnings)
	}
	if cfg.Hostname != "mail.example.com" || len(cfg.Hosts) != 2 || cfg.Hosts["east.example.com"].Members[1].Address != "10.0.1.2" {
		t.Errorf("loaded %+v", cfg)
	}
}

// TestFaults holds the words for one fault each: the line, the key, what to do.
func TestFaults(t *testing.T) {
	tests := []struct {
		name     string
		old, new string // of sound
		want     []string
	}{
		{"unknown key", "base:", "bse:", []string{
			"mailmux.yaml:4: directory.bse: unknown key; did you mean base?"}},
		{"unknown section", "listeners:", "limit: {sessions: 5}\nlisteners:", []string{
			"mailmux.yaml:9: limit: unknown key; did you mean limits?"}},
		{"unknown key like no other", "hostname: mail.example.com", "hostname: mail.example.com\nadmin: {zzzzzzzz: 1}", []string{
			"mailmux.yaml:2: admin.zzzzzzzz: unknown key; known here: address, http, state"}},
		{"unknown key of a member", "weight: 2", "wieght: 2", []string{
			"mailmux.yaml:8: hosts.east.example.com.members[0].wieght: unknown key; did you mean weight?"}},
		{"key twice", "hostname: mail.example.com", "hostname: mail.example.com\nhostname: b.example.com", []string{
			"mailmux.yaml:2: hostname: given twice, first in line 1; remove one"}},
		{"host twice", "  east", "  back1.example.com: {members: [10.0.0.1]}\n  east", []string{
			"mailmux.yaml:7: hosts.back1.example.com: given twice, first in line 6; remove one"}},
		{"not a number", "weight: 2", "weight: heavy", []string{
			`mailmux.yaml:8: hosts.east.example.com.members[0].weight: must be a whole number, got "heavy"`}},
		{"part of a session", "listeners:", "limits: {sessions: 1.5}\nlisteners:", []string{
			`mailmux.yaml:9: limits.sessions: must be a whole number, got "1.5"`}},
		{"duration without unit", "  base:", "  timeout: 3\n  base:", []string{
			`mailmux.yaml:4: directory.timeout: must be a duration with its unit, such as 30s, 5m or 24h, got "3"`}},
		{"not a bool", "allow_plaintext: true", "allow_plaintext: maybe", []string{
			`mailmux.yaml:10: listeners[0].allow_plaintext: must be true or false, got "maybe"`}},
		{"not a network", "allow_plaintext: true", "allow_plaintext: true, proxy_protocol: [10.0.0.1]", []string{
			`mailmux.yaml:10: listeners[0].proxy_protocol[0]: must be a network, such as 10.0.0.0/8 or 192.0.2.10/32, got "10.0.0.1"`}},
		{"not an address", "listeners:", "domains: {addresses: {here: example.com}}\nlisteners:", []string{
			`mailmux.yaml:9: domains.addresses: a key here must be an IP address, such as 192.0.2.10 or 2001:db8::1, got "here"`}},
		{"not a list", "[ldap://127.0.0.1:389]", "ldap://127.0.0.1:389", []string{
			`mailmux.yaml:3: directory.servers: must be a list, in [ ] or one line with a dash each, got "ldap://127.0.0.1:389"`}},
		{"not keys and values", "listeners:", "limits: [5]\nlisteners:", []string{
			"mailmux.yaml:9: limits: must be keys and values, got a list"}},
		{"zero", "listeners:", "limits: {sessions: 0}\nlisteners:", []string{
			"mailmux.yaml:9: limits.sessions: 0 is no value here, and nothing is unlimited; leave the key out for the default"}},
		{"zero duration", "listeners:", "limits: {login_timeout: 0s}\nlisteners:", []string{
			"mailmux.yaml:9: limits.login_timeout: 0 is no value here, and nothing is unlimited; leave the key out for the default"}},
		{"empty item", "10.0.1.2]", "~]", []string{
			"mailmux.yaml:8: hosts.east.example.com.members[1]: is empty; remove it"}},
		{"a section's objection", "  base: dc=example,dc=com\n", "", []string{
			"mailmux.yaml:2: directory.base: is needed: the entry under which the accounts are, such as ou=domains,dc=example,dc=com"}},
		{"an objection to a member", "10.0.1.2]", "10.0.1.256]", []string{
			`mailmux.yaml:8: hosts.east.example.com.members[1].address: "10.0.1.256": is neither an IP address nor a DNS name`}},
		{"no certificate", `"127.0.0.1:143", allow_plaintext: true`, `":993", tls: implicit`, []string{
			"mailmux.yaml:10: listeners[0].tls: implicit TLS needs a certificate; give one in tls.certificates"}},
		{"nobody could log in", `, allow_plaintext: true`, ``, []string{
			"mailmux.yaml:10: listeners[0]: nobody could log in: there is no certificate in tls.certificates for STARTTLS, and allow_plaintext is not set"}},
		{"external with nobody to log in as", "listeners:", "auth: {mechanisms: [plain, external]}\nlisteners:", []string{
			"mailmux.yaml:9: auth.mechanisms: external needs tls.client_ca_file, which client certificates are verified by",
			"mailmux.yaml:9: auth.mechanisms: external needs a host with login: master, as there is no password to pass on"}},
		{"one address twice", "listeners:\n", "listeners:\n  - {service: lmtp, address: \"localhost:0143\"}\n", []string{
			"mailmux.yaml:11: listeners[1].address: 127.0.0.1:143 is that of listeners[0].address, too"}},
		{"an address within another", "listeners:\n", "listeners:\n  - {service: lmtp, address: \"0.0.0.0:imap\"}\n", []string{
			"mailmux.yaml:11: listeners[1].address: listeners[0].address has every address at port 143 already; remove one of them, or name its address"}},
		{"an address around another", "listeners:\n", "admin: {http: \":143\"}\nlisteners:\n", []string{
			"mailmux.yaml:9: admin.http: every address at port 143, and listeners[0].address has one of them; remove one of them, or name the address"}},
		{"a star for every address", "127.0.0.1:143", "*:143", []string{
			`mailmux.yaml:10: listeners[0].address: "*:143" begins with neither an IP address nor a name; for every address of the machine write ":143"`}},
		{"a port that is none", "127.0.0.1:389", "127.0.0.1:38900000", []string{
			`mailmux.yaml:3: directory.servers[0]: "ldap://127.0.0.1:38900000": the port must be from 1 to 65535`}},
		{"a filter that is none", "  base:", "  filter: \"(mail={address}\"\n  base:", []string{
			`mailmux.yaml:4: directory.filter: "(mail={address}" is not an LDAP filter (RFC 4515), such as (mail={address}): unexpected end of filter`}},
		{"a host with a blank", "  back1.example.com", "  \"back 1\"", []string{
			`mailmux.yaml:5: hosts: "back 1": a host's name has no blanks, slashes or control characters`}},
		{"a directory that may take for ever", "  base:", "  timeout: 1000h\n  base:", []string{
			"mailmux.yaml:4: directory.timeout: must be 1m0s at most, got 1000h0m0s: a login waits that long at each server that is silent"}},
		{"second document", "listeners:", "---\nlisteners:", []string{
			"mailmux.yaml:9: a second document begins here; a configuration is one, remove the line ---",
			"mailmux.yaml: listeners: at least one is needed, such as {service: imap, address: \":143\"}"}},
		{"bad hostname", "mail.example.com", "mail_.-example.com", []string{
			`mailmux.yaml:1: hostname: "mail_.-example.com" is not a DNS name, such as mail.example.com`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.Contains(sound, tt.old) {
				t.Fatalf("%q is not in the sound configuration", tt.old)
			}
			_, faults := load(t, strings.Replace(sound, tt.old, tt.new, 1))
			if !slices.Equal(faults, tt.want) {
				t.Errorf("faults\n  %s\nwant\n  %s", strings.Join(faults, "\n  "), strings.Join(tt.want, "\n  "))
			}
		})
	}
}

// TestAllAtOnce wants syntax of values, unknown keys and the sections' objections in one report, in the order of lines.
func TestAllAtOnce(t *testing.T) {
	_, faults := load(t, `hostname: "a b"
directory:
  servers: [http://x]
  base: dc=example,dc=com
  cache: {tll: 5m, negative_ttl: -1s}
hosts:
  back1.example.com: {members: [{address: 10.0.0.1, weight: -1}], ports: {impa: 143}}
limits: {sessions: many, idle_timeout: 5m}
listeners:
  - {service: impa, address: "x"}
`)
	var keys []string
	for _, f := range faults {
		where, _, _ := strings.Cut(f, ": ")
		key, _, _ := strings.Cut(f[len(where)+2:], ": ")
		keys = append(keys, strings.TrimPrefix(where, "mailmux.yaml:")+" "+key)
	}
	want := []string{"1 hostname", "3 directory.servers[0]", "5 directory.cache.tll", "5 directory.cache.negative_ttl",
		"7 hosts.back1.example.com.ports.impa", "7 hosts.back1.example.com.members[0].weight", "8 limits.sessions", "8 limits.idle_timeout",
		"10 listeners[0].service", "10 listeners[0].address", "10 listeners[0]"}
	if !slices.Equal(keys, want) {
		t.Errorf("faults\n  %s\nhave keys\n  %s\nwant\n  %s", strings.Join(faults, "\n  "), strings.Join(keys, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestNotAConfiguration(t *testing.T) {
	tests := map[string]string{
		"":                              "mailmux.yaml: the file is empty; README.md has a configuration to begin with",
		"# nothing but a comment\n":     "mailmux.yaml: the file is empty; README.md has a configuration to begin with",
		"--- \n":                        "mailmux.yaml: the file is empty; README.md has a configuration to begin with",
		"just words\n":                  `mailmux.yaml:1: must be keys and values, got "just words"`,
		"a: [1\n":                       "mailmux.yaml:1: did not find expected ',' or ']'; see that the indentation is right and special characters are quoted",
		"a:\n  b: 1\n  c: 2\n   d: 3\n": "mailmux.yaml:4: mapping values are not allowed in this context; see that the indentation is right and special characters are quoted",
		"a:\n  b: 1\n  c: 2\n d: 3\n":   "mailmux.yaml:4: did not find expected key; see that the indentation is right and special characters are quoted",
		"a: 1\nb:\n\tc: 2\n":            "mailmux.yaml:3: found character that cannot start any token; indent with spaces, this line has a tab",
		"a: 1\nb: *x\n":                 "mailmux.yaml:2: unknown anchor 'x' referenced; an alias has its anchor above it; quote a value that begins with *",
		"a: 1\nb: \xe9t\xe9\n":          "mailmux.yaml:2: invalid trailing UTF-8 octet; save the file as text in UTF-8",
	}
	for text, want := range tests {
		_, faults := load(t, text)
		if len(faults) == 0 || faults[0] != want {
			t.Errorf("%q: faults %q, want %q first", text, faults, want)
		}
	}
}

func TestNoFile(t *testing.T) {
	cfg, err := Load("/nonexistent/mailmux.yaml")
	want := "/nonexistent/mailmux.yaml: open the configuration: no such file or directory; name it with -config"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if path, _ := cfg.Admin.Socket(); path == "" {
		t.Error("the operator's socket is not known without a configuration")
	}
}

// TestMerge wants anchors and merge keys to work, as sites with many alike hosts use them.
func TestMerge(t *testing.T) {
	text := strings.Replace(sound, "hosts:\n  back1.example.com: {members: [10.0.0.11]}",
		"hosts:\n  back1.example.com: &like {members: [10.0.0.11], tls: starttls}\n  back2.example.com: {<<: *like, members: [10.0.0.12]}", 1)
	cfg, faults := load(t, text)
	if faults != nil {
		t.Fatal(faults)
	}
	if h := cfg.Hosts["back2.example.com"]; h.TLS != "starttls" || h.Members[0].Address != "10.0.0.12" {
		t.Errorf("merged %+v", h)
	}
}

// TestFiles looks at files that are named: where they are looked for, and what is said of them.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("open.secret", "sesame\n", 0o644)
	write("closed.secret", "sesame\n", 0o600)
	write("empty.secret", "", 0o600)
	write("mailmux.yaml", strings.Replace(sound, "  base:", `  bind_dn: cn=mailmux
  bind_password_file: open.secret
  tls_ca_file: missing.pem
  tls_cert_file: closed.secret
  tls_key_file: closed.secret
  base:`, 1)+`backend: {login: master, master: {user: m, password_file: empty.secret}, tls_ca_file: closed.secret}
tls: {certificates: [{cert: open.secret, key: open.secret}], ticket_key_file: closed.secret}
`, 0o600)
	path := filepath.Join(dir, "mailmux.yaml")
	cfg, err := Load(path)
	faults := lines(path, err)
	want := []string{
		"mailmux.yaml:6: directory.tls_ca_file: missing.pem does not exist",
		"mailmux.yaml:7: directory.tls_cert_file: load closed.secret with closed.secret: tls: failed to find any PEM data in certificate input",
		"mailmux.yaml:16: backend.tls_ca_file: closed.secret holds no certificate in PEM: name the file with those of the authorities, -----BEGIN CERTIFICATE-----",
		"mailmux.yaml:16: backend.master.password_file: empty.secret is empty",
		"mailmux.yaml:17: tls.ticket_key_file: closed.secret has no line of at least 32 characters; make one with: openssl rand -hex 32",
		"mailmux.yaml:17: tls.certificates[0]: load open.secret with open.secret: tls: failed to find any PEM data in certificate input",
	}
	if !slices.Equal(faults, want) {
		t.Errorf("faults\n  %s\nwant\n  %s", strings.Join(faults, "\n  "), strings.Join(want, "\n  "))
	}
	if cfg.Directory.BindPasswordFile != filepath.Join(dir, "open.secret") {
		t.Errorf("the secret is looked for at %s", cfg.Directory.BindPasswordFile)
	}
	warnings := lines(path, cfg.Warnings)
	want = []string{
		"mailmux.yaml:5: directory.bind_password_file: every user of this machine can read open.secret: chmod o-rwx open.secret",
		"mailmux.yaml:17: tls.certificates[0].key: every user of this machine can read open.secret: chmod o-rwx open.secret",
	}
	if !slices.Equal(warnings, want) {
		t.Errorf("warnings\n  %s\nwant\n  %s", strings.Join(warnings, "\n  "), strings.Join(want, "\n  "))
	}
}

// TestWarnings wants what works, and may not be meant, to be said.
func TestWarnings(t *testing.T) {
	text := strings.Replace(sound, "hostname: mail.example.com", "hostname: mail", 1)
	text = strings.Replace(text, `"127.0.0.1:143"`, `":143"`, 1)
	text = strings.Replace(text, "  base:", "  starttls:\n  base:", 1)
	cfg, faults := load(t, text)
	if faults != nil {
		t.Fatal(faults)
	}
	want := []string{
		`mailmux.yaml:1: hostname: "mail" has no domain; servers may object to it in EHLO`,
		"mailmux.yaml:4: directory.starttls: has no value and counts as absent; write one, or remove the key",
		"mailmux.yaml:11: listeners[0].allow_plaintext: passwords may come over the network in the clear at :143",
	}
	if got := lines(cfg.Path, cfg.Warnings); !slices.Equal(got, want) {
		t.Errorf("warnings\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// TestErrors wants the error to be Faults, for callers that count them.
func TestErrors(t *testing.T) {
	_, err := parse("x.yaml", []byte("a: 1\nb: 2\n"))
	var faults Faults
	if !errors.As(err, &faults) || len(faults) < 2 {
		t.Errorf("error %v is no list of faults", err)
	}
}

// FuzzParse wants any file to give a configuration or faults with a text each.
func FuzzParse(f *testing.F) {
	f.Add(sound)
	f.Add("a: &a [*a]\n")
	f.Add("hosts: &h {x: {members: [{<<: *h}]}}\nhosts: *h\n")
	f.Add("listeners: [{proxy_protocol: {}}]\ndomains: {addresses: {[1]: 2}}\n? {a: b}\n: c\n")
	f.Add("hosts: {a: {members: [!!binary aGk=, !!float 1e3, ~]}}\n--- {}\n")
	ends := strings.NewReplacer("\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n") // the line ends of YAML 1.1
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := parse("fuzz.yaml", []byte(text))
		if cfg == nil {
			t.Fatal("no configuration")
		}
		var faults Faults
		if err == nil {
			if v := cfg.Validate(); v != nil {
				t.Fatalf("loaded with a fault: %v", v)
			}
			return
		}
		if !errors.As(err, &faults) || len(faults) == 0 {
			t.Fatalf("error %v is no list of faults", err)
		}
		for _, fault := range faults {
			if fault.Text == "" || fault.Line < 0 || fault.Line > strings.Count(ends.Replace(text), "\n")+1 {
				t.Fatalf("fault %+v", fault)
			}
		}
	})
}

// TestExpiry wants certificates that have ended, or soon will, to be said; the mail goes on.
func TestExpiry(t *testing.T) {
	ca, err := pki.NewCA("conf test", pki.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	for want, lifetime := range map[string]time.Duration{
		"":        60 * 24 * time.Hour,
		"expires": 3 * 24 * time.Hour,
		"expired": -24 * time.Hour,
	} {
		dir := t.TempDir()
		pair, err := ca.Issue(pki.Request{Hosts: []string{"mail.example.com"}, Lifetime: lifetime})
		if err != nil {
			t.Fatal(err)
		}
		if err := pair.Write(dir, "mail"); err != nil {
			t.Fatal(err)
		}
		cfg, faults := load(t, sound+"tls: {certificates: [{cert: "+dir+"/mail.pem, key: "+dir+"/mail.key}]}\n")
		if faults != nil {
			t.Fatal(faults)
		}
		if got := cfg.Warnings.Error(); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("a certificate for %s: warnings %q, want %q in them", lifetime, got, want)
		}
	}
}
