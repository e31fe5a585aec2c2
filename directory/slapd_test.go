package directory

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailmux/directory/slapdtest"
	"mailmux/tools/certs/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const people = `dn: dc=example.com,ou=domains,dc=example,dc=com
objectClass: domain
dc: example.com

dn: uid=ann,dc=example.com,ou=domains,dc=example,dc=com
objectClass: inetOrgPerson
objectClass: mailAccount
uid: ann
cn: Ann
sn: Example
mail: ann@example.com
mailAlternateAddress: annie@example.com
hostServer: Back1.Example.com
oldHostServer: BACK9.example.com
userPassword: sesame

dn: uid=bob,dc=example.com,ou=domains,dc=example,dc=com
objectClass: inetOrgPerson
objectClass: mailAccount
uid: bob
cn: Bob
sn: Example
mail: bob@example.com
mail: robert@example.com
hostServer: back2.example.com
mailUserStatus: HOLD

dn: mail=zoe@example.com,dc=example.com,ou=domains,dc=example,dc=com
objectClass: inetOrgPerson
objectClass: mailAccount
cn: Zoe
sn: Example
mail: a.zoe@example.com
mail: zoe@example.com
hostServer: back2.example.com
mailUserStatus: on holiday

dn: cn=Twin\, the \"first\",dc=example.com,ou=domains,dc=example,dc=com
objectClass: inetOrgPerson
objectClass: mailAccount
cn: Twin, the "first"
sn: Example
mail: twin@example.com
mail: first@example.com
hostServer: back1.example.com
mailUserStatus: deleted

dn: uid=twin2,dc=example.com,ou=domains,dc=example,dc=com
objectClass: inetOrgPerson
objectClass: mailAccount
uid: twin2
cn: Twin
sn: Example
mailAlternateAddress: twin@example.com
hostServer: back1.example.com

dn: uid=homeless,dc=example.com,ou=domains,dc=example,dc=com
objectClass: inetOrgPerson
objectClass: mailAccount
uid: homeless
cn: Homeless
sn: Example
mail: homeless@example.com
description: back1.example.com
description: back2.example.com
`

func passwordFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(slapdtest.BindPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func slapdConfig(t *testing.T, servers ...string) Config {
	return Config{
		Servers: servers, BindDN: slapdtest.BindDN, BindPasswordFile: passwordFile(t), Base: slapdtest.Base, Timeout: 2 * time.Second,
	}
}

func open(t *testing.T, c Config) *Directory {
	t.Helper()
	d, err := New(c, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func at(local string) Name { return Name{Local: local, Domain: "example.com"} }

// until tries again and again for a while: for what happens by itself, soon.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestLookupInSlapd(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: people})
	d := open(t, slapdConfig(t, s.URL))
	ctx := t.Context()
	for _, c := range []struct {
		local  string
		want   Account
		failed error
	}{
		{"ann", Account{Login: "ann@example.com", Host: "back1.example.com", OldHost: "back9.example.com"}, nil},
		{"annie", Account{Login: "ann@example.com", Host: "back1.example.com", OldHost: "back9.example.com"}, nil},
		{"robert", Account{Login: "bob@example.com", Host: "back2.example.com", Status: Held}, nil},
		{"a.zoe", Account{Login: "zoe@example.com", Host: "back2.example.com", Status: Unknown}, nil},
		{"first", Account{Login: "twin@example.com", Host: "back1.example.com", Status: Disabled}, nil},
		{"nobody", Account{}, ErrNoUser},
		{"twin", Account{}, ErrAmbiguous},
		{"homeless", Account{}, ErrNoHost},
		{"*", Account{}, ErrNoUser},
		{"ann)(uid=*", Account{}, ErrNoUser},
		{"*)(uid=*))(|(uid=*", Account{}, ErrNoUser},
		{"ann\x00", Account{}, ErrNoUser},
		{`an\6e`, Account{}, ErrNoUser},
		{"jörg", Account{}, ErrNoUser},
	} {
		got, err := d.Lookup(ctx, at(c.local))
		if !errors.Is(err, c.failed) || (err == nil) != (c.failed == nil) {
			t.Errorf("%q: error %v, want %v", c.local, err, c.failed)
		}
		if got.DN != "" && !strings.HasSuffix(got.DN, slapdtest.Base) {
			t.Errorf("%q: DN %q", c.local, got.DN)
		}
		if got.DN = ""; got != c.want {
			t.Errorf("%q: got %+v, want %+v", c.local, got, c.want)
		}
	}
	several := slapdConfig(t, s.URL)
	several.Attributes.Host = "description"
	if _, err := open(t, several).Lookup(ctx, at("homeless")); !errors.Is(err, ErrNoHost) || !strings.Contains(err.Error(), "back2.example.com") {
		t.Errorf("two home hosts: %v", err)
	}
}

func TestPasswordsInSlapd(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: people})
	d := open(t, slapdConfig(t, s.URL))
	ctx := t.Context()
	ann, err := d.Lookup(ctx, at("ann"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.CheckPassword(ctx, ann, "sesame"); err != nil {
		t.Errorf("right password: %v", err)
	}
	for _, wrong := range []string{"", "Sesame", "sesame ", "sesame\x00"} {
		if err := d.CheckPassword(ctx, ann, wrong); !errors.Is(err, ErrBadPassword) {
			t.Errorf("password %q: %v", wrong, err)
		}
	}
	for _, dn := range []string{"", "uid=gone," + slapdtest.Base, "uid=bob,dc=example.com," + slapdtest.Base} {
		if err := d.CheckPassword(ctx, Account{DN: dn}, "sesame"); !errors.Is(err, ErrBadPassword) {
			t.Errorf("DN %q: %v", dn, err)
		}
	}
	// The bind as ann must not have changed who the lookups are.
	if _, err := d.Refresh(ctx, at("bob")); err != nil {
		t.Errorf("lookup after password checks: %v", err)
	}
	s.Stop()
	if err := d.CheckPassword(ctx, ann, "wrong"); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrBadPassword) {
		t.Errorf("directory stopped: %v", err)
	}
	s.Run()
	until(t, "password checks work again", func() bool { return d.CheckPassword(ctx, ann, "sesame") == nil })
}

func TestOutageInTheMiddle(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: people})
	c := slapdConfig(t, s.URL)
	c.Cache.TTL, c.Cache.NegativeTTL = time.Nanosecond, time.Nanosecond
	d := open(t, c)
	ctx := t.Context()
	if a, err := d.Lookup(ctx, at("ann")); err != nil || a.Cached || a.Stale {
		t.Fatalf("first lookup: %+v, %v", a, err)
	}
	if _, err := d.Lookup(ctx, at("nobody")); !errors.Is(err, ErrNoUser) {
		t.Fatalf("nobody: %v", err)
	}
	// A restart between two lookups is not noticed: the dead connection is replaced.
	s.Stop()
	s.Run()
	if a, err := d.Lookup(ctx, at("ann")); err != nil || a.Stale {
		t.Errorf("after a restart: %+v, %v", a, err)
	}
	s.Stop()
	if a, err := d.Lookup(ctx, at("ann")); err != nil || !a.Stale || !a.Cached || a.Host != "back1.example.com" {
		t.Errorf("remembered, directory stopped: %+v, %v", a, err)
	}
	for _, name := range []string{"bob", "nobody"} {
		if _, err := d.Lookup(ctx, at(name)); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNoUser) {
			t.Errorf("%s, directory stopped: %v", name, err)
		}
	}
	if _, err := d.Refresh(ctx, at("ann")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("refresh, directory stopped: %v", err)
	}
	if st := d.Stats(); st.Servers[0].Up || st.Servers[0].LastError == "" || st.Cache.Stale == 0 {
		t.Errorf("stats: %+v", st)
	}
	began := time.Now()
	for range 100 {
		_, _ = d.Lookup(ctx, at("bob"))
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("100 lookups while the directory is known to be down took %s", took)
	}
	s.Run()
	until(t, "lookups work again", func() bool { a, err := d.Lookup(ctx, at("bob")); return err == nil && !a.Stale })
	if a, err := d.Lookup(ctx, at("ann")); err != nil || a.Stale {
		t.Errorf("back again: %+v, %v", a, err)
	}
}

// A paused server is the worst kind: it keeps its connections, accepts new ones, and says nothing.
func TestSlowServers(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: people})
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c := slapdConfig(t, "ldap://"+silent.Addr().String(), s.URL)
	c.Timeout = 300 * time.Millisecond
	c.Cache.TTL = time.Nanosecond
	d := open(t, c)
	ctx := t.Context()
	began := time.Now()
	if _, err := d.Lookup(ctx, at("ann")); err != nil {
		t.Fatalf("first server silent: %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the second server was asked after %s", took)
	}
	began = time.Now()
	for range 20 {
		if _, err := d.Lookup(ctx, at("bob")); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("20 lookups beside a silent server took %s", took)
	}
	s.Pause()
	defer s.Resume()
	if a, err := d.Lookup(ctx, at("ann")); err != nil || !a.Stale {
		t.Errorf("both silent: %+v, %v", a, err)
	}
	if _, err := d.Lookup(ctx, at("first")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("both silent, not remembered: %v", err)
	}
	s.Resume()
	until(t, "the paused server is used again", func() bool { _, err := d.Lookup(ctx, at("first")); return err == nil })
}

// The context of one caller ends: that is no answer about the user, and no failure of the server.
func TestImpatientCaller(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: people})
	d := open(t, slapdConfig(t, s.URL))
	if _, err := d.Lookup(t.Context(), at("ann")); err != nil {
		t.Fatal(err)
	}
	s.Pause()
	defer s.Resume()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := d.Lookup(ctx, at("nobody"))
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNoUser) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := d.CheckPassword(ctx, Account{DN: slapdtest.BindDN}, "x"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("password check: %v", err)
	}
	s.Resume()
	if !d.Stats().Servers[0].Up {
		t.Error("a caller's impatience took the server out of service")
	}
}

func TestReplicas(t *testing.T) {
	one := slapdtest.Start(t, slapdtest.Options{LDIF: people})
	two := slapdtest.Start(t, slapdtest.Options{LDIF: people})
	empty := slapdtest.Start(t, slapdtest.Options{Empty: true})
	c := slapdConfig(t, empty.URL, one.URL, two.URL)
	c.Cache.TTL, c.Cache.NegativeTTL = time.Nanosecond, time.Nanosecond
	c.BindDN, c.BindPasswordFile = slapdtest.RootDN, filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(c.BindPasswordFile, []byte(slapdtest.RootPassword), 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, c)
	ctx := t.Context()
	for i := range 40 {
		if i == 10 {
			one.Kill()
		}
		if i == 20 {
			one.Run()
			until(t, "the killed server is back", func() bool { return d.Stats().Servers[1].Up })
			two.Kill()
		}
		// An empty replica has not even the base: that is not "no such user".
		if _, err := d.Lookup(ctx, at("ann")); err != nil {
			t.Fatalf("lookup %d: %v", i, err)
		}
		if _, err := d.Lookup(ctx, at("nobody")); !errors.Is(err, ErrNoUser) {
			t.Fatalf("lookup %d of nobody: %v", i, err)
		}
	}
	one.Kill()
	if _, err := d.Lookup(ctx, at("nobody")); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNoUser) {
		t.Errorf("only the empty replica is left: %v", err)
	}
	if errs := d.Check(ctx); len(errs) != 3 {
		t.Errorf("Check: %v", errs)
	}
}

func TestTLS(t *testing.T) {
	ca, err := pki.NewCA("test", pki.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, r pki.Request) {
		pair, err := ca.Issue(r)
		if err == nil {
			err = pair.Write(dir, name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("server", pki.Request{Hosts: []string{"127.0.0.1"}})
	write("client", pki.Request{Name: "frontend", Client: true})
	if err := ca.Pair.Write(dir, "ca"); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	s := slapdtest.Start(t, slapdtest.Options{
		LDIF: people, TLS: true, Cert: in("server.pem"), Key: in("server.key"), CA: in("ca.pem"),
		Global: "authz-regexp \"cn=frontend\" \"" + slapdtest.BindDN + "\"\n",
	})
	ctx := t.Context()
	good := slapdConfig(t, s.TLSURL)
	good.TLSCAFile = in("ca.pem")
	starttls := slapdConfig(t, s.URL)
	starttls.TLSCAFile, starttls.StartTLS = in("ca.pem"), true
	external := starttls
	external.BindDN, external.BindPasswordFile, external.SASLExternal = "", "", true
	external.TLSCertFile, external.TLSKeyFile = in("client.pem"), in("client.key")
	for name, c := range map[string]Config{"ldaps": good, "starttls": starttls, "client certificate": external} {
		d := open(t, c)
		if _, err := d.Lookup(ctx, at("ann")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := d.CheckPassword(ctx, Account{DN: "uid=ann,dc=example.com," + slapdtest.Base}, "sesame"); err != nil {
			t.Errorf("%s: password: %v", name, err)
		}
		if errs := d.Check(ctx); len(errs) > 0 {
			t.Errorf("%s: check: %v", name, errs)
		}
	}
	untrusted := good
	untrusted.TLSCAFile = ""
	wrongName := good
	wrongName.Servers = []string{strings.Replace(s.TLSURL, "127.0.0.1", "localhost", 1)}
	plain := slapdtest.Start(t, slapdtest.Options{LDIF: people})
	refused := slapdConfig(t, plain.URL)
	refused.TLSCAFile, refused.StartTLS = in("ca.pem"), true
	for name, c := range map[string]Config{"untrusted": untrusted, "wrong name": wrongName, "no STARTTLS": refused} {
		if _, err := open(t, c).Lookup(ctx, at("ann")); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWrongBindPassword(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: people})
	c := slapdConfig(t, s.URL)
	if err := os.WriteFile(c.BindPasswordFile, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, c)
	_, err := d.Lookup(t.Context(), at("ann"))
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrBadPassword) || !strings.Contains(err.Error(), "Invalid Credentials") {
		t.Errorf("got %v", err)
	}
	if errs := d.Check(t.Context()); len(errs) != 1 || !strings.Contains(errs[0].Error(), s.URL) {
		t.Errorf("Check: %v", errs)
	}
}

func TestExplain(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: people})
	d := open(t, slapdConfig(t, s.URL))
	ctx := t.Context()
	if _, err := d.Lookup(ctx, at("ann")); err != nil {
		t.Fatal(err)
	}
	s.Modify("dn: uid=ann,dc=example.com,ou=domains,dc=example,dc=com\nchangetype: modify\nreplace: hostServer\nhostServer: back2.example.com\n")
	x, err := d.Explain(ctx, at("ann"))
	if err != nil || !x.Remembered || !x.Fresh || x.Account.Host != "back1.example.com" || x.Now.Host != "back2.example.com" ||
		x.DN != "uid=ann,dc=example.com,"+slapdtest.Base || x.Server != s.URL || len(x.Attributes) != 3 ||
		x.Filter != "(&(objectClass=mailAccount)(|(mail=ann@example.com)(mailAlternateAddress=ann@example.com)))" {
		t.Errorf("ann: %+v, %v", x, err)
	}
	if x, err := d.Explain(ctx, at("*")); !errors.Is(err, ErrNoUser) || !strings.Contains(x.Filter, `mail=\2a@example.com`) {
		t.Errorf("*: %+v, %v", x, err)
	}
	if a, err := d.Refresh(ctx, at("ann")); err != nil || a.Host != "back2.example.com" || a.Cached {
		t.Errorf("refresh: %+v, %v", a, err)
	}
	if a, err := d.Lookup(ctx, at("ann")); err != nil || a.Host != "back2.example.com" || !a.Cached {
		t.Errorf("after the refresh: %+v, %v", a, err)
	}
}

// A peer that is no directory, or one out of its mind, is an outage and costs no memory.
func TestHostileServers(t *testing.T) {
	for name, speech := range map[string]string{
		"garbage":   strings.Repeat("HTTP/1.1 400 Bad Request\r\n", 1000),
		"huge":      "\x30\x84\x7f\xff\xff\xff\x02\x01\x01",
		"unbounded": "\x30\x80" + strings.Repeat("\x30\x80", 5000),
		"nothing":   "",
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan struct{})
			go serveSpeech(l, speech, served)
			t.Cleanup(func() { l.Close(); <-served })
			c := slapdConfig(t, "ldap://"+l.Addr().String())
			c.Timeout = 300 * time.Millisecond
			d := open(t, c)
			if _, err := d.Lookup(t.Context(), at("ann")); !errors.Is(err, ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			if err := d.CheckPassword(t.Context(), Account{DN: "cn=x"}, "x"); !errors.Is(err, ErrUnavailable) {
				t.Errorf("password: %v", err)
			}
		})
	}
}

func serveSpeech(l net.Listener, speech string, served chan<- struct{}) {
	defer close(served)
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Read(make([]byte, 512)) // whatever it asks
		_, _ = io.WriteString(c, speech)
		c.Close()
	}
}
