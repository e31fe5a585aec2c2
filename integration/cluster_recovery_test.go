package integration

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"mailmux/integration/stage"
)

// distribution prints how long something took, sorted, and returns the longest.
func distribution(t testing.TB, what string, took []time.Duration) time.Duration {
	t.Helper()
	if len(took) == 0 {
		t.Fatalf("%s: nothing was measured", what)
	}
	slices.Sort(took)
	at := func(share float64) time.Duration {
		return took[int(share*float64(len(took)-1))].Round(time.Millisecond)
	}
	t.Logf("%s: n=%d, min %s, median %s, 90%% %s, max %s", what, len(took), at(0), at(0.5), at(0.9), at(1))
	return took[len(took)-1]
}

// untilLoggedIn logs an account in again and again until it works, and returns how long that took and how many logins
// were refused before.
func untilLoggedIn(ctx context.Context, addr string, a stage.Account, not string) (time.Duration, int, error) {
	began := time.Now()
	for refused := 0; ; refused++ {
		c, at, err := tryLogin(addr, a)
		if err == nil {
			c.Close()
			if at == not {
				return 0, refused, fmt.Errorf("%s is on %s, which is dead", a.Login, at)
			}
			return time.Since(began), refused, nil
		}
		if ctx.Err() != nil {
			return 0, refused, err
		}
	}
}

// homes sorts the accounts of a fleet by the host name of their member.
func (f *fleet) homes(t testing.TB, front *frontend) map[string][]stage.Account {
	t.Helper()
	homes := make(map[string][]stage.Account)
	for _, a := range f.Accounts {
		c, at := front.session(t, a)
		c.Close()
		homes[at] = append(homes[at], a)
	}
	return homes
}

// A member of a cluster is killed, at the default settings. Its accounts log in on another member in the very next login,
// because the session that finds the dead one goes on to the next; and without any session the checks take it out in less
// than three seconds.
func TestClusterMemberKilled(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, 24, false)
	front := f.front(t, 30, nil)
	front.awaitMembers(t, fleetHost, imapState, "n1 up", "n2 up")
	victim := f.Members[0]
	own := f.homes(t, front)[victim.HostName]
	if len(own) == 0 {
		t.Fatal("no account has its home on the first member")
	}
	rounds := 4
	if soak() {
		rounds = 40
	}
	var logins, outs []time.Duration
	for n := range rounds {
		victim.Kill()
		killed := time.Now()
		if n%2 == 1 {
			front.awaitMembers(t, fleetHost, imapState, "n1 down", "n2 up")
			outs = append(outs, time.Since(killed))
		}
		logins = append(logins, allLogIn(t, front, own, victim.HostName)...)
		if err := victim.Restart(); err != nil {
			t.Fatal(err)
		}
		front.awaitMembers(t, fleetHost, imapState, "n1 up", "n2 up")
	}
	if most := distribution(t, "from kill -9 to the login on another member", logins); most > 3*time.Second {
		t.Errorf("a login took %s", most)
	}
	if most := distribution(t, "from kill -9 to being out of service, without a session", outs); most > 4*time.Second {
		t.Errorf("the member was in service for %s", most) // three are meant; a busy machine adds its own
	}
}

// A member of a cluster freezes: it accepts, and says nothing. Logins wait for it as long as greeting_timeout says, and
// then go on to another member; after three of them nobody waits any more.
func TestClusterMemberFrozen(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, 24, false)
	front := f.front(t, 30, nil)
	front.awaitMembers(t, fleetHost, imapState, "n1 up", "n2 up")
	victim := f.Members[0]
	own := f.homes(t, front)[victim.HostName]
	rounds := 2
	if soak() {
		rounds = 20
	}
	var first, later, backs []time.Duration
	for range rounds {
		if err := victim.SignalGroup(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		first = append(first, allLogIn(t, front, own, victim.HostName)...)
		later = append(later, allLogIn(t, front, own, victim.HostName)...)
		if err := victim.SignalGroup(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		thawed := time.Now()
		eventually(t, "the member is back for its accounts", func() error {
			c, at, err := tryLogin(front.addr(), own[0])
			if err != nil {
				return err
			}
			defer c.Close()
			if at != victim.HostName {
				return fmt.Errorf("%s is on %s", own[0].Login, at)
			}
			return nil
		})
		backs = append(backs, time.Since(thawed))
	}
	if most := distribution(t, "login at a member that has just frozen", first); most > 6*time.Second {
		t.Errorf("a login took %s", most)
	}
	distribution(t, "the next login", later)
	distribution(t, "from SIGCONT to a login on the member", backs)
	if median := later[len(later)/2]; median > time.Second {
		t.Errorf("half of the logins still wait %s for a member that is known to hang", median)
	}
}

// allLogIn logs the accounts in at the same time, not one of them being refused, and returns how long each took.
func allLogIn(t testing.TB, front *frontend, accounts []stage.Account, not string) []time.Duration {
	t.Helper()
	took := make([]time.Duration, len(accounts))
	faults := make([]error, len(accounts))
	var work sync.WaitGroup
	for i, a := range accounts {
		work.Go(func() {
			var refused int
			took[i], refused, faults[i] = untilLoggedIn(t.Context(), front.addr(), a, not)
			if faults[i] == nil && refused > 0 {
				faults[i] = fmt.Errorf("%s was refused %d times", a.Login, refused)
			}
		})
	}
	work.Wait()
	for _, err := range faults {
		if err != nil {
			t.Error(err)
		}
	}
	return took
}

// Two frontends that know nothing of each other send every account to the same member; when one of four members is lost
// only its own accounts move.
func TestClusterFrontendsAgree(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0, 60, false)
	hosts := fmt.Sprintf("  %s: {members: [%s, %s, %s, {address: %s, weight: 2}], check: {mode: off}}", fleetHost,
		f.Net.IP(41), f.Net.IP(42), f.Net.IP(43), f.Net.IP(44))
	turned := fmt.Sprintf("  %s: {members: [{address: %s, weight: 2}, %s, %s, %s], check: {mode: off}}", fleetHost,
		f.Net.IP(44), f.Net.IP(43), f.Net.IP(42), f.Net.IP(41))
	one := f.front(t, 30, func(d *frontend) { d.Hosts = hosts })
	two := f.front(t, 31, func(d *frontend) { d.Hosts = turned })
	before := make(map[string]string)
	share := make(map[string]int)
	for _, a := range f.Accounts {
		before[a.Login] = one.chosen(t, a.Login)
		share[before[a.Login]]++
		if other := two.chosen(t, a.Login); other != before[a.Login] {
			t.Errorf("%s is on %s by one frontend and on %s by the other", a.Login, before[a.Login], other)
		}
	}
	lost := f.Net.IP(42)
	one.command(t, "withdraw", lost)
	moved, strayed := 0, 0
	for _, a := range f.Accounts {
		switch now := one.chosen(t, a.Login); {
		case now == before[a.Login]:
		case before[a.Login] == lost:
			moved++
		default:
			strayed++
		}
	}
	t.Logf("%d accounts on %v; losing %s moved %d, and %d of other members", len(f.Accounts), share, lost, moved, strayed)
	if moved != share[lost] || strayed > 0 || moved == 0 {
		t.Errorf("%d accounts moved and %d strayed, want the %d of the lost member", moved, strayed, share[lost])
	}
}
