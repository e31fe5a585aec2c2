package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailmux/directory"
	"mailmux/directory/slapdtest"
	"mailmux/failover"
)

// site of the soak: a directory and the real command.
type soak struct {
	t        *testing.T
	server   *slapdtest.Server
	binary   string
	secret   string
	dir      string
	accounts int
	random   *rand.Rand

	directoryKills int
}

func userDN(i int) string { return fmt.Sprintf("uid=user%06d,ou=domains,dc=example,dc=com", i) }

// The command is killed at random instants, and so is the directory. Nothing is ever half changed, the journal claims
// all that was done, running it again completes it, and undo brings everything back. make soak-failover sets
// FAILOVER_SOAK=200; the normal tests do it a few times.
func TestKilledAtAnyInstant(t *testing.T) {
	rounds := 4
	if n, err := strconv.Atoi(os.Getenv("FAILOVER_SOAK")); err == nil {
		rounds = n
	}
	s := newSoak(t, 2000)
	stop := s.server.Supervise() // a client that dies in a transaction can crash slapd 2.5 as well
	seed := uint64(time.Now().UnixNano())
	s.random = rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	kills := 0
	for round := range rounds {
		kills += s.round(round)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	t.Logf("%d rounds, killed %d times; the directory died %d times, %d of them killed", rounds, kills, stop(), s.directoryKills)
}

func newSoak(t *testing.T, accounts int) *soak {
	s := &soak{t: t, dir: t.TempDir(), accounts: accounts}
	s.build()
	var b strings.Builder
	for i := range accounts {
		fmt.Fprintf(&b, "dn: %s\nobjectClass: inetOrgPerson\nobjectClass: mailAccount\nuid: user%06d\ncn: x\nsn: x\nmail: user%06d@example.com\nhostServer: %s\n\n",
			userDN(i), i, i, [...]string{"one", "two"}[i%2])
	}
	s.server = slapdtest.Start(t, slapdtest.Options{
		LDIF: b.String(), Database: "limits dn.exact=\"" + slapdtest.BindDN + "\" size.soft=unlimited size.hard=unlimited\n",
	})
	return s
}

// command is hostfailover with what it needs to find the directory.
func (s *soak) command(ctx context.Context, args ...string) *exec.Cmd {
	args = append(args, "-server", s.server.URL, "-base", slapdtest.Base, "-bind-dn", slapdtest.BindDN, "-bind-password-file", s.secret)
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Dir = s.dir
	return cmd
}

func (s *soak) round(n int) (kills int) {
	journal := filepath.Join(s.dir, fmt.Sprintf("journal-%d", n))
	mode := []string{"auto", "on", "off"}[s.random.IntN(3)]
	move := []string{"move", "-from", "one", "-to", "three", "-apply", "-yes", "-journal", journal, "-txn", mode, "-batch", "50", "-rate", "5000"}
	for attempt := range 3 {
		killed, code, out := s.kill(attempt, move)
		if killed {
			kills++
		} else if code != 0 && code != exitAway {
			s.t.Fatalf("exit %d\n%s", code, out)
		}
		s.check(journal)
		if !killed {
			break
		}
	}
	s.must(move...)
	if got := s.check(journal); got["three/one"] != s.accounts/2 {
		s.t.Errorf("after it was completed: %v", got)
	}
	s.must("undo", "-journal", journal, "-apply", "-yes")
	if got := s.check(journal); got["one/"] != s.accounts/2 || got["two/"] != s.accounts/2 {
		s.t.Errorf("after undo: %v", got)
	}
	return kills
}

// must runs the command to its end; a directory that is away at its start is tried again, as an operator would.
func (s *soak) must(args ...string) {
	s.t.Helper()
	for attempt := 0; ; attempt++ {
		cmd := s.command(s.t.Context(), args...)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return
		}
		if cmd.ProcessState.ExitCode() != exitAway || attempt == 5 {
			s.t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
	}
}

// kill runs the command and kills it, or the directory, after a while.
func (s *soak) kill(attempt int, args []string) (killed bool, code int, out string) {
	cmd := s.command(s.t.Context(), args...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	delay := time.Duration(s.random.IntN(400)) * time.Millisecond
	select {
	case <-ended:
		return false, cmd.ProcessState.ExitCode(), output.String()
	case <-time.After(delay): // at any instant is the point
	}
	if attempt == 1 {
		s.server.Kill()
		s.directoryKills++
		s.server.Run()
		<-ended
		return false, cmd.ProcessState.ExitCode(), output.String()
	}
	_ = cmd.Process.Kill() // it may have ended by itself
	<-ended
	return cmd.ProcessState.ExitCode() != 0, cmd.ProcessState.ExitCode(), output.String()
}

// check compares the directory entry by entry with what must hold, and with the journal.
func (s *soak) check(journal string) map[string]int {
	s.t.Helper()
	changed := map[string]bool{}
	if f, err := os.Open(journal); err == nil {
		defer f.Close()
		err := failover.ReadJournal(f, func(_ *failover.Header, l *failover.Line) error {
			if l != nil && l.DN != "" {
				changed[l.DN] = true
			}
			return nil
		})
		if err != nil {
			s.t.Error(err)
		}
	}
	for range 20 {
		seen, err := s.read(changed)
		if err == nil {
			return seen
		}
		s.t.Logf("read the directory again: %v", err)
	}
	s.t.Fatal("the directory does not come back")
	return nil
}

// read counts the states of the accounts.
func (s *soak) read(changed map[string]bool) (map[string]int, error) {
	cfg := directory.Config{BindDN: slapdtest.BindDN, BindPasswordFile: s.secret, Base: slapdtest.Base, Servers: []string{s.server.URL}}
	link := &failover.Link{
		Servers: cfg.Servers, Wait: 10 * time.Second, Say: func(string, ...any) {},
		Open: func(ctx context.Context, server string) (directory.Editor, error) {
			return directory.OpenEditor(ctx, cfg, server)
		},
	}
	defer link.Close()
	editor, err := link.Editor(s.t.Context())
	if err != nil {
		return nil, err
	}
	seen, all := map[string]int{}, 0
	err = editor.Search(s.t.Context(), directory.Query{}, func(r directory.Record) error {
		state := r.Host + "/" + r.OldHost
		seen[state]++
		all++
		switch state {
		case "one/", "two/":
		case "three/one":
			if !changed[r.DN] {
				s.t.Errorf("%s was changed, and the journal does not know", r.DN)
			}
		default:
			s.t.Errorf("%s is half changed: %+v", r.DN, r)
		}
		return nil
	})
	if err == nil && all != s.accounts {
		s.t.Errorf("%d accounts, want %d", all, s.accounts)
	}
	return seen, err
}

// Exit codes and messages of the real command when the directory goes away.
func TestDirectoryGoesAway(t *testing.T) {
	s := newSoak(t, 2000)
	cmd := s.command(t.Context(), "move", "-from", "one", "-to", "three", "-apply", "-yes", "-rate", "1000", "-wait", "200ms", "-journal", "j")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if text, err := os.ReadFile(filepath.Join(s.dir, "j")); err == nil && bytes.Count(text, []byte("\n")) > 100 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not begin")
		}
	}
	s.server.Kill()
	var said bytes.Buffer
	if _, err := said.ReadFrom(stderr); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitAway || !strings.Contains(said.String(), "run the same command again") {
		t.Errorf("exit %d\n%s", code, said.String())
	}
	s.server.Run()
	s.check(filepath.Join(s.dir, "j"))
}

// Ctrl-C lets the batch under way end, and says how to go on.
func TestInterrupt(t *testing.T) {
	s := newSoak(t, 2000)
	cmd := s.command(t.Context(), "move", "-from", "one", "-to", "three", "-apply", "-yes", "-rate", "500", "-journal", "j")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if text, err := os.ReadFile(filepath.Join(s.dir, "j")); err == nil && bytes.Count(text, []byte("\n")) > 100 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not begin")
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(out.String(), "interrupted: run the same command again") || !strings.Contains(out.String(), "host before") {
		t.Errorf("exit %d\n%s", code, out.String())
	}
	s.check(filepath.Join(s.dir, "j"))
}
