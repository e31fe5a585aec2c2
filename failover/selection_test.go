package failover_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"mailmux/directory"
	"mailmux/directory/slapdtest"
	"mailmux/failover"
)

func TestAccountsFromAList(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: accounts(20, "one", "two") +
		"dn: uid=odd,ou=domains,dc=example,dc=com\nobjectClass: inetOrgPerson\nobjectClass: mailAccount\nuid: odd\ncn: x\nsn: x\nmail: b=c@example.com\nhostServer: one\n\n" +
		"dn: ou=away,ou=domains,dc=example,dc=com\nobjectClass: referral\nobjectClass: extensibleObject\nou: away\nref: ldap://127.0.0.1:9/ou=away,dc=example,dc=org\n\n"})
	link := linkTo(t, slapdConfig(t), s.URL)
	m := newMover(t, link, move("one", "three"), failover.Auto)
	m.run.Again = false
	m.run.Feed = &failover.ListFeed{Link: link, Plan: move("one", "three"), Domains: &directory.Domains{Default: "example.com"}, List: strings.NewReader(
		"\ufeffuser000000\r\n# comment\n\nuser000000\nUSER000002@example.com\n" + userDN(4) + "\nUSER000000@Example.com\n" + strings.ToUpper(userDN(2)) + "\nuser000001\nnobody\nuid=gone,dc=example,dc=com\na@b@c\n" +
			// Neither an attribute that the schema does not have nor a part that another server holds ends the run.
			"no=attribute,dc=example,dc=com\nb=c@example.com\nuid=x,ou=away,ou=domains,dc=example,dc=com\n  user000006\r\n")}
	got := m.do(t)
	if got.Total().Changed != 5 || got.Broken != 5 || len(m.notes) != 6 {
		t.Errorf("%+v\n%+v", got, m.notes)
	}
	if after := count(state(t, s)); after["three/one"] != 5 {
		t.Errorf("%v", after)
	}
}

// What another server holds is reported, and everything else is moved.
func TestReferralIsReported(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: accounts(50, "one") +
		"dn: ou=away,ou=domains,dc=example,dc=com\nobjectClass: referral\nobjectClass: extensibleObject\nou: away\nref: ldap://127.0.0.1:9/ou=away,dc=example,dc=org\n\n"})
	m := newMover(t, linkTo(t, slapdConfig(t), s.URL), move("one", "three"), failover.Auto)
	got := m.do(t)
	if got.Total() != (failover.Count{Changed: 50}) || got.Broken != 1 || len(m.notes) != 1 {
		t.Fatalf("%+v\n%+v", got, m.notes)
	}
	if n := m.notes[0]; !strings.HasPrefix(n.DN, "ldap://127.0.0.1:9/") || !strings.Contains(n.Reason, "another server") || !n.Broken {
		t.Errorf("%+v", n)
	}
}

// A first batch of which nobody knows whether it was done is not tried again as a transaction: that would abort. Nor is a
// change struck out of the journal that somebody else changed again before it could be read: it may have been made.
func TestLostAnswerIsNoReasonToAbort(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: accounts(200, "one")})
	link := linkTo(t, slapdConfig(t), s.URL)
	open := link.Open
	var lossy *losesAnswers
	link.Open = func(ctx context.Context, server string) (directory.Editor, error) {
		editor, err := open(ctx, server)
		if lossy == nil && err == nil {
			lossy = &losesAnswers{Editor: editor}
			return lossy, nil
		}
		return editor, err
	}
	m := newMover(t, link, move("one", "three"), failover.Auto)
	if got := m.do(t).Total(); got != (failover.Count{Changed: 199, Conflict: 1}) || !lossy.lost.Load() {
		t.Errorf("%+v, answers lost: %t", got, lossy.lost.Load())
	}
	if said := strings.Join(m.said, "\n"); strings.Contains(said, "aborted") {
		t.Errorf("said: %s", said)
	}
	text, err := os.ReadFile(m.journal)
	if err != nil || strings.Contains(string(text), `"void"`) || !strings.Contains(string(text), userDN(7)) {
		t.Errorf("%v: the journal claims too little:\n%s", err, text)
	}
}

// losesAnswers is an editor whose first changes are made, and whose answers to them are lost. Before anybody can look,
// somebody takes an account elsewhere.
type losesAnswers struct {
	directory.Editor
	lost atomic.Bool
}

func (e *losesAnswers) Modify(ctx context.Context, changes []directory.Change) []error {
	errs := e.Editor.Modify(ctx, changes)
	errs = append(errs, e.Editor.Modify(ctx, []directory.Change{{DN: userDN(7), From: "three", To: "else", OldFrom: "one", OldTo: "one"}})...)
	if err := errs[len(errs)-1]; err == nil {
		e.lost.Store(true)
	}
	errs = errs[:len(changes)]
	for i := range errs {
		errs[i] = directory.ErrLost
	}
	return errs
}

func TestSelection(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: accounts(200, "one") + strings.ReplaceAll(account(900, "one"), "@example.com", "@example.org")})
	link := linkTo(t, slapdConfig(t), s.URL)
	m := newMover(t, link, &failover.Move{From: "one", To: []failover.Target{{Host: "b", Weight: 2}, {Host: "c", Weight: 1}}}, failover.Auto)
	m.run.Feed.(*failover.SearchFeed).Filter = "(uid=user0000*)"
	m.do(t)
	shares := count(state(t, s))
	if shares["b/one"]+shares["c/one"] != 100 || shares["c/one"] < 15 || shares["one/"] != 101 {
		t.Errorf("%v", shares)
	}
	m = newMover(t, link, move("one", "three"), failover.Auto)
	m.run.Feed.(*failover.SearchFeed).Domain = "example.org"
	if got := m.do(t).Total(); got.Changed != 1 {
		t.Errorf("one domain: %+v", got)
	}
	m = newMover(t, link, &failover.Move{Original: "one", To: []failover.Target{{Host: "d", Weight: 1}}}, failover.Auto)
	if got := m.do(t).Total(); got.Changed != 101 {
		t.Errorf("by original host: %+v", got)
	}
}

// A server that refuses the bind is asked once: a password that is tried again and again locks its account. The other
// ones may know it.
func TestWrongPasswordIsTriedOnce(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: accounts(20, "one")})
	c := slapdConfig(t)
	c.BindPasswordFile = filepath.Join(t.TempDir(), "wrong")
	if err := os.WriteFile(c.BindPasswordFile, []byte("guess"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := linkTo(t, c, s.URL)
	open, tries := link.Open, 0
	link.Open = func(ctx context.Context, server string) (directory.Editor, error) {
		tries++
		return open(ctx, server)
	}
	for range 2 {
		if _, err := link.Editor(t.Context()); !errors.Is(err, directory.ErrBadPassword) || tries != 1 {
			t.Errorf("%v after %d tries", err, tries)
		}
	}
	link.Servers, link.Open = []string{s.URL, "another"}, func(ctx context.Context, server string) (directory.Editor, error) {
		if server == "another" {
			return directory.OpenEditor(ctx, slapdConfig(t), s.URL)
		}
		return open(ctx, server)
	}
	if _, err := link.Editor(t.Context()); err != nil {
		t.Errorf("the second server knows us: %v", err)
	}
}
