package claims

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"mailmux/proxy"
	"mailmux/proxy/backend"
)

const host = "east.example.com"

// table is a host with three members that nobody checks.
func table(t testing.TB) *backend.Table {
	t.Helper()
	cfg := backend.Config{Hosts: map[string]backend.HostConfig{host: {Sticky: "claim", Members: []backend.MemberConfig{
		{Address: "127.0.0.1", Name: "n1"}, {Address: "127.0.0.2", Name: "n2"}, {Address: "127.0.0.3", Name: "n3"},
	}}}}
	cfg.Backend.Check.Mode = "off"
	tab, err := backend.New(cfg, backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tab.Close)
	return tab
}

// etcd starts an embedded one, and returns its endpoint.
func etcd(t testing.TB) string {
	t.Helper()
	s, err := startServer(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s.url
}

// site is one frontend's claims, with a lease.
func site(t testing.TB, endpoint, name string, change func(*Config)) (*Claims, *backend.Table) {
	t.Helper()
	tab := table(t)
	cfg := Config{Name: name, Endpoints: []string{endpoint}, Lease: 3 * time.Second, Margin: time.Second, Timeout: 2 * time.Second, Guard: "off"}
	if change != nil {
		change(&cfg)
	}
	c, err := Open(cfg, Parts{Hosts: tab})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	until(t, "a lease", func() bool { return c.Status().State == "held" })
	return c, tab
}

// until asks until ok.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) { // etcd's own pace
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20s", what)
		}
	}
}

// want is what a session of an account asks; the hash says first.
func want(t testing.TB, tab *backend.Table, account, first string, cut func()) proxy.Want {
	t.Helper()
	h, err := tab.Host(host)
	if err != nil {
		t.Fatal(err)
	}
	if cut == nil {
		cut = func() {}
	}
	return proxy.Want{Key: account + "\x00uid=" + account, Name: account, Host: h, Service: "imap", Cut: cut,
		Choose: func() (*backend.Member, error) { return h.Member(first), nil }}
}

func take(t testing.TB, c *Claims, w proxy.Want) proxy.Claim {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	u, err := c.Take(ctx, w)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestTakeJoinRelease(t *testing.T) {
	endpoint := etcd(t)
	a, tabA := site(t, endpoint, "a", nil)
	b, tabB := site(t, endpoint, "b", nil)
	first := take(t, a, want(t, tabA, "ann", "n2", nil))
	second := take(t, b, want(t, tabB, "ann", "n3", nil))
	if first.Member().Name() != "n2" || second.Member().Name() != "n2" {
		t.Errorf("ann is at %s and %s", first.Member(), second.Member())
	}
	info, err := a.Info(t.Context(), "ann\x00uid=ann")
	slices.Sort(info.Holders)
	if err != nil || info.Member != host+"/n2" || !slices.Equal(info.Holders, []string{"a", "b"}) {
		t.Errorf("info is %+v, %v", info, err)
	}
	first.Release()
	first.Release()
	until(t, "a's holder gone", func() bool { return a.Status().Accounts == 0 })
	third := take(t, a, want(t, tabA, "ann", "n1", nil))
	if third.Member().Name() != "n2" {
		t.Errorf("ann is at n2 from b, and at %s from a", third.Member())
	}
	second.Release()
	third.Release()
	until(t, "the claim gone", func() bool {
		info, err := a.Info(t.Context(), "ann\x00uid=ann")
		return err == nil && info.Member == "" && len(info.Holders) == 0
	})
	if u := take(t, b, want(t, tabB, "ann", "n1", nil)); u.Member().Name() != "n1" {
		t.Errorf("a free account goes to %s, not where the hash says", u.Member())
	}
}

// An account whose member is decided down is closed everywhere, and free when the last frontend has closed it.
func TestDownMemberIsLeft(t *testing.T) {
	endpoint := etcd(t)
	a, tabA := site(t, endpoint, "a", nil)
	b, tabB := site(t, endpoint, "b", nil)
	cut := make(chan struct{}, 2)
	first := take(t, a, want(t, tabA, "ann", "n1", func() { cut <- struct{}{} }))
	second := take(t, b, want(t, tabB, "ann", "n1", func() { cut <- struct{}{} }))
	for _, lease := range []string{"1", "2", "3"} { // so that the controller agrees
		if _, err := a.client.Put(t.Context(), a.keys.frontend(lease), encode(frontendValue{Name: lease, Down: []string{host + "/n1"}})); err != nil {
			t.Fatal(err)
		}
	}
	verdict := encode(verdict{Epoch: 7, Down: map[string]time.Time{host + "/n1": time.Now()}})
	if _, err := a.client.Put(t.Context(), a.keys.verdict(), verdict); err != nil {
		t.Fatal(err)
	}
	<-cut
	<-cut
	first.Release() // b still has it
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if u, err := a.Take(ctx, want(t, tabA, "ann", "n2", nil)); err == nil {
		t.Errorf("ann is at %s while b has not left n1", u.Member())
	} else if !errors.Is(err, ErrElsewhere) && !errors.Is(err, ErrOutage) {
		t.Errorf("the error is %v", err)
	}
	second.Release()
	if u := take(t, a, want(t, tabA, "ann", "n2", nil)); u.Member().Name() != "n2" {
		t.Errorf("ann is at %s", u.Member())
	}
}

// A cut that is slow, or does not come to an end, keeps the account where it is.
func TestMoveWaitsForTheLastSession(t *testing.T) {
	endpoint := etcd(t)
	a, tabA := site(t, endpoint, "a", nil)
	b, tabB := site(t, endpoint, "b", nil)
	gone := make(chan struct{})
	held := take(t, a, want(t, tabA, "ann", "n1", func() { close(gone) }))
	if err := b.Move(t.Context(), "ann\x00uid=ann", host+"/n3"); err != nil {
		t.Fatal(err)
	}
	<-gone
	done := make(chan proxy.Claim)
	go func() {
		u, _ := b.Take(context.Background(), want(t, tabB, "ann", "n2", nil))
		done <- u
	}()
	select {
	case u := <-done:
		t.Fatalf("ann is at %s while a has not released n1", u.Member())
	case <-time.After(300 * time.Millisecond): // it has had the time to go wrong
	}
	held.Release()
	if u := <-done; u == nil {
		t.Error("ann is nowhere")
	} else if at := u.Member().Name(); at != "n3" {
		t.Errorf("ann is not at n3 but at %s", at)
	}
}

// Without a lease, or behind the deadline, there is no claim; linger keeps one that nobody uses.
func TestLinger(t *testing.T) {
	c, tab := site(t, etcd(t), "a", func(cfg *Config) { cfg.Linger = 200 * time.Millisecond })
	take(t, c, want(t, tab, "ann", "n1", nil)).Release()
	if n := c.Status().Accounts; n != 1 {
		t.Errorf("%d accounts are held, the claim should linger", n)
	}
	if u := take(t, c, want(t, tab, "ann", "n2", nil)); u.Member().Name() != "n1" {
		t.Errorf("the claim that lingered is forgotten: %s", u.Member())
	} else {
		u.Release()
	}
	until(t, "the end of the linger", func() bool { return c.Status().Accounts == 0 })
}

// Whatever stands in etcd, a login gets its claim or a temporary error, and the process lives.
func TestHostileValues(t *testing.T) {
	c, tab := site(t, etcd(t), "a", nil)
	key := nameOfKey("ann\x00uid=ann")
	for _, value := range []string{"", "null", "{", `{"member":1}`, `{"member":"x"}`, `{"member":"east.example.com/../n1"}`,
		`{"member":"` + strings.Repeat("x", 10_000) + `/n1"}`, `{"epoch":-1,"down":{"":"x"}}`, "\xff\x00", strings.Repeat("[", 100_000)} {
		for _, k := range []string{c.keys.claim(key), c.keys.move(key), c.keys.verdict(), c.keys.wishes(), c.keys.frontend("1"), c.keys.holders(key) + "1"} {
			if _, err := c.client.Put(t.Context(), k, value); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if u, err := c.Take(ctx, want(t, tab, "ann", "n1", nil)); err == nil {
			u.Release()
		}
		cancel()
		if _, err := c.Info(t.Context(), "ann\x00uid=ann"); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.client.Delete(t.Context(), "", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	// The frontend's own key is gone with the rest, and so may be its holders: it begins anew.
	until(t, "another lease", func() bool { s := c.Status(); return s.Fenced > 0 && s.State == "held" })
	if u := take(t, c, want(t, tab, "ann", "n1", nil)); u.Member().Name() != "n1" {
		t.Errorf("ann is at %s", u.Member())
	}
}

func TestWeigh(t *testing.T) {
	now, before := time.Unix(200, 0), time.Unix(100, 0)
	c := &Claims{Parts: Parts{Hosts: table(t)}}
	sees := func(down ...string) proxy.ClaimFrontend {
		f := proxy.ClaimFrontend{}
		for _, m := range down {
			f.Down = append(f.Down, host+"/"+m)
		}
		return f
	}
	for _, test := range []struct {
		name string
		old  []string
		see  []proxy.ClaimFrontend
		want string
	}{
		{"nobody", nil, []proxy.ClaimFrontend{sees(), sees()}, ""},
		{"half is not enough", nil, []proxy.ClaimFrontend{sees("n1"), sees()}, ""},
		{"more than half", nil, []proxy.ClaimFrontend{sees("n1"), sees("n1"), sees()}, "n1@200"},
		{"one frontend", nil, []proxy.ClaimFrontend{sees("n2")}, "n2@200"},
		{"a vote counts once", nil, []proxy.ClaimFrontend{sees("n1", "n1"), sees()}, ""},
		{"nowhere to go", nil, []proxy.ClaimFrontend{sees("n1", "n2", "n3")}, ""},
		{"the last one stays", []string{"n1", "n2"}, []proxy.ClaimFrontend{sees("n1", "n2", "n3")}, "n1@100 n2@100"},
		{"back again", []string{"n1", "n2"}, []proxy.ClaimFrontend{sees("n2")}, "n2@100"},
		{"nonsense", nil, []proxy.ClaimFrontend{{Down: []string{"", "/", "nowhere/n1", "x"}}}, ""},
	} {
		old := verdict{Epoch: 4, Down: map[string]time.Time{}}
		for _, m := range test.old {
			old.Down[host+"/"+m] = before
		}
		v := c.weigh(test.see, old, now)
		var got []string
		for _, m := range []string{"n1", "n2", "n3"} {
			if at, ok := v.Down[host+"/"+m]; ok {
				got = append(got, fmt.Sprintf("%s@%d", m, at.Unix()))
			}
		}
		if strings.Join(got, " ") != test.want || len(v.Down) != len(got) || v.Epoch != 5 {
			t.Errorf("%s: %v in %+v, want %s", test.name, got, v, test.want)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		cfg  Config
		want string // the beginnings of the faults
	}{
		{Config{}, ""},
		{Config{Endpoints: []string{"https://10.0.0.1:2379"}}, ""},
		{Config{Embedded: "/var/lib/mailmux"}, ""},
		{Config{Lease: time.Minute}, "endpoints: missing"},
		{Config{Endpoints: []string{"10.0.0.1:2379", "https://10.0.0.1", "ftp://x:1", "http://x:1/y"}},
			"endpoints[0]: |endpoints[1]: |endpoints[2]: |endpoints[3]: "},
		{Config{Endpoints: []string{"http://x:1"}, Embedded: "here"}, "embedded: stands|embedded: \"here\""},
		{Config{Endpoints: []string{"http://x:1"}, Lease: 2 * time.Second}, "lease: "},
		{Config{Endpoints: []string{"http://x:1"}, Lease: 4500 * time.Millisecond, Margin: 3 * time.Second}, "margin: |lease: "},
		{Config{Endpoints: []string{"http://x:1"}, OnOutage: "pray", Guard: "maybe", Prefix: "x", User: "u", TLSKeyFile: "k"},
			"user: |tls_cert_file: |prefix: |on_outage: |guard: "},
	} {
		var faults []string
		if err := test.cfg.Validate(); err != nil {
			faults = strings.Split(err.Error(), "\n")
		}
		var wanted []string
		if test.want != "" {
			wanted = strings.Split(test.want, "|")
		}
		if len(faults) != len(wanted) {
			t.Errorf("%+v: faults are %q, want %q", test.cfg, faults, wanted)
			continue
		}
		for i, w := range wanted {
			if !strings.HasPrefix(faults[i], w) {
				t.Errorf("fault %d is %q, want %q", i, faults[i], w)
			}
		}
	}
}

// FuzzDecode: no value of etcd ends the process, and a name that is let through is one.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"member":"east.example.com/n1","since":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"to":"a/b","from":"c/d"}`))
	f.Add([]byte(`{"epoch":3,"down":{"a/b":"2026-01-01T00:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var c claimValue
		if decode(text, &c) == nil {
			if h, m, err := splitMember(c.Member); err == nil && (h == "" || m == "" || strings.Contains(h, "/")) {
				t.Errorf("%q is taken apart into %q and %q", c.Member, h, m)
			}
		}
		_ = decode(text, &moveValue{})
		_ = decode(text, &verdict{})
		_ = decode(text, &frontendValue{})
	})
}

// An etcd that takes connections and says nothing costs a login claims.timeout, and no more.
func TestSilentServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tab := table(t)
	c, err := Open(Config{Endpoints: []string{"http://" + l.Addr().String()}, Timeout: 200 * time.Millisecond, Guard: "off"}, Parts{Hosts: tab})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	if _, err := c.Take(t.Context(), want(t, tab, "ann", "n1", nil)); !errors.Is(err, ErrOutage) {
		t.Errorf("the error is %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
}

// BenchmarkTake is the first session of an account: one transaction to take, one to give back.
func BenchmarkTake(b *testing.B) {
	c, tab := site(b, etcd(b), "a", nil)
	for i := 0; b.Loop(); i++ {
		take(b, c, want(b, tab, fmt.Sprintf("u%d", i), "n1", nil)).Release()
	}
}

// BenchmarkJoin is every further one: nothing is asked.
func BenchmarkJoin(b *testing.B) {
	c, tab := site(b, etcd(b), "a", nil)
	defer take(b, c, want(b, tab, "ann", "n1", nil)).Release()
	w := want(b, tab, "ann", "n1", nil)
	for b.Loop() {
		take(b, c, w).Release()
	}
}
