package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mailmux/directory/slapdtest"
	"mailmux/failover"
)

// An interrupt is not taken for a directory that is away, whatever it cut short.
func TestInterruptedBeforeItBegan(t *testing.T) {
	t.Chdir(t.TempDir())
	server := slapdtest.Start(t, slapdtest.Options{})
	writeFile(t, "secret", slapdtest.BindPassword)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, command := range [][]string{{"status"}, {"verify"}, {"move", "-from", "a", "-to", "b", "-apply"}} {
		var out bytes.Buffer
		args := append(command, "-server", server.URL, "-base", slapdtest.Base, "-bind-dn", slapdtest.BindDN, "-bind-password-file", "secret")
		code := run(ctx, args, console{in: strings.NewReader(""), out: &out, err: &out})
		if code != exitFailed || !strings.Contains(out.String(), "interrupted") {
			t.Errorf("%s: exit %d\n%s", command, code, out.String())
		}
	}
}

// Whoever interrupts at the question has answered it.
func TestInterruptIsAnAnswer(t *testing.T) {
	t.Chdir(t.TempDir())
	writeFile(t, "accounts.ldif", threeAccounts)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	typing, nobody := io.Pipe()
	defer nobody.Close()
	out, screen := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"move", "-server", "ldif:accounts.ldif", "-base", "dc=example,dc=com", "-from", "one", "-to", "three", "-apply"},
			console{in: typing, out: screen, err: screen, terminal: true})
		screen.Close()
	}()
	lines := bufio.NewReader(out)
	if asked, err := lines.ReadString('?'); err != nil {
		t.Fatalf("%q, %v", asked, err)
	}
	cancel()
	rest, _ := io.ReadAll(lines) // until the screen is closed
	if code := <-ended; code != exitRefused || !strings.Contains(string(rest), "nothing was changed") {
		t.Errorf("exit %d: %s", code, rest)
	}
}

// A session that ends lets the batch under way be finished and counted; a reader of the output that has gone does not
// stop the run at all.
func TestHangUpAndBrokenPipe(t *testing.T) {
	heard := make(chan os.Signal, 1) // a signal with a handler is not ignored by a child, as under nohup it would be
	signal.Notify(heard, syscall.SIGHUP)
	defer signal.Stop(heard)
	s := newSoak(t, 2000)
	journal := filepath.Join(s.dir, "journal")
	move := func(more ...string) *exec.Cmd {
		args := append([]string{"move", "-from", "one", "-to", "three", "-apply", "-yes", "-json", "-batch", "50", "-journal", journal}, more...)
		return s.command(t.Context(), args...)
	}
	cmd := move("-rate", "100")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), `"progress"`) {
	}
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(said.String(), "interrupted") {
		t.Errorf("hang-up: %v\n%s", err, said.String())
	}
	s.check(journal)

	cmd = move("-v")
	if out, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	out.Close()
	if err := cmd.Run(); err != nil {
		t.Errorf("broken pipe: %v", err)
	}
	if got := s.check(journal); got["three/one"] != 1000 {
		t.Errorf("broken pipe: %v", got)
	}
}

// The bar is drawn where errors go, whose width counts.
func TestBarFitsItsOwnTerminal(t *testing.T) {
	var screen bytes.Buffer
	r := &reporter{con: console{out: io.Discard, err: &screen, terminal: true, errWidth: 44}, total: 9000}
	r.progress(summaryOf(4000))
	if n := len(strings.TrimPrefix(screen.String(), "\r\x1b[K")); n == 0 || n >= 44 {
		t.Errorf("%d columns of 44: %q", n, screen.String())
	}
}

// A server that takes no changes is as good as none, for those who try again later.
func TestReadOnlyDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	server := slapdtest.Start(t, slapdtest.Options{Database: "readonly on\n", LDIF: strings.ReplaceAll(threeAccounts, ",dc=example,dc=com\nobjectClass: mailAccount", ","+slapdtest.Base+"\nobjectClass: account\nobjectClass: mailAccount")})
	writeFile(t, "secret", slapdtest.BindPassword)
	code, out := try(t, "move", "-server", server.URL, "-base", slapdtest.Base, "-bind-dn", slapdtest.BindDN, "-bind-password-file", "secret",
		"-from", "one", "-to", "two", "-apply", "-yes", "-journal", "j", "-json")
	if code != exitAway || !strings.Contains(out, "no server of the directory takes changes") || strings.Contains(out, "last_change") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

func summaryOf(changed int) failover.Summary {
	return failover.Summary{Ways: map[failover.Way]*failover.Count{{From: "one", To: "two"}: {Changed: changed}}, Seconds: 3}
}
