package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sourced is a table whose only host, east, has its members from one source.
func sourced(t *testing.T, m MemberConfig, options Options) (*Table, *Host) {
	t.Helper()
	options.Services = []string{"imap"}
	tab := table(t, Config{Hosts: map[string]HostConfig{"east": {Members: []MemberConfig{m}, Settings: Settings{Check: CheckConfig{Mode: "off"}}}}}, options)
	return tab, host(t, tab, "east")
}

// seats is "name=address*weight/priority" of each member.
func seats(h *Host) string {
	var out []string
	for _, s := range h.row.Load().seats {
		out = append(out, fmt.Sprintf("%s=%s*%g/%d", s.member.Name(), s.member.Address("imap"), s.weight, s.priority))
	}
	return strings.Join(out, " ")
}

func TestMembersFromTheDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		resolver := &names{}
		resolver.set(errors.New("server misbehaving"))
		var left []string
		tab, h := sourced(t, MemberConfig{DNS: "east.example.com", Settings: Settings{Ports: map[string]int{"imap": 1143}}}, Options{
			Resolver: resolver, Changed: func(e Event) { left = append(left, e.Member.Name()+" "+e.Change.String()) }})
		tab.Start(context.Background())
		synctest.Wait()
		_, err := h.Choose("imap", "ann", nil)
		if !errors.Is(err, ErrNoMember) || !strings.Contains(err.Error(), "not known yet, dns east.example.com: server misbehaving") {
			t.Errorf("before the first answer: %v", err)
		}
		resolver.set(nil, "10.0.0.2", "10.0.0.1", "::ffff:10.0.0.1")
		time.Sleep(6 * time.Second) // a source that failed is asked again soon
		synctest.Wait()
		if got := seats(h); got != "10.0.0.1=10.0.0.1:1143*1/0 10.0.0.2=10.0.0.2:1143*1/0" {
			t.Fatalf("members are %s", got)
		}
		stays := h.Member("10.0.0.2")
		stays.Opened("imap")
		resolver.set(nil, "10.0.0.2", "10.0.0.3")
		time.Sleep(35 * time.Second)
		synctest.Wait()
		if got := seats(h); got != "10.0.0.2=10.0.0.2:1143*1/0 10.0.0.3=10.0.0.3:1143*1/0" || h.Member("10.0.0.2") != stays {
			t.Errorf("members are %s", got)
		}
		if fmt.Sprint(left) != "[10.0.0.1 left]" {
			t.Errorf("events are %q", left)
		}
		// Neither an outage nor an empty answer is the outage of a cluster.
		for _, err := range []error{errors.New("server misbehaving"), nil} {
			resolver.set(err)
			time.Sleep(time.Minute)
			synctest.Wait()
			if s := tab.Status()[0]; len(s.Members) != 2 || s.Sources[0].Error == "" {
				t.Errorf("after %v the status is %+v", err, s)
			}
		}
		// A reload that keeps the source keeps what it knows, and takes its new settings.
		tab.mu.Lock()
		cfg := tab.config
		tab.mu.Unlock()
		cfg.Backend.Identity = "off"
		if err := tab.Update(cfg); err != nil {
			t.Fatal(err)
		}
		if h.Member("10.0.0.2") != stays || stays.Identity() || stays.Sessions() != 1 {
			t.Error("the reload lost the members of a source that stays, or their settings")
		}
		lookups := resolver.lookups
		delete(cfg.Hosts, "east")
		if err := tab.Update(cfg); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if resolver.lookups != lookups {
			t.Error("the source of a host that has left is asked")
		}
		tab.Close()
	})
}

func TestMembersFromSRVRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		resolver := &names{srv: map[string][]*net.SRV{
			"_imap._tcp.example.com": {
				{Target: "A.example.com.", Port: 1143, Weight: 2}, {Target: "b.example.com.", Port: 143, Weight: 0},
				{Target: "c.example.com.", Port: 143, Priority: 10, Weight: 1},
			},
			"_pop3._tcp.example.com": {{Target: "a.example.com.", Port: 1110}, {Target: ".", Port: 0}},
			"_imaps._tcp.one":        {{Target: "z.example.com.", Port: 9993}},
		}}
		tab, h := sourced(t, MemberConfig{SRV: "example.com"}, Options{Resolver: resolver})
		tab.Start(context.Background())
		synctest.Wait()
		want := "a.example.com=a.example.com:1143*20/0 b.example.com=b.example.com:143*1/0 c.example.com=c.example.com:143*10/10"
		if got := seats(h); got != want {
			t.Errorf("members are %s, want %s", got, want)
		}
		if got := h.Member("a.example.com").Address("pop3"); got != "a.example.com:1110" {
			t.Errorf("POP3 is at %s", got)
		}
		tab.Close()
		// A record whose target is no name is left out by the resolver, with an error: the others hold.
		resolver.odd = errors.New("malformed records were left out")
		tab, h = sourced(t, MemberConfig{SRV: "example.com"}, Options{Resolver: resolver})
		tab.Start(context.Background())
		synctest.Wait()
		if s := tab.Status()[0].Sources[0]; len(h.Members()) != 3 || !strings.Contains(s.Error, "malformed") {
			t.Errorf("beside a malformed record there are %s, %+v", seats(h), s)
		}
		tab.Close()
		resolver.odd = nil
		for _, m := range []MemberConfig{{SRV: "_imaps._tcp.one"}, {SRV: "one", Settings: Settings{TLS: "implicit"}}} {
			tab, h = sourced(t, m, Options{Resolver: resolver})
			tab.Start(context.Background())
			synctest.Wait()
			if got := seats(h); got != "z.example.com=z.example.com:9993*1/0" {
				t.Errorf("%+v: members are %s", m.SRV, got)
			}
			tab.Close()
		}
	})
}

// directory is a source of fixed values.
type directory struct {
	mu     sync.Mutex
	values []string
	err    error
	asked  string
}

func (d *directory) Values(_ context.Context, entry, attribute string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = entry + " " + attribute
	return d.values, d.err
}

func TestMembersFromTheDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &directory{values: []string{"10.0.1.2:1143 weight=2 priority=1 name=n2", "10.0.1.1 imap=1144", "10.0.1.3 wieght=2", "10.0.1.9 name=static"}}
		m := MemberConfig{Directory: "cn=east,ou=clusters,dc=example,dc=com", Refresh: time.Second}
		cfg := Config{Hosts: map[string]HostConfig{"east": {Members: []MemberConfig{{Address: "10.0.0.1", Name: "static"}, m}, Settings: Settings{Check: CheckConfig{Mode: "off"}}}}}
		tab := table(t, cfg, Options{Source: d})
		h := host(t, tab, "east")
		tab.Start(context.Background())
		synctest.Wait()
		want := "static=10.0.0.1:143*1/0 10.0.1.1=10.0.1.1:1144*1/0 n2=10.0.1.2:1143*2/1"
		if got := seats(h); got != want {
			t.Errorf("members are %s, want %s", got, want)
		}
		if d.asked != "cn=east,ou=clusters,dc=example,dc=com ipHostNumber" {
			t.Errorf("asked for %s", d.asked)
		}
		if s := tab.Status()[0].Sources[0]; !strings.Contains(s.Error, `"wieght=2" is not a word like`) {
			t.Errorf("the fault of a value does not show: %+v", s)
		}
		d.mu.Lock()
		d.values, d.err = []string{"10.0.1.4"}, nil
		d.mu.Unlock()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := seats(h); got != "static=10.0.0.1:143*1/0 10.0.1.4=10.0.1.4:143*1/0" {
			t.Errorf("members are %s", got)
		}
		// Of two servers by one name the same one holds in whatever order the values come, and it is said.
		for _, values := range [][]string{{"10.0.1.7 name=n7", "10.0.1.5 name=n7"}, {"10.0.1.5 name=n7", "10.0.1.7 name=n7"}} {
			d.mu.Lock()
			d.values = values
			d.mu.Unlock()
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if got := seats(h); got != "static=10.0.0.1:143*1/0 n7=10.0.1.5:143*1/0" {
				t.Errorf("members are %s", got)
			}
			if s := tab.Status()[0].Sources[0]; !strings.Contains(s.Error, "two values name a member n7") {
				t.Errorf("that two values name one member does not show: %+v", s)
			}
		}
		tab.Close()
	})
}

func FuzzParseListing(f *testing.F) {
	for _, seed := range []string{"10.0.0.1", "[::1]:143 weight=2 priority=1 name=n2 imap=1143", "a.example.com pop3=1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		l, err := parseListing(value)
		if err == nil && (l.name == "" || strings.Contains(l.name, "/") && l.name != strings.Fields(value)[0] || l.weight > maxWeight || l.weight < -1) {
			t.Errorf("%q is %+v", value, l)
		}
	})
}

// TestEverythingAtOnce has the race detector look at choosing, dialing, judging, reloading and withdrawing together.
func TestEverythingAtOnce(t *testing.T) {
	f := serve(t, greetIMAP)
	settings := quick()
	settings.Check.Interval = 10 * time.Millisecond
	one := Config{Hosts: map[string]HostConfig{"east": {Members: members(f.address), Settings: settings}}}
	row := one.Hosts["east"]
	row.Members = append(members(f.address), members(refusing(t))...)
	row.Sticky = "none"
	two := Config{Hosts: map[string]HostConfig{"east": row, "west": row}}
	tab := table(t, one, Options{Services: []string{"imap"}})
	tab.Start(context.Background())
	ctx, stop := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer stop()
	var work sync.WaitGroup
	reached := make([]int, 4)
	for n := range reached {
		work.Go(func() { reached[n] = logIn(ctx, tab, n) })
	}
	work.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			if err := tab.Update([]Config{one, two}[n%2]); err != nil {
				t.Error(err)
			}
			tab.Status()
			time.Sleep(time.Millisecond)
		}
	})
	work.Go(func() {
		for ctx.Err() == nil {
			tab.Withdraw("west", true)
			tab.Ready("west")
			time.Sleep(time.Millisecond)
		}
	})
	work.Wait()
	for n, count := range reached {
		if count == 0 {
			t.Errorf("frontend %d never reached a member", n)
		}
	}
	if sessions := host(t, tab, "east").Member(f.address).Sessions(); sessions != 0 {
		t.Errorf("%d sessions are left", sessions)
	}
}

// logIn chooses and dials until ctx ends, and says how often that went well.
func logIn(ctx context.Context, tab *Table, n int) (reached int) {
	for k := 0; ctx.Err() == nil; k++ {
		h, err := tab.Host([]string{"east", "west"}[k%2])
		if err != nil {
			continue
		}
		m, err := h.Choose("imap", fmt.Sprint(n, k), nil)
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		m.Opened("imap")
		if c, err := m.Dial(ctx, "imap", DialInfo{}); err == nil {
			m.Succeeded("imap", time.Millisecond)
			m.Learn("imap", []string{"ID", fmt.Sprint(k % 3)})
			tab.Seen("imap")
			c.Close()
			reached++
		}
		m.Closed("imap")
	}
	return reached
}
