package failover_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mailmux/directory"
	"mailmux/directory/slapdtest"
	"mailmux/failover"
)

// state is every account's home host and original home host, by uid.
func state(t testing.TB, s *slapdtest.Server) map[string]string {
	t.Helper()
	all := map[string]string{}
	for record := range strings.SplitSeq(s.Search("(objectClass=mailAccount)", "hostServer", "oldHostServer"), "\n\n") {
		dn, host, old := "", "", ""
		for line := range strings.SplitSeq(record, "\n") {
			name, value, _ := strings.Cut(line, ":")
			switch name {
			case "dn":
				dn = strings.TrimSpace(value)
			case "hostServer":
				host = strings.TrimSpace(value)
			case "oldHostServer":
				old = strings.TrimSpace(value)
			}
		}
		if dn != "" {
			all[dn] = host + "/" + old
		}
	}
	return all
}

func count(all map[string]string) map[string]int {
	n := map[string]int{}
	for _, v := range all {
		n[v]++
	}
	return n
}

func accounts(n int, hosts ...string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(account(i, hosts[i%len(hosts)]))
	}
	return b.String()
}

// mover is a run with a journal, ready to go.
type mover struct {
	run     *failover.Run
	applier *failover.Applier
	journal string
	notes   []failover.Note
	said    []string
}

func newMover(t testing.TB, link *failover.Link, plan failover.Plan, mode failover.Transactions) *mover {
	t.Helper()
	m := &mover{journal: filepath.Join(t.TempDir(), "journal")}
	journal, err := failover.OpenJournal(m.journal, failover.Header{Run: "test", Server: link.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { journal.Close() })
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		m.said = append(m.said, fmt.Sprintf(format, args...))
	}
	link.Say = say
	m.applier = &failover.Applier{Link: link, Journal: journal, Transactions: mode, Connections: 3, Say: say}
	m.run = &failover.Run{
		Feed: &failover.SearchFeed{Link: link, Plan: plan}, Writer: m.applier, Again: true, Batch: 100,
		Report: func(n failover.Note) { m.notes = append(m.notes, n) },
	}
	return m
}

func move(from, to string) *failover.Move {
	return &failover.Move{From: from, To: []failover.Target{{Host: to, Weight: 1}}}
}

func (m *mover) do(t testing.TB) failover.Summary {
	t.Helper()
	s, err := m.run.Do(t.Context())
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(m.said, "\n"))
	}
	return s
}

// undo reverts a journal.
func undo(t testing.TB, link *failover.Link, journal string) failover.Summary {
	t.Helper()
	m := newMover(t, link, nil, failover.Auto)
	m.run.Feed, m.run.Again, m.applier.Look = &failover.Undo{Path: journal}, false, true
	return m.do(t)
}

func TestMoveRestoreUndo(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: accounts(2000, "One", "two")})
	before := state(t, s)
	for _, mode := range []failover.Transactions{failover.Auto, failover.Never} {
		link := linkTo(t, slapdConfig(t), s.URL)
		m := newMover(t, link, move("ONE", "three"), mode)
		if got := m.do(t).Total(); got != (failover.Count{Changed: 1000}) {
			t.Errorf("move: %+v", got)
		}
		if got := count(state(t, s)); got["three/One"] != 1000 || got["two/"] != 1000 {
			t.Errorf("after move: %v", got)
		}
		// Moving on keeps the original; a second failed host joins.
		newMover(t, link, move("two", "three"), mode).do(t)
		newMover(t, link, move("three", "four"), mode).do(t)
		if got := count(state(t, s)); got["four/One"] != 1000 || got["four/two"] != 1000 {
			t.Errorf("after moving on: %v", got)
		}
		if got := newMover(t, link, &failover.Restore{Host: "two"}, mode).do(t).Total(); got.Changed != 1000 {
			t.Errorf("restore: %+v", got)
		}
		if got := newMover(t, link, &failover.Restore{Host: "one"}, mode).do(t).Total(); got.Changed != 1000 {
			t.Errorf("restore: %+v", got)
		}
		differ(t, before, state(t, s))

		// Undo reverts exactly its run: what somebody changed since is left alone.
		m = newMover(t, link, move("one", "three"), mode)
		m.do(t)
		s.Modify("dn: " + userDN(0) + "\nchangetype: modify\nreplace: hostServer\nhostServer: elsewhere\n")
		if got := undo(t, link, m.journal).Total(); got.Changed != 999 || got.Conflict != 1 {
			t.Errorf("undo: %+v", got)
		}
		s.Modify("dn: " + userDN(0) + "\nchangetype: modify\nreplace: hostServer\nhostServer: One\n-\ndelete: oldHostServer\n")
		differ(t, before, state(t, s))
		if got := undo(t, link, m.journal).Total(); got.Changed != 0 || got.Already != 1000 {
			t.Errorf("undo again: %+v", got)
		}
	}
	if !s.Running() {
		t.Error("slapd died")
	}
}

func differ(t testing.TB, want, got map[string]string) {
	t.Helper()
	shown := 0
	for dn, w := range want {
		if got[dn] != w {
			if shown++; shown <= 5 {
				t.Errorf("%s: %q, want %q", dn, got[dn], w)
			}
		}
	}
	if len(got) != len(want) || shown > 5 {
		t.Errorf("%d entries differ; %d entries, want %d", shown, len(got), len(want))
	}
}

// Some entries cannot be changed: one is protected, one breaks the schema, one has an awkward DN and no fault.
func TestFaultyEntriesFailAlone(t *testing.T) {
	ldif := accounts(1000, "one") + `dn: cn=J\C3\B6rg \2B \22q\22\, {x\3By,ou=domains,dc=example,dc=com
objectClass: inetOrgPerson
objectClass: mailAccount
cn:: SsO2cmcgKyAicSIsIHt4O3k=
sn: Q
mail: q@example.com
hostServer: ONE
oldHostServer: two

dn:: Y249w4Ugw58g5pel5pysLG91PWRvbWFpbnMsZGM9ZXhhbXBsZSxkYz1jb20=
objectClass: inetOrgPerson
objectClass: mailAccount
cn:: w4Ugw58g5pel5pys
sn: Q
mail: jp@example.com
hostServer: one
`
	broken := `dn: cn=no class,ou=domains,dc=example,dc=com
objectClass: inetOrgPerson
structuralObjectClass: inetOrgPerson
entryUUID: 0b1c8a1e-2f5d-4c39-8f0a-0242ac120002
cn: no class
sn: Q
description: hostServer is not allowed here
hostServer: one
`
	protect := "access to dn.regex=\"^uid=user000[0-9]5[0-3],\" by dn.exact=\"" + slapdtest.BindDN + "\" read by * none\n" +
		"access to * by dn.exact=\"" + slapdtest.BindDN + "\" write by anonymous auth by * none\n"
	for _, mode := range []failover.Transactions{failover.Auto, failover.Never} {
		s := slapdtest.Start(t, slapdtest.Options{LDIF: ldif, Broken: broken, Access: protect})
		stop := s.Supervise()
		m := newMover(t, linkTo(t, slapdConfig(t), s.URL), move("one", "three"), mode)
		got := m.do(t).Total()
		if got.Failed != 41 || got.Changed != 962 {
			t.Errorf("mode %d: %+v", mode, got)
		}
		after := count(state(t, s))
		if after["one/"] != 40 || after["three/one"] != 961 || after["three/two"] != 1 {
			t.Errorf("mode %d: %v", mode, after)
		}
		for _, n := range m.notes {
			if n.Result != failover.Failed || !strings.Contains(n.DN, "ou=domains") || n.Reason == "" {
				t.Errorf("%+v", n)
			}
		}
		if said := strings.Join(m.said, "\n"); strings.Contains(said, "going on with single changes") != (mode == failover.Auto) {
			t.Errorf("mode %d said: %s", mode, said)
		}
		// The journal does not claim what failed, and claims all that was done.
		if got := undo(t, linkTo(t, slapdConfig(t), s.URL), m.journal).Total(); got.Changed != 962 || got.Already+got.Conflict+got.Failed != 0 {
			t.Errorf("mode %d: undo %+v", mode, got)
		}
		if deaths := stop(); deaths > 0 {
			t.Logf("mode %d: slapd died %d times", mode, deaths)
			if mode == failover.Never || deaths > 1 {
				t.Errorf("mode %d: slapd died %d times; one transaction may abort, and no more", mode, deaths)
			}
		}
	}
}

// Somebody who may only read is told so, and no transaction is tried: it would have to abort.
func TestReaderIsRefused(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: accounts(500, "one"), Access: "access to * by dn.exact=\"" + slapdtest.BindDN + "\" read by anonymous auth by * none\n"})
	m := newMover(t, linkTo(t, slapdConfig(t), s.URL), move("one", "three"), failover.Auto)
	got, err := m.run.Do(t.Context())
	if !errors.Is(err, failover.ErrRefused) || got.Total().Failed != 500 || got.Total().Changed != 0 {
		t.Errorf("%+v, %v", got.Total(), err)
	}
	if said := strings.Join(m.said, "\n"); !strings.Contains(said, "some entries cannot be changed") || strings.Contains(said, "aborted") {
		t.Errorf("said: %s", said)
	}
	if !s.Running() {
		t.Error("slapd died")
	}
}

// Entries that may not be changed come first, hundreds of them, and then the others: those are moved all the same.
func TestProtectedEntriesInFront(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: accounts(500, "one"), Access: "access to dn.regex=\"^uid=user000[0-2]\" by dn.exact=\"" + slapdtest.BindDN + "\" read by * none\n" +
		"access to * by dn.exact=\"" + slapdtest.BindDN + "\" write by anonymous auth by * none\n"})
	m := newMover(t, linkTo(t, slapdConfig(t), s.URL), move("one", "three"), failover.Auto)
	if got := m.do(t).Total(); got != (failover.Count{Changed: 200, Failed: 300}) {
		t.Errorf("%+v", got)
	}
	if after := count(state(t, s)); after["three/one"] != 200 || after["one/"] != 300 {
		t.Errorf("%v", after)
	}
}

// Others write while the run goes on: new accounts on the failed host, entries that go elsewhere, entries that vanish.
func TestWritersMeanwhile(t *testing.T) {
	for _, mode := range []failover.Transactions{failover.Auto, failover.Never} {
		s := slapdtest.Start(t, slapdtest.Options{LDIF: accounts(2000, "one")})
		m := newMover(t, linkTo(t, slapdConfig(t), s.URL), move("one", "three"), mode)
		m.run.Rate = 4000
		defer s.Supervise()()
		stop, done := make(chan struct{}), make(chan int)
		go meddle(t, s, stop, done)
		m.do(t)
		close(stop)
		rounds := <-done
		m = newMover(t, linkTo(t, slapdConfig(t), s.URL), move("one", "three"), mode)
		m.do(t) // what came after the last pass
		if rounds < 3 {
			t.Errorf("only %d rounds of meddling", rounds)
		}
		for dn, v := range state(t, s) {
			want := "three/one"
			if strings.HasPrefix(v, "elsewhere") {
				want = v
			}
			if v != want {
				t.Errorf("%s: %s", dn, v)
			}
		}
	}
}

// meddle creates an account, removes one and points one elsewhere, again and again. The server may die under it.
func meddle(t *testing.T, s *slapdtest.Server, stop <-chan struct{}, done chan<- int) {
	link := linkTo(t, slapdConfig(t), s.URL)
	rounds := 0
	for round := 0; ; round++ {
		select {
		case <-stop:
			done <- rounds
			return
		default:
		}
		if s.TryModify(fmt.Sprintf("dn: %s\nchangetype: add\nobjectClass: inetOrgPerson\nobjectClass: mailAccount\nuid: user%06d\ncn: x\nsn: x\nhostServer: one\n\ndn: %s\nchangetype: delete\n",
			userDN(5000+round), 5000+round, userDN(1999-round))) == nil {
			rounds++
		}
		for _, host := range []string{"one", "three"} {
			editor, err := link.Editor(context.Background())
			if err != nil {
				t.Error(err)
				continue
			}
			for _, err := range editor.Modify(context.Background(), []directory.Change{{DN: userDN(round), From: host, To: "elsewhere"}}) {
				if errors.Is(err, directory.ErrLost) {
					link.Lost(editor)
				} else if err != nil && !errors.Is(err, directory.ErrConflict) {
					t.Error(err)
				}
			}
		}
	}
}

// The directory is killed again and again, and comes back: the run goes on, and nothing is half done.
func TestDirectoryDiesMeanwhile(t *testing.T) {
	for _, mode := range []failover.Transactions{failover.Auto, failover.Always, failover.Never} {
		s := slapdtest.Start(t, slapdtest.Options{LDIF: accounts(2000, "one", "two")})
		m := newMover(t, linkTo(t, slapdConfig(t), s.URL), move("one", "three"), mode)
		m.run.Rate = 3000
		done := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range 4 {
				select {
				case <-done:
					return
				case <-time.After(time.Duration(40+30*i) * time.Millisecond): // at different moments of the run
				}
				s.Kill()
				s.Run()
			}
		})
		got := m.do(t).Total()
		close(done)
		wg.Wait()
		if got.Changed+got.Already != 1000 || got.Failed+got.Conflict != 0 {
			t.Errorf("mode %d: %+v\n%s", mode, got, strings.Join(m.said, "\n"))
		}
		if after := count(state(t, s)); after["three/one"] != 1000 || after["two/"] != 1000 {
			t.Errorf("mode %d: %v", mode, after)
		}
		if got := undo(t, linkTo(t, slapdConfig(t), s.URL), m.journal).Total(); got.Changed != 1000 {
			t.Errorf("mode %d: undo %+v", mode, got)
		}
	}
}

func TestDirectoryStaysAway(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: accounts(2000, "one")})
	link := linkTo(t, slapdConfig(t), s.URL)
	link.Wait = 300 * time.Millisecond
	m := newMover(t, link, move("one", "three"), failover.Auto)
	m.run.Rate = 4000
	done := 0
	m.run.Writer = &tripwire{m.applier, func() {
		if done++; done == 5 {
			s.Kill()
		}
	}}
	got, err := m.run.Do(t.Context())
	if !errors.Is(err, failover.ErrAway) || got.Total().Changed != 320 {
		t.Errorf("%+v, %v", got.Total(), err)
	}
	s.Run()
	if after := count(state(t, s)); after["three/one"] < 320 {
		t.Errorf("%v", after)
	}
	// Running it again completes it; undoing both runs brings all back.
	again := newMover(t, linkTo(t, slapdConfig(t), s.URL), move("one", "three"), failover.Auto)
	again.do(t)
	if after := count(state(t, s)); after["three/one"] != 2000 {
		t.Errorf("%v", after)
	}
	undo(t, linkTo(t, slapdConfig(t), s.URL), again.journal)
	undo(t, linkTo(t, slapdConfig(t), s.URL), m.journal)
	if after := count(state(t, s)); after["one/"] != 2000 {
		t.Errorf("after undoing both: %v", after)
	}
}

// tripwire does something before each batch.
type tripwire struct {
	failover.Writer
	before func()
}

func (w *tripwire) Write(ctx context.Context, batch []directory.Change) ([]failover.Outcome, error) {
	w.before()
	return w.Writer.Write(ctx, batch)
}

// A consumer follows its provider, also through transactions; it takes no changes itself, so the run finds the provider.
func TestReplicas(t *testing.T) {
	provider := slapdtest.Start(t, slapdtest.Options{
		LDIF: accounts(2000, "one", "two"), Global: "moduleload syncprov\n",
		Database: "overlay syncprov\nsyncprov-checkpoint 100 10\n",
	})
	consumer := slapdtest.Start(t, slapdtest.Options{
		Empty: true,
		Database: fmt.Sprintf("syncrepl rid=1 provider=%s type=refreshAndPersist retry=\"1 +\" searchbase=\"%s\" bindmethod=simple binddn=\"%s\" credentials=\"%s\"\nupdateref %s\n",
			provider.URL, slapdtest.Suffix, slapdtest.RootDN, slapdtest.RootPassword, provider.URL),
	})
	same := func(want map[string]string) bool {
		got := map[string]string{}
		if out, err := exec.Command("ldapsearch", "-x", "-LLL", "-H", consumer.URL, "-D", slapdtest.RootDN, "-w", slapdtest.RootPassword,
			"-b", slapdtest.Suffix, "-s", "base", "1.1").CombinedOutput(); err == nil && strings.Contains(string(out), "dn:") {
			got = state(t, consumer)
		}
		if len(got) != len(want) {
			return false
		}
		for dn, v := range want {
			if got[dn] != v {
				return false
			}
		}
		return true
	}
	await(t, "the consumer is filled", func() bool { return same(state(t, provider)) })
	link := linkTo(t, slapdConfig(t), consumer.URL, provider.URL)
	m := newMover(t, link, move("one", "three"), failover.Auto)
	if got := m.do(t).Total(); got.Changed != 1000 || got.Failed != 0 {
		t.Errorf("%+v\n%s", got, strings.Join(m.said, "\n"))
	}
	if said := strings.Join(m.said, "\n"); !strings.Contains(said, consumer.URL+" takes no changes") {
		t.Errorf("said: %s", said)
	}
	after := state(t, provider)
	if got := count(after); got["three/one"] != 1000 {
		t.Errorf("%v", got)
	}
	await(t, "the consumer followed", func() bool { return same(after) })

	only := newMover(t, linkTo(t, slapdConfig(t), consumer.URL), move("two", "three"), failover.Auto)
	if _, err := only.run.Do(t.Context()); !errors.Is(err, failover.ErrNoWriter) {
		t.Errorf("the consumer alone: %v", err)
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestSecretsAreNotInTheJournal(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: accounts(3, "one")})
	m := newMover(t, linkTo(t, slapdConfig(t), s.URL), move("one", "two"), failover.Auto)
	m.do(t)
	info, err := os.Stat(m.journal)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(m.journal)
	if err != nil || strings.Contains(string(text), slapdtest.BindPassword) || strings.Count(string(text), "\n") != 4 {
		t.Errorf("%v\n%s", err, text)
	}
}
