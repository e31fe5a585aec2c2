package directory

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"mailmux/directory/slapdtest"
	"mailmux/tools/embedded/ldapd"
)

// storeys makes accounts, every other one on a host.
func storeys(n int, hosts ...string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "dn: uid=user%06d,ou=domains,dc=example,dc=com\nobjectClass: inetOrgPerson\nobjectClass: mailAccount\nuid: user%06d\ncn: User\nsn: User\nmail: user%06d@example.com\nhostServer: %s\n\n",
			i, i, i, hosts[i%len(hosts)])
	}
	return b.String()
}

func edit(t *testing.T, c Config) Editor {
	t.Helper()
	e, err := OpenEditor(t.Context(), c, c.Servers[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func collect(t *testing.T, e Editor, q Query) map[string]Record {
	t.Helper()
	found := map[string]Record{}
	err := e.Search(t.Context(), q, func(r Record) error {
		if _, ok := found[r.DN]; ok {
			t.Errorf("%s came twice", r.DN)
		}
		found[r.DN] = r
		return nil
	})
	if err != nil {
		t.Fatalf("search %+v: %v", q, err)
	}
	return found
}

func TestSearchIsComplete(t *testing.T) {
	ldif := storeys(2500, "one.example.com", "TWO.example.com")
	big := "limits dn.exact=\"" + slapdtest.BindDN + "\" size.soft=unlimited size.hard=unlimited\n"
	for name, o := range map[string]slapdtest.Options{
		"paged":                       {LDIF: ldif, Database: big},
		"paged, cut at 500 in all":    {LDIF: ldif},
		"paged, cut at 70 in all":     {LDIF: ldif, Database: "sizelimit 70\n"},
		"no paging, cut at 200":       {LDIF: ldif, Database: "limits * size.soft=200 size.hard=200 size.prtotal=disabled\n"},
		"pages of 50 at most, cut":    {LDIF: ldif, Database: "limits * size.pr=50 size.soft=300 size.hard=300\n"},
		"no paging, no limit at all":  {LDIF: ldif, Database: "limits * size.soft=unlimited size.hard=unlimited size.prtotal=disabled\n"},
		"unlimited but with time out": {LDIF: ldif, Database: big, Global: "idletimeout 5\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s := slapdtest.Start(t, o)
			e := edit(t, slapdConfig(t, s.URL))
			if n := len(collect(t, e, Query{Host: "two.EXAMPLE.com"})); n != 1250 {
				t.Errorf("%d records on two, want 1250", n)
			}
			if n := len(collect(t, e, Query{})); n != 2500 {
				t.Errorf("%d records in all, want 2500", n)
			}
		})
	}
}

func TestQueries(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: people})
	file := edit(t, Config{Servers: []string{"ldif:" + writeLDIF(t, slapdtest.Skeleton+people)}, Base: slapdtest.Base})
	server := edit(t, slapdConfig(t, s.URL))
	for _, c := range []struct {
		q    Query
		want int
	}{
		{Query{}, 5},
		{Query{Host: "BACK1.example.com"}, 3},
		{Query{OldHost: "back9.example.com"}, 1},
		{Query{Host: "back1.example.com", OldHost: "back2.example.com"}, 0},
		{Query{Host: "back1.example.com", Domain: "example.com"}, 2},
		{Query{Domain: "example.org"}, 0},
		{Query{Filter: "(uid=b*)"}, 1},
		{Query{Host: "*"}, 0},
		{Query{Host: "back1.example.com", Base: "uid=ann,dc=example.com,ou=domains,dc=example,dc=com"}, 1},
	} {
		for name, e := range map[string]Editor{"slapd": server, "file": file} {
			if got := collect(t, e, c.q); len(got) != c.want {
				t.Errorf("%s: %+v found %d: %v", name, c.q, len(got), got)
			}
		}
	}
	for name, e := range map[string]Editor{"slapd": server, "file": file} {
		if err := e.Search(t.Context(), Query{Filter: "(uid=x"}, nil); err == nil {
			t.Errorf("%s: a broken filter is taken", name)
		}
		found, err := e.Find(t.Context(), at("robert"))
		if err != nil || len(found) != 1 || found[0].Host != "back2.example.com" || len(found[0].Logins) != 2 {
			t.Errorf("%s: Find: %+v, %v", name, found, err)
		}
		if found, err := e.Find(t.Context(), at("twin")); err != nil || len(found) != 2 {
			t.Errorf("%s: Find of an ambiguous name: %+v, %v", name, found, err)
		}
		if _, err := e.Get(t.Context(), "uid=nobody,dc=example,dc=com"); !errors.Is(err, ErrGone) {
			t.Errorf("%s: Get: %v", name, err)
		}
		stop := errors.New("enough")
		if err := e.Search(t.Context(), Query{}, func(Record) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("%s: an error of the caller: %v", name, err)
		}
	}
}

// checkEditing runs the same changes against every kind of editor.
func checkEditing(t *testing.T, e Editor) {
	t.Helper()
	ctx := t.Context()
	dn := func(i int) string { return fmt.Sprintf("uid=user%06d,ou=domains,dc=example,dc=com", i) }
	get := func(i int) string {
		r, err := e.Get(ctx, dn(i))
		if err != nil {
			t.Fatal(err)
		}
		return r.Host + "/" + r.OldHost
	}
	errs := e.Modify(ctx, []Change{
		{DN: dn(0), From: "one", To: "two", OldTo: "one"},
		{DN: dn(1), From: "wrong", To: "two", OldTo: "one"},
		{DN: "uid=gone,ou=domains,dc=example,dc=com", From: "one", To: "two", OldTo: "one"},
		{DN: dn(2), From: "ONE", To: "two", OldTo: "one"},
	})
	if errs[0] != nil || !errors.Is(errs[1], ErrConflict) || !errors.Is(errs[2], ErrGone) || errs[3] != nil {
		t.Errorf("Modify: %v", errs)
	}
	if get(0) != "two/one" || get(1) != "one/" || get(2) != "two/one" {
		t.Errorf("after Modify: %s %s %s", get(0), get(1), get(2))
	}
	errs = e.Modify(ctx, []Change{
		{DN: dn(0), From: "two", To: "three", OldFrom: "one", OldTo: "one"},
		{DN: dn(2), From: "two", To: "one", OldFrom: "one"},
		{DN: dn(1), From: "one", To: "two", OldFrom: "x", OldTo: "y"},
	})
	if errs[0] != nil || errs[1] != nil || !errors.Is(errs[2], ErrConflict) || get(0) != "three/one" || get(1) != "one/" || get(2) != "one/" {
		t.Errorf("second Modify: %v: %s %s %s", errs, get(0), get(1), get(2))
	}
	// What is to stay is compared as well: 0 is on three from one, 1 and 8 are at home on one.
	errs = e.Modify(ctx, []Change{
		{DN: dn(1), From: "one", To: "two", OldFrom: "one", OldTo: "one"},
		{DN: dn(0), From: "three", To: "four", OldTo: "three"},
		{DN: dn(0), From: "one", To: "one", OldFrom: "one"},
		{DN: dn(8), From: "one", To: "two"},
	})
	if !errors.Is(errs[0], ErrConflict) || errs[1] == nil || !errors.Is(errs[2], ErrConflict) || errs[3] != nil {
		t.Errorf("what is to stay: %v", errs)
	}
	if get(0) != "three/one" || get(1) != "one/" || get(8) != "two/" {
		t.Errorf("what is to stay: %s %s %s", get(0), get(1), get(8))
	}
	if !e.Capabilities().Transactions {
		return
	}
	if err := e.Transact(ctx, []Change{{DN: dn(3), From: "one", To: "two", OldTo: "one"}, {DN: dn(4), From: "one", To: "two", OldTo: "one"}}); err != nil {
		t.Errorf("Transact: %v", err)
	}
	if get(3) != "two/one" || get(4) != "two/one" {
		t.Errorf("after Transact: %s %s", get(3), get(4))
	}
	err := e.Transact(ctx, []Change{{DN: dn(5), From: "one", To: "two", OldTo: "one"}, {DN: dn(6), From: "wrong", To: "two"}, {DN: dn(7), From: "one", To: "two"}})
	if !errors.Is(err, ErrAborted) || get(5) != "one/" || get(7) != "one/" {
		t.Errorf("a transaction with a wrong change: %v: %s %s", err, get(5), get(7))
	}
}

func TestEditing(t *testing.T) {
	ldif := storeys(20, "one")
	// With two threads slapd 2.5 does not crash when a transaction aborts.
	careful := slapdtest.Options{LDIF: ldif, Global: "threads 2\n"}
	t.Run("slapd", func(t *testing.T) {
		s := slapdtest.Start(t, careful)
		e := edit(t, slapdConfig(t, s.URL))
		if c := e.Capabilities(); !c.Paging || !c.Transactions {
			t.Errorf("capabilities: %+v", c)
		}
		checkEditing(t, e)
		// Where there was no original host there must not be one: the schema sees to it in a transaction.
		dn := func(i int) string { return fmt.Sprintf("uid=user%06d,ou=domains,dc=example,dc=com", i) }
		err := e.Transact(t.Context(), []Change{{DN: dn(9), From: "one", To: "two", OldTo: "one"}, {DN: dn(0), From: "three", To: "four", OldTo: "three"}})
		nine, _ := e.Get(t.Context(), dn(9))
		zero, _ := e.Get(t.Context(), dn(0))
		if !errors.Is(err, ErrAborted) || nine.Host != "one" || zero.Host != "three" || zero.OldHost != "one" {
			t.Errorf("a transaction with an original host too many: %v: %+v %+v", err, nine, zero)
		}
	})
	t.Run("slapd, without assertions", func(t *testing.T) {
		e := edit(t, slapdConfig(t, slapdtest.Start(t, careful).URL))
		e.(*ldapEditor).can.Assertions = false
		checkEditing(t, e)
	})
	t.Run("file", func(t *testing.T) {
		path := writeLDIF(t, slapdtest.Skeleton+ldif)
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		checkEditing(t, edit(t, Config{Servers: []string{"ldif:" + path}, Base: slapdtest.Base}))
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	})
	for name, config := range map[string]ldapd.Config{
		"embedded":             {EmptyTransactionID: true},
		"embedded, named":      {},
		"embedded, no extras":  {NoPaging: true, NoTransactions: true},
		"embedded, size limit": {SizeLimit: 7},
	} {
		t.Run(name, func(t *testing.T) {
			_, e := editEmbedded(t, ldif, config)
			if n := len(collect(t, e, Query{Host: "one"})); n != 20 {
				t.Errorf("%d records, want 20", n)
			}
			checkEditing(t, e)
		})
	}
}

func editEmbedded(t *testing.T, ldif string, config ldapd.Config) (*ldapd.Server, Editor) {
	t.Helper()
	tree := ldapd.NewTree(ldapd.Rules{})
	if err := tree.LoadLDIF(strings.NewReader(slapdtest.Skeleton + ldif)); err != nil {
		t.Fatal(err)
	}
	config.RootDN, config.RootPassword = slapdtest.RootDN, slapdtest.RootPassword
	server := ldapd.New(tree, config)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-served })
	c := slapdConfig(t, "ldap://"+l.Addr().String())
	return server, edit(t, c)
}

func TestCutShortWithoutAWayOut(t *testing.T) {
	_, e := editEmbedded(t, storeys(20, "one"), ldapd.Config{SizeLimit: 7, NoPaging: true}) // it has no entryUUID either
	err := e.Search(t.Context(), Query{Host: "one"}, func(Record) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "raise its size limit") {
		t.Errorf("got %v", err)
	}
}

// What happens to the connection decides what is known: before the commit nothing was changed, after it who knows.
func TestTransactionsThatAreCutOff(t *testing.T) {
	dn := func(i int) string { return fmt.Sprintf("uid=user%06d,ou=domains,dc=example,dc=com", i) }
	batch := []Change{{DN: dn(1), From: "one", To: "two"}, {DN: dn(2), From: "one", To: "two"}}
	for _, c := range []struct {
		op    ldapd.Op
		fault ldapd.Fault
		want  error
		host  string
	}{
		{ldapd.OpTxnStart, ldapd.Fault{Drop: true}, ErrBusy, "one"},
		{ldapd.OpModify, ldapd.Fault{Drop: true}, ErrBusy, "one"},
		{ldapd.OpTxnEnd, ldapd.Fault{Drop: true}, ErrLost, "one"},
		{ldapd.OpTxnEnd, ldapd.Fault{Lose: true}, ErrLost, "two"},
	} {
		server, e := editEmbedded(t, storeys(5, "one"), ldapd.Config{})
		server.SetHook(func(r ldapd.Request) ldapd.Fault {
			if r.Op == c.op {
				return c.fault
			}
			return ldapd.Fault{}
		})
		if err := e.Transact(t.Context(), batch); !errors.Is(err, c.want) {
			t.Errorf("%s %+v: %v, want %v", c.op, c.fault, err, c.want)
		}
		server.SetHook(nil)
		if r, err := e.Get(t.Context(), dn(1)); err != nil || r.Host != c.host {
			t.Errorf("%s %+v: %+v, %v", c.op, c.fault, r, err)
		}
	}
}

// A server that has transactions, but not for us, is no server that is away.
func TestTransactionsThatAreRefused(t *testing.T) {
	server, e := editEmbedded(t, storeys(5, "one"), ldapd.Config{})
	batch := []Change{{DN: "uid=user000001,ou=domains,dc=example,dc=com", From: "one", To: "two"}}
	for code, want := range map[ldapd.Code]error{
		ldap.LDAPResultInsufficientAccessRights: ErrAborted, ldap.LDAPResultUnwillingToPerform: ErrAborted,
		ldap.LDAPResultProtocolError: ErrAborted, ldap.LDAPResultBusy: ErrBusy, ldap.LDAPResultUnavailable: ErrBusy,
	} {
		server.SetHook(func(r ldapd.Request) ldapd.Fault {
			if r.Op == ldapd.OpTxnStart {
				return ldapd.Fault{Code: code}
			}
			return ldapd.Fault{}
		})
		if err := e.Transact(t.Context(), batch); !errors.Is(err, want) {
			t.Errorf("%d: %v, want %v", code, err, want)
		}
	}
}

func TestAnswersCutOffAreNoAnswers(t *testing.T) {
	for _, config := range []ldapd.Config{{}, {NoPaging: true}} {
		server, e := editEmbedded(t, storeys(50, "one"), config)
		server.SetHook(func(r ldapd.Request) ldapd.Fault { return ldapd.Fault{Drop: r.Op == ldapd.OpSearch} })
		err := e.Search(t.Context(), Query{Host: "one"}, func(Record) error { return nil })
		if !errors.Is(err, ErrLost) {
			t.Errorf("dropped: %v", err)
		}
		server.SetHook(func(ldapd.Request) ldapd.Fault { return ldapd.Fault{Delay: 10 * time.Second} })
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := e.Search(ctx, Query{Host: "one"}, func(Record) error { return nil }); err == nil {
			t.Error("cancelled: no error")
		}
		for _, err := range e.Modify(ctx, []Change{{DN: "uid=user000001,ou=domains,dc=example,dc=com", From: "one", To: "two"}}) {
			if !errors.Is(err, ErrLost) {
				t.Errorf("cancelled change: %v", err)
			}
		}
		cancel()
		server.SetHook(nil)
	}
}

func TestReadOnlyReplicaIsNamed(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{
		LDIF: storeys(3, "one"), Database: "syncrepl rid=1 provider=ldap://127.0.0.1:9 type=refreshOnly interval=01:00:00:00 searchbase=\"dc=example,dc=com\" bindmethod=simple\nupdateref ldap://127.0.0.1:9\n",
	})
	e := edit(t, slapdConfig(t, s.URL))
	changes := []Change{{DN: "uid=user000001,ou=domains,dc=example,dc=com", From: "one", To: "two"}}
	if errs := e.Modify(t.Context(), changes); !errors.Is(errs[0], ErrReadOnly) {
		t.Errorf("Modify: %v", errs)
	}
	if err := e.Transact(t.Context(), changes); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Transact: %v", err)
	}
}

// slapd 2.5 is given the time that it needs before a transaction ends. Without it the third one or so that aborts is its
// last.
func TestAbortsDoNotCrashTheServer(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: storeys(100, "one")})
	e := edit(t, slapdConfig(t, s.URL))
	var batch []Change
	for i := range 100 {
		batch = append(batch, Change{DN: fmt.Sprintf("uid=user%06d,ou=domains,dc=example,dc=com", i), From: "one", To: "two", OldTo: "one"})
	}
	for i := range 20 {
		batch[i].From = "wrong"
		if err := e.Transact(t.Context(), batch); !errors.Is(err, ErrAborted) {
			t.Fatalf("abort %d: %v", i, err)
		}
		batch[i].From = "one"
	}
	if err := e.Transact(t.Context(), batch); err != nil || !s.Running() {
		t.Errorf("%v, slapd runs: %t", err, s.Running())
	}
}

// A part of the base that another server holds is told once, whether the search is paged, cut short or neither, and does
// not end it. An account there is not changed.
func TestReferralsAreToldNotFollowed(t *testing.T) {
	ldif := storeys(300, "one") + "dn: ou=elsewhere,ou=domains,dc=example,dc=com\nobjectClass: referral\nobjectClass: extensibleObject\nou: elsewhere\nref: ldap://127.0.0.1:9/ou=elsewhere,dc=example,dc=org\n\n"
	for name, database := range map[string]string{
		"paged": "limits * size=unlimited\n", "cut short": "limits * size=100\n", "no paging": "limits * size.soft=unlimited size.hard=unlimited size.prtotal=disabled\n",
	} {
		t.Run(name, func(t *testing.T) {
			e := edit(t, slapdConfig(t, slapdtest.Start(t, slapdtest.Options{LDIF: ldif, Database: database}).URL))
			var referrals []string
			entries := 0
			err := e.Search(t.Context(), Query{Host: "one"}, func(r Record) error {
				if r.Referral != "" {
					referrals = append(referrals, r.Referral)
				} else {
					entries++
				}
				return nil
			})
			if err != nil || entries != 300 || len(referrals) != 1 || !strings.HasPrefix(referrals[0], "ldap://127.0.0.1:9/") {
				t.Errorf("%d entries, referrals %q, %v", entries, referrals, err)
			}
			below := "uid=x,ou=elsewhere,ou=domains,dc=example,dc=com"
			if errs := e.Modify(t.Context(), []Change{{DN: below, From: "one", To: "two"}}); !errors.Is(errs[0], ErrReadOnly) {
				t.Errorf("Modify: %v", errs)
			}
			if err := e.Search(t.Context(), Query{Base: "ou=elsewhere,ou=domains,dc=example,dc=com"}, func(Record) error { return nil }); err == nil || !strings.Contains(err.Error(), "referrals are not followed") {
				t.Errorf("a base elsewhere: %v", err)
			}
		})
	}
}

// A server that stops in the middle is given up after a while without a word from it.
func TestSilentServerIsLeft(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: storeys(3, "one")})
	e := edit(t, slapdConfig(t, s.URL)).(*ldapEditor)
	c, err := e.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer e.put(c)
	s.Pause()
	defer s.Resume()
	began := time.Now()
	defer c.watch(300 * time.Millisecond)()
	errs := make([]error, 1)
	e.pipeline(c, []Change{{DN: "uid=user000001,ou=domains,dc=example,dc=com", From: "one", To: "two"}}, errs, e.single)
	if took := time.Since(began); !errors.Is(errs[0], ErrLost) || took < 300*time.Millisecond || took > 10*time.Second {
		t.Errorf("%v after %s", errs, took)
	}
}

func TestLDIFEditorsKeepApart(t *testing.T) {
	path := writeLDIF(t, slapdtest.Skeleton+storeys(40, "one"))
	c := Config{Servers: []string{"ldif:" + path}, Base: slapdtest.Base}
	done := make(chan []error)
	for worker := range 4 {
		e := edit(t, c)
		go func() {
			var all []error
			for i := worker; i < 40; i += 4 {
				all = append(all, e.Modify(context.Background(), []Change{{DN: fmt.Sprintf("uid=user%06d,ou=domains,dc=example,dc=com", i), From: "one", To: "two"}})...)
			}
			done <- all
		}()
	}
	for range 4 {
		if err := errors.Join(<-done...); err != nil {
			t.Error(err)
		}
	}
	found := collect(t, edit(t, c), Query{Host: "two"})
	var names []string
	for dn := range found {
		names = append(names, dn)
	}
	sort.Strings(names)
	if len(names) != 40 {
		t.Errorf("%d changes survived, want 40: %v", len(names), names)
	}
}

func TestWrongBaseIsAnError(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: people})
	e := edit(t, slapdConfig(t, s.URL))
	for _, base := range []string{"ou=nowhere," + slapdtest.Suffix, "dc=elsewhere"} {
		if err := e.Search(t.Context(), Query{Base: base}, func(Record) error { return nil }); !errors.Is(err, ErrNoBase) {
			t.Errorf("%s: %v", base, err)
		}
	}
	_, embedded := editEmbedded(t, people, ldapd.Config{})
	if err := embedded.Search(t.Context(), Query{Base: "dc=elsewhere"}, func(Record) error { return nil }); err == nil {
		t.Error("embedded: no error")
	}
}
