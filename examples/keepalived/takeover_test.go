// Package keepalived tests the takeover script in the place of keepalived, with fencing that works, and that does not.
package keepalived

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// binary is the real command, built once.
var binary string

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hostfailover-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "hostfailover")
	if out, err := exec.Command("go", "build", "-o", binary, "mailmux/cmd/hostfailover").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

type site struct {
	t   *testing.T
	dir string
}

func newSite(t *testing.T) *site {
	s := &site{t, t.TempDir()}
	s.write("mailmux.yaml", `hostname: mail.example.com
directory: {servers: ["ldif:accounts.ldif"], base: "ou=domains,dc=example,dc=com"}
hosts:
  back1.example.com: {members: [127.0.0.1]}
  back2.example.com: {members: [127.0.0.1]}
listeners:
  - {service: imap, address: "127.0.0.1:2143", allow_plaintext: true}
`)
	s.write("accounts.ldif", "dn: uid=a,ou=domains,dc=example,dc=com\nobjectClass: mailAccount\nhostServer: back1.example.com\n\n"+
		"dn: uid=b,ou=domains,dc=example,dc=com\nobjectClass: mailAccount\nhostServer: back3.example.com\noldHostServer: back1.example.com\n")
	s.settings("echo fenced >>"+s.path("calls"), "echo storage >>"+s.path("calls")+" #")
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) settings(fence, storage string) {
	s.write("takeover.conf", strings.Join([]string{
		"FENCE='" + fence + "'", "STORAGE='" + storage + "'", "CONFIG=" + s.path("mailmux.yaml"), "OPTIONS=-no-check",
		"HOSTFAILOVER=" + binary, "JOURNALS=" + s.path("journals"), "LOCK=" + s.path("lock"), "TRIES=2", "PAUSE=0", "",
	}, "\n"))
}

func (s *site) run(args ...string) (code int, out string) {
	s.t.Helper()
	script, err := filepath.Abs("mailmux-takeover")
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command("sh", append([]string{script}, args...)...)
	cmd.Env = append(os.Environ(), "MAILMUX_TAKEOVER_CONF="+s.path("takeover.conf"))
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(text)
}

func (s *site) read(name string) string {
	text, err := os.ReadFile(s.path(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	return string(text)
}

func TestTakeover(t *testing.T) {
	s := newSite(t)
	for range 2 { // keepalived may call it again
		if code, out := s.run("back1.example.com", "back2.example.com", "INSTANCE", "back1_storage", "MASTER", "100"); code != 0 {
			t.Fatalf("exit %d\n%s", code, out)
		}
	}
	accounts := s.read("accounts.ldif")
	if strings.Count(accounts, "\nhostServer: back2.example.com") != 2 || strings.Count(accounts, "oldHostServer: back1.example.com") != 2 {
		t.Errorf("accounts:\n%s", accounts)
	}
	if calls := s.read("calls"); calls != "fenced\nstorage\nfenced\nstorage\n" {
		t.Errorf("calls: %q", calls)
	}
}

func TestNothingMovesUnfenced(t *testing.T) {
	s := newSite(t)
	before := s.read("accounts.ldif")
	for name, c := range map[string]struct {
		fence, storage string
		args           []string
		code           int
	}{
		"fencing fails":   {"false", "true", []string{"back1.example.com", "back2.example.com"}, 5},
		"no fencing":      {"", "true", []string{"back1.example.com", "back2.example.com"}, 2},
		"storage fails":   {"true", "false", []string{"back1.example.com", "back2.example.com"}, 1},
		"one argument":    {"true", "true", []string{"back1.example.com"}, 2},
		"the same host":   {"true", "true", []string{"back1.example.com", "back1.example.com"}, 2},
		"an unknown host": {"true", "true", []string{"back1.example.com", "back9.example.com"}, 1},
		"no host at all":  {"true", "true", []string{"back1.example.com", "back2.example.com=x"}, 2},
	} {
		s.settings(c.fence, c.storage)
		if code, out := s.run(c.args...); code != c.code {
			t.Errorf("%s: exit %d, want %d\n%s", name, code, c.code, out)
		}
		if s.read("accounts.ldif") != before {
			t.Errorf("%s: accounts were moved", name)
		}
	}
	if err := os.Remove(s.path("takeover.conf")); err != nil {
		t.Fatal(err)
	}
	if code, _ := s.run("back1.example.com", "back2.example.com"); code != 2 {
		t.Errorf("no settings: exit %d", code)
	}
}

// An account that cannot be changed does not keep those where they are that an earlier takeover took elsewhere.
func TestSomeAccountsCannotBeMoved(t *testing.T) {
	s := newSite(t)
	s.write("accounts.ldif", s.read("accounts.ldif")+`
dn: uid=two,ou=domains,dc=example,dc=com
objectClass: mailAccount
hostServer: back1.example.com
hostServer: back2.example.com

dn: uid=away,ou=domains,dc=example,dc=com
objectClass: mailAccount
hostServer: back3.example.com
oldHostServer: back1.example.com
`)
	code, out := s.run("back1.example.com", "back2.example.com")
	if accounts := s.read("accounts.ldif"); code != 1 || strings.Contains(accounts, "back3") || strings.Count(accounts, "oldHostServer: back1.example.com") != 3 {
		t.Errorf("exit %d\n%s\n%s", code, out, accounts)
	}
}

// The mail server here may not be up yet: it is asked again.
func TestTargetThatDoesNotAnswerYet(t *testing.T) {
	s := newSite(t)
	s.write("hostfailover", "#!/bin/sh\necho \"$2\" >>"+s.path("calls")+"\n[ -e "+s.path("up")+" ] || { touch "+s.path("up")+"; exit 4; }\n")
	if err := os.Chmod(s.path("hostfailover"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.write("takeover.conf", s.read("takeover.conf")+"HOSTFAILOVER="+s.path("hostfailover")+"\n")
	code, out := s.run("back1.example.com", "back2.example.com")
	if calls := s.read("calls"); code != 0 || calls != "fenced\nstorage\n-from\n-from\n-original\n" {
		t.Errorf("exit %d, %q\n%s", code, calls, out)
	}
}

func TestOneTakeoverAtATime(t *testing.T) {
	s := newSite(t)
	says, gate := s.path("says"), s.path("gate")
	if out, err := exec.Command("mkfifo", says, gate).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v\n%s", err, out)
	}
	s.settings("echo fencing >"+says+"; read x <"+gate, "true")
	first := make(chan int)
	go func() { code, _ := s.run("back1.example.com", "back2.example.com"); first <- code }()
	if said, err := os.ReadFile(says); err != nil || string(said) != "fencing\n" { // the first one holds the lock
		t.Fatalf("%q, %v", said, err)
	}
	if code, out := s.run("back1.example.com", "back2.example.com"); code != 1 || !strings.Contains(out, "under way") {
		t.Errorf("the second one: exit %d\n%s", code, out)
	}
	if err := os.WriteFile(gate, []byte("go on\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := <-first; code != 0 {
		t.Errorf("the first one: exit %d", code)
	}
}

func TestSettingsAreReadable(t *testing.T) {
	if out, err := exec.Command("sh", "-n", "takeover.conf").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
