package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"mailmux/integration/stage"
)

// installed are files below the directory of the configuration that an example's file names.
var installed = regexp.MustCompile(`/etc/mailmux/[A-Za-z0-9._-]+`)

// Every configuration in the examples is taken by mailmux check without a word, once the certificates and secrets that
// it names are there.
func TestExamples(t *testing.T) {
	t.Parallel()
	mailmux := builtProgram(t, "mailmux")
	var files []string
	for _, pattern := range []string{"../examples/*/*.yaml", "../examples/*/*.yml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 8 {
		t.Fatalf("only %d configurations in the examples: %q", len(files), files)
	}
	for _, file := range files {
		t.Run(strings.TrimPrefix(file, "../examples/"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !section("hosts").Match(b) {
				t.Skip("no configuration of mailmux")
			}
			accepted(t, mailmux, string(b))
		})
	}
}

// The unit lets the frontend do what it does: list the machine's addresses, write its queue, and be told to reload on
// every systemd. systemd-analyze knows all of it, but for the programs, which are not installed here.
func TestExampleUnit(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../examples/systemd/mailmux.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\nType=notify\n", "\nExecReload=", "\nWatchdogSec=", "\nRestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK\n",
		"\nReadWritePaths=-/var/spool/mailmux\n",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the unit has no %q", want)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not here to read the unit")
	}
	unit := filepath.Join(t.TempDir(), "mailmux.service")
	text := regexp.MustCompile(`/usr/local/sbin/mailmux`).ReplaceAllString(string(b), "/bin/true")
	text = regexp.MustCompile(`(?m)^Documentation=.*\n`).ReplaceAllString(text, "")
	if err := os.WriteFile(unit, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, "", analyze, "verify", unit); err != nil || strings.Contains(out, "mailmux") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// accepted hands a configuration to mailmux check, with the files that it names in place.
func accepted(t *testing.T, mailmux, text string) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "mailmux.yaml")
	if err := os.WriteFile(config, []byte(install(t, dir, text)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, "", mailmux, "check", "-config", config)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.ToLower(out), "warning") {
		t.Errorf("the example is warned about:\n%s", out)
	}
}

// section matches a top-level key of a configuration.
func section(name string) *regexp.Regexp { return regexp.MustCompile("(?m)^" + name + ":") }

// rest is what a configuration needs beside the sections that a block in a document shows.
var rest = map[string]string{
	"hosts":     "hosts:\n  back1.example.com: {members: [10.0.0.11]}\n  back2.example.com: {members: [10.0.0.12]}\n",
	"listeners": "listeners: [{service: imap, address: \"127.0.0.1:143\", allow_plaintext: true}]\n",
	"directory": "directory: {servers: [\"ldap://10.0.0.5\"], base: \"dc=example,dc=com\"}\n",
	"hostname":  "hostname: mail.example.com\n",
}

// Every block of YAML in the documents is taken by mailmux check; one that shows only some sections is completed.
func TestDocumentedConfigurations(t *testing.T) {
	t.Parallel()
	mailmux := builtProgram(t, "mailmux")
	blocks := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")
	n := 0
	for _, pattern := range []string{"../*.md", "../examples/*.md", "../examples/*/*.md", "../docs/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for i, block := range blocks.FindAllStringSubmatch(string(b), -1) {
				n++
				t.Run(fmt.Sprintf("%s/%d", filepath.Base(file), i), func(t *testing.T) {
					text := block[1]
					for key, more := range rest {
						if !section(key).MatchString(text) {
							text += "\n" + more
						}
					}
					accepted(t, mailmux, text)
				})
			}
		}
	}
	if n == 0 {
		t.Error("no document has a block of YAML")
	}
}

// The snippets for Dovecot and Postfix are read by these programs themselves.
func TestExamplesForOthers(t *testing.T) {
	t.Parallel()
	doveconf := needProgram(t, "doveconf", "dovecot-core")
	files, err := filepath.Glob("../examples/*/backend.conf")
	if err != nil {
		t.Fatal(err)
	}
	pair := regexp.MustCompile(`</etc/dovecot/[A-Za-z0-9._-]+`)
	for _, file := range append(files, "../examples/postfix/dovecot-auth.conf") {
		t.Run(strings.TrimPrefix(file, "../examples/"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			secret := filepath.Join(dir, "secret")
			config := filepath.Join(dir, "dovecot.conf")
			for name, text := range map[string]string{secret: "x\n", config: pair.ReplaceAllString(string(b), "<"+secret)} {
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			out, err := run(t, "", doveconf, "-c", config, "-n")
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(out, "Warning") || strings.Contains(out, "Error") {
				t.Errorf("Dovecot complains:\n%s", out)
			}
		})
	}
	t.Run("postfix", func(t *testing.T) {
		postconf := needProgram(t, "postconf", "postfix")
		dir := t.TempDir()
		for _, name := range []string{"main.cf", "master.cf"} {
			b, err := os.ReadFile("../examples/postfix/" + name)
			if err != nil {
				t.Fatal(err)
			}
			if name == "main.cf" {
				b = append([]byte("compatibility_level = 3.6\n"), b...)
			}
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		out, err := run(t, "", postconf, "-c", dir, "-n")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out, "warning") {
			t.Errorf("Postfix complains:\n%s", out)
		}
		if out, err = run(t, "", postconf, "-c", dir, "-M", "submission/inet"); err != nil || !strings.Contains(out, "smtpd_sasl_auth_enable=yes") {
			t.Errorf("the service is not there: %v\n%s", err, out)
		}
	})
}

// install puts the files that a configuration names into dir, and returns the configuration that names them there.
func install(t testing.TB, dir, text string) string {
	t.Helper()
	ca, err := stage.NewAuthority(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range installed.FindAllString(text, -1) {
		name := filepath.Base(path)
		target := filepath.Join(dir, name)
		if _, err := os.Stat(target); err == nil {
			continue
		}
		base, isCert := strings.CutSuffix(name, ".pem")
		switch {
		case isCert:
			pair, err := ca.Issue(base)
			if err != nil {
				t.Fatal(err)
			}
			for from, to := range map[string]string{pair.Cert: base + ".pem", pair.Key: base + ".key"} {
				if err := os.Rename(from, filepath.Join(dir, to)); err != nil {
					t.Fatal(err)
				}
			}
		case strings.HasSuffix(name, ".key"):
		default:
			if err := os.WriteFile(target, []byte("secret\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return strings.ReplaceAll(text, "/etc/mailmux/", dir+"/")
}

// Every folder of the examples says what it is for.
func TestExamplesAreExplained(t *testing.T) {
	entries, err := os.ReadDir("../examples")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		b, err := os.ReadFile(filepath.Join("../examples", e.Name(), "README.md"))
		if err != nil {
			t.Error(err)
			continue
		}
		if !strings.HasPrefix(string(b), "# ") {
			t.Errorf("the README of %s has no title", e.Name())
		}
	}
}
