package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// balancer passes connections on to frontends in turn, and on to the next one where nobody listens, as a load balancer in
// front of them does. A test has nothing else to do with TCP: a connection that is reset is a failed login.
type balancer struct {
	l    net.Listener
	to   []string
	next atomic.Uint64
	work sync.WaitGroup
}

func newBalancer(t testing.TB, address string, to ...string) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{l: l, to: to}
	b.work.Go(b.serve)
	t.Cleanup(func() {
		l.Close()
		b.work.Wait()
	})
	return b
}

func (b *balancer) serve() {
	for {
		client, err := b.l.Accept()
		if err != nil {
			return
		}
		b.work.Go(func() { b.pass(client) })
	}
}

func (b *balancer) pass(client net.Conn) {
	defer client.Close()
	first := b.next.Add(1)
	for n := range uint64(len(b.to)) {
		server, err := net.Dial("tcp", b.to[(first+n)%uint64(len(b.to))])
		if err != nil {
			continue
		}
		defer server.Close()
		var up sync.WaitGroup
		up.Go(func() {
			_, _ = io.Copy(server, client) // its end is the session's
			_ = server.(*net.TCPConn).CloseWrite()
		})
		_, _ = io.Copy(client, server)
		client.Close()
		up.Wait()
		return
	}
}

// users log in, look around and leave, again and again.
type users struct {
	logins, failed atomic.Int64
	where          sync.Map // by host name of the member: *atomic.Int64
	first          atomic.Pointer[string]
	stop           context.CancelFunc
	work           sync.WaitGroup
}

// workOn sends a user for each account to an address. A user has one session at a time.
func workOn(t testing.TB, address string, accounts []stage.Account) *users {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	u := &users{stop: stop}
	for _, a := range accounts {
		u.work.Go(func() {
			for ctx.Err() == nil {
				u.visit(ctx, address, a)
			}
		})
	}
	t.Cleanup(func() { u.end() })
	return u
}

func (u *users) end() {
	u.stop()
	u.work.Wait()
}

func (u *users) visit(ctx context.Context, address string, a stage.Account) {
	c, at, err := tryLogin(address, a)
	if err == nil {
		u.logins.Add(1)
		count, _ := u.where.LoadOrStore(at, new(atomic.Int64))
		count.(*atomic.Int64).Add(1)
		err = c.Quit()
		c.Close()
	}
	if err != nil {
		u.failed.Add(1)
		text := fmt.Sprintf("%s at %s: %v", a.Login, time.Now().Format("15:04:05.000"), err)
		u.first.CompareAndSwap(nil, &text)
	}
	pause := time.NewTimer(20 * time.Millisecond)
	defer pause.Stop()
	select {
	case <-ctx.Done():
	case <-pause.C:
	}
}

// faults is the first failure, and how many there were.
func (u *users) faults() string {
	if first := u.first.Load(); first != nil {
		return fmt.Sprintf("%d of %d, the first: %s", u.failed.Load(), u.logins.Load(), *first)
	}
	return ""
}

// on counts the logins that came to a member.
func (u *users) on(hostName string) int64 {
	if count, ok := u.where.Load(hostName); ok {
		return count.(*atomic.Int64).Load()
	}
	return 0
}

// more waits until n more logins have succeeded.
func (u *users) more(t testing.TB, n int64) {
	t.Helper()
	want := u.logins.Load() + n
	eventually(t, fmt.Sprintf("%d more logins", n), func() error {
		if got := u.logins.Load(); got < want {
			return fmt.Errorf("%d are left to come; failed: %s", want-got, u.faults())
		}
		return nil
	})
}

// An operator upgrades every server of a site while people log in all the time: withdraw a member, wait until its last
// session is gone, stop it, start it, ready; the same with the next one; then the frontends, one after the other. Not one
// login fails.
func TestClusterUpgrade(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, 8, false)
	fronts := []*frontend{f.front(t, 30, nil), f.front(t, 31, nil)}
	for _, d := range fronts {
		d.awaitMembers(t, fleetHost, imapState, "n1 up", "n2 up")
	}
	entry := f.Net.Addr(20, stage.PortIMAP)
	newBalancer(t, entry, fronts[0].addr(), fronts[1].addr())
	people := workOn(t, entry, f.Accounts)
	for n, d := range f.Members {
		name := fmt.Sprintf("n%d", n+1)
		people.more(t, 40)
		for _, front := range fronts {
			front.command(t, "withdraw", name)
		}
		for _, front := range fronts {
			eventually(t, "the last session on "+name+" ends", func() error {
				if out := front.command(t, "who", "-member", name); !strings.Contains(out, "no sessions") {
					return fmt.Errorf("%s", out)
				}
				return nil
			})
		}
		before := people.on(d.HostName)
		people.more(t, 40)
		if got := people.on(d.HostName); got != before {
			t.Errorf("%d logins came to %s, which is withdrawn", got-before, name)
		}
		d.Stop()
		people.more(t, 40)
		if err := d.Restart(); err != nil {
			t.Fatal(err)
		}
		for _, front := range fronts {
			front.awaitMembers(t, fleetHost, imapState, "n1 up", "n2 up")
		}
		for _, front := range fronts {
			front.command(t, "ready", name)
		}
		people.more(t, 40)
		if people.on(d.HostName) == before {
			t.Errorf("no login came to %s after ready", name)
		}
	}
	for _, front := range fronts {
		front.command(t, "withdraw", "self")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		code, err := front.Wait(ctx)
		cancel()
		if err != nil || code != 0 {
			t.Fatalf("the withdrawn frontend ends with %d, %v", code, err)
		}
		people.more(t, 40)
		if err := front.Restart(); err != nil {
			t.Fatal(err)
		}
		front.awaitMembers(t, fleetHost, imapState, "n1 up", "n2 up")
		people.more(t, 40)
	}
	people.end()
	t.Logf("%d logins, %d on %s, %d on %s", people.logins.Load(), people.on(member(0)), member(0), people.on(member(1)), member(1))
	if faults := people.faults(); faults != "" {
		t.Errorf("logins failed: %s", faults)
	}
}

// wish shows a member's name and what the operator wants of it.
func wish(m memberState) string { return m.Name + " " + m.Wish }

// A withdrawn member keeps its sessions, and takes more of the accounts that have some, until they are let go at a bounded
// rate. The wish outlives a restart of the frontend, and a ready takes it back.
func TestClusterEvacuate(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, 24, false)
	front := f.front(t, 30, nil) // evacuates 20 accounts a second
	front.awaitMembers(t, fleetHost, imapState, "n1 up", "n2 up")
	open := make(map[string]*talk.Conn)
	var own []stage.Account
	for _, a := range f.Accounts {
		c, at := front.session(t, a)
		if at == member(0) {
			own, open[a.Login] = append(own, a), c
		}
	}
	front.command(t, "withdraw", "n1")
	where(t, open[own[0].Login], member(0))
	if _, at := front.session(t, own[0]); at != member(0) {
		t.Errorf("an account with a session on %s gets another one on %s", member(0), at)
	}
	if out := front.command(t, "status"); !strings.Contains(out, "withdrawn") {
		t.Errorf("status does not tell of the wish:\n%s", out)
	}
	began := time.Now()
	front.command(t, "withdraw", "n1", "-evacuate")
	for _, a := range own {
		if _, err := open[a.Login].Rest(); err != nil {
			t.Fatalf("the session of %s does not end: %v", a.Login, err)
		}
	}
	took := time.Since(began)
	t.Logf("%d accounts left in %s", len(own), took.Round(time.Millisecond))
	if least := time.Duration(len(own)-2) * time.Second / 20; took < least {
		t.Errorf("%d accounts left within %s, want at least %s at 20 a second", len(own), took, least)
	}
	if _, at := front.session(t, own[0]); at != member(1) {
		t.Errorf("after the evacuation %s comes to %s", own[0].Login, at)
	}
	front.Stop()
	if err := front.Restart(); err != nil {
		t.Fatal(err)
	}
	front.awaitMembers(t, fleetHost, wish, "n1 evacuating", "n2 in service")
	if _, at := front.session(t, own[0]); at != member(1) {
		t.Errorf("after a restart %s comes to %s", own[0].Login, at)
	}
	front.command(t, "ready", "n1")
	front.awaitMembers(t, fleetHost, wish, "n1 in service", "n2 in service")
	if _, at := front.session(t, own[0]); at != member(0) {
		t.Errorf("after ready %s comes to %s", own[0].Login, at)
	}
}

// Sessions are ended by their account, member, host or client's network, and no others.
func TestClusterKick(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, 8, false)
	front := f.front(t, 30, nil)
	front.awaitMembers(t, fleetHost, imapState, "n1 up", "n2 up")
	for _, way := range []struct {
		name  string
		flags []string
		meant func(a stage.Account, at string) bool
	}{
		{"account", []string{f.Accounts[3].Login}, func(a stage.Account, _ string) bool { return a.Login == f.Accounts[3].Login }},
		{"member", []string{"-member", "n1"}, func(_ stage.Account, at string) bool { return at == member(0) }},
		{"client network", []string{"-client", "127.0.0.0/8"}, func(stage.Account, string) bool { return true }},
		{"another network", []string{"-client", "192.0.2.0/24"}, func(stage.Account, string) bool { return false }},
		{"host", []string{"-host", fleetHost}, func(stage.Account, string) bool { return true }},
	} {
		t.Run(way.name, func(t *testing.T) {
			type place struct {
				c  *talk.Conn
				at string
			}
			places := make(map[string]place)
			for _, a := range f.Accounts {
				c, at := front.session(t, a)
				places[a.Login] = place{c, at}
			}
			front.command(t, append([]string{"kick"}, way.flags...)...)
			for _, a := range f.Accounts {
				p := places[a.Login]
				if !way.meant(a, p.at) {
					where(t, p.c, p.at)
					p.c.Close()
					continue
				}
				if _, err := p.c.Rest(); err != nil {
					t.Errorf("the session of %s does not end: %v", a.Login, err)
				}
			}
		})
	}
}
