package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// storm is what happens to a claimSite: clients, and faults of every kind, at random.
type storm struct {
	*claimSite

	t      *testing.T
	random *rand.Rand
	ctx    context.Context
	busy   []sync.Mutex // by frontend: one fault at a time

	mu         sync.Mutex
	faults     map[string]int
	logins     int
	temporary  int
	deliveries int
	recovery   []time.Duration // from a member's kill to the next login of an account that was there
}

// The invariant: no account is ever connected to two members at once, whatever happens to members, frontends and the
// way to etcd. MAILMUX_CLAIMS_FOR is how long the storm lasts (make soak-claims), MAILMUX_CLAIMS_SEED repeats its choices.
func TestClaimInvariant(t *testing.T) {
	if testing.Short() {
		t.Skip("a storm of 30 seconds")
	}
	if n := weather(t, claimOptions{Members: 4, Fronts: 3}, stormLasts(t, 30*time.Second)); n > 0 {
		t.Errorf("%d violations", n)
	}
}

// stormLasts is how long a storm is to last: so long, or as MAILMUX_CLAIMS_FOR says.
func stormLasts(t *testing.T, short time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv("MAILMUX_CLAIMS_FOR")
	if text == "" {
		return short
	}
	lasts, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return lasts
}

// The same with three servers of etcd, of which the leader is killed or stopped again and again.
func TestClaimInvariantEtcdCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("a storm of 10 seconds")
	}
	if n := weather(t, claimOptions{Members: 3, Fronts: 3, Nodes: 3}, stormLasts(t, 10*time.Second)); n > 0 {
		t.Errorf("%d violations", n)
	}
}

// The same with the embedded etcd: the first frontend has it, and takes it with it when it dies.
func TestClaimInvariantEmbedded(t *testing.T) {
	if testing.Short() {
		t.Skip("a storm of 15 seconds")
	}
	if n := weather(t, claimOptions{Members: 3, Fronts: 3, Embedded: true}, 15*time.Second); n > 0 {
		t.Errorf("%d violations", n)
	}
}

// What the same storm does to sticky: hash, for comparison: measured, not wanted to be anything.
func TestClaimStormOverHash(t *testing.T) {
	if os.Getenv("MAILMUX_CLAIMS_FOR") == "" {
		t.Skip("measured by make soak-claims")
	}
	n := weather(t, claimOptions{Members: 4, Fronts: 3, Sticky: "hash"}, 30*time.Second)
	t.Logf("sticky: hash has %d violations in the same storm", n)
}

// weather lets a storm go over a site, and returns the number of violations.
func weather(t *testing.T, o claimOptions, lasts time.Duration) int {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("MAILMUX_CLAIMS_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("MAILMUX_CLAIMS_SEED=%d", seed)
	s := &storm{claimSite: newClaimSite(t, o), t: t, random: rand.New(rand.NewPCG(seed, 1)), faults: map[string]int{}, busy: make([]sync.Mutex, o.Fronts)}
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	s.ctx = ctx
	var people, faults sync.WaitGroup
	for i := range 16 {
		people.Go(func() { s.person(rand.New(rand.NewPCG(seed, uint64(100+i)))) })
	}
	s.strike()
	s.act(&faults)
	faults.Wait()
	people.Wait()
	s.calm()
	return s.report(lasts)
}

// person logs in again and again as one of all accounts, anywhere, stays a little, and goes in one way or another.
func (s *storm) person(r *rand.Rand) {
	for s.ctx.Err() == nil {
		a, f := s.Accounts[r.IntN(len(s.Accounts))], s.Fronts[r.IntN(len(s.Fronts))]
		if r.IntN(6) == 0 {
			_, err := f.deliver(a, 6*time.Second)
			s.count(func() {
				s.deliveries++
				if err != nil {
					s.temporary++
				}
			})
			continue
		}
		m, err := f.login(a, 6*time.Second)
		switch {
		case errors.Is(err, errTemporary):
			s.count(func() { s.temporary++ })
			_ = sleep(s.ctx, 50*time.Millisecond)
			continue
		case err != nil:
			s.t.Error(err)
			return
		}
		s.count(func() { s.logins++ })
		s.stay(r, m)
	}
}

func (s *storm) stay(r *rand.Rand, m *mail) {
	defer m.close()
	for range r.IntN(20) {
		if _, err := m.say("NOOP"); err != nil {
			return
		}
		if sleep(s.ctx, time.Duration(r.IntN(100))*time.Millisecond) != nil {
			return
		}
	}
	if r.IntN(2) == 0 {
		_, _ = m.say("LOGOUT") // the server may be gone
	}
}

func (s *storm) count(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// strike begins a storm: the member that has the most accounts is killed, so that even in a short one somebody has to move.
func (s *storm) strike() {
	_ = sleep(s.ctx, time.Second)
	there := map[string]int{}
	for _, a := range s.Accounts {
		for _, name := range s.Tally.Where(a.Login) {
			there[name]++
		}
	}
	busiest := 0
	for i, m := range s.Members {
		if there[m.Name] > there[s.Members[busiest].Name] {
			busiest = i
		}
	}
	s.killMember(busiest, 500*time.Millisecond)
	s.count(func() { s.faults["member killed"]++ })
}

// act chooses what happens next, until the end. At most one member is away, one frontend in trouble, and one server of
// several of etcd, at a time, so that there is always somebody to take an account over.
func (s *storm) act(work *sync.WaitGroup) {
	var member, front, leader sync.Mutex
	for sleep(s.ctx, time.Duration(200+s.random.IntN(600))*time.Millisecond) == nil {
		i, n := s.random.IntN(len(s.Members)), s.random.IntN(len(s.Fronts))
		most := claimLease + 3*time.Second
		if s.random.IntN(2) == 0 {
			most = time.Second
		}
		span := 200*time.Millisecond + time.Duration(s.random.Int64N(int64(most)))
		what, kind := s.random.IntN(10), &member
		run := s.memberFault(what, i, n, span)
		if what >= 5 {
			kind, run = &front, s.frontFault(what, n, span)
		}
		if len(s.Etcd) > 1 && s.random.IntN(2) == 0 {
			kind, run = &leader, s.leaderFault(what, min(span, 3*time.Second))
		}
		if !kind.TryLock() {
			continue
		}
		work.Go(func() {
			defer kind.Unlock()
			name := run()
			s.count(func() { s.faults[name]++ })
		})
	}
}

func (s *storm) memberFault(what, i, n int, span time.Duration) func() string {
	m, f := s.Members[i], s.Fronts[n]
	account, weight := s.Accounts[s.random.IntN(len(s.Accounts))], 1+s.random.IntN(4)
	ask := func(path string, body map[string]any) { _ = f.post(s.ctx, path, body) } // the frontend may be in trouble
	switch what {
	case 0:
		return func() string { s.killMember(i, span); return "member killed" }
	case 1:
		return func() string { m.Hang(); _ = sleep(s.ctx, span); m.Resume(); return "member hung" }
	case 2:
		return func() string {
			ask("/withdraw", map[string]any{"target": claimHost + "/" + m.Name, "evacuate": weight%2 == 0})
			_ = sleep(s.ctx, span/2)
			for _, f := range s.Fronts {
				_ = f.post(context.WithoutCancel(s.ctx), "/ready", map[string]any{"target": claimHost + "/" + m.Name})
			}
			return "member withdrawn"
		}
	case 3:
		return func() string {
			ask("/move", map[string]any{"account": account.Login, "member": m.Name})
			return "account moved"
		}
	}
	return func() string { s.reweigh(i, weight); return "weights changed" }
}

// killMember kills a member, measures how long its accounts take to log in elsewhere, and brings it back.
func (s *storm) killMember(i int, span time.Duration) {
	m := s.Members[i]
	var there []int
	for k, a := range s.Accounts {
		if slices.Contains(s.Tally.Where(a.Login), m.Name) {
			there = append(there, k)
		}
	}
	m.Kill()
	killed := time.Now()
	var logins sync.WaitGroup
	for _, k := range there {
		logins.Go(func() {
			for time.Since(killed) < 15*time.Second && s.ctx.Err() == nil {
				session, err := s.Fronts[k%len(s.Fronts)].login(s.Accounts[k], 6*time.Second)
				if err == nil {
					s.count(func() { s.recovery = append(s.recovery, time.Since(killed)) })
					session.close()
					return
				}
				_ = sleep(s.ctx, 20*time.Millisecond)
			}
		})
	}
	_ = sleep(s.ctx, span)
	logins.Wait()
	if err := m.Start(); err != nil {
		s.t.Errorf("bring a member back: %v", err)
	}
}

// reweigh changes a weight on all frontends, one after the other.
func (s *storm) reweigh(i, weight int) {
	s.mu.Lock()
	s.weights[i] = weight
	s.mu.Unlock()
	for n, f := range s.Fronts {
		s.mu.Lock()
		text := s.config(n, f)
		s.mu.Unlock()
		if err := f.Configure(text); err != nil {
			s.t.Error(err)
		}
		if s.busy[n].TryLock() {
			_ = f.Signal(syscall.SIGHUP)
			s.busy[n].Unlock()
		}
	}
}

func (s *storm) frontFault(what, n int, span time.Duration) func() string {
	f := s.Fronts[n]
	locked := func(name string, run func()) func() string {
		return func() string {
			s.busy[n].Lock()
			defer s.busy[n].Unlock()
			run()
			return name
		}
	}
	if what >= 8 && f.Link == nil {
		return locked("frontend stopped briefly", func() {
			_ = f.Signal(syscall.SIGSTOP)
			_ = sleep(s.ctx, 300*time.Millisecond)
			_ = f.Signal(syscall.SIGCONT)
		})
	}
	switch what {
	case 5:
		return locked("frontend killed", func() {
			f.Kill()
			_ = sleep(s.ctx, span/4)
			if err := f.Restart(); err != nil {
				s.t.Errorf("start a frontend again: %v", err)
			}
		})
	case 6, 7:
		return locked("frontend stopped", func() {
			_ = f.Signal(syscall.SIGSTOP)
			_ = sleep(s.ctx, span)
			_ = f.Signal(syscall.SIGCONT)
			_ = sleep(s.ctx, 500*time.Millisecond)
		})
	case 8:
		return locked("link cut", func() { s.unlink(f, span, false) })
	}
	return locked("link swallows", func() { s.unlink(f, span, true) })
}

// leaderFault takes the leader of etcd away for a while.
func (s *storm) leaderFault(what int, span time.Duration) func() string {
	return func() string {
		e := leaderOf(s.ctx, s.Etcd)
		switch {
		case e == nil:
			return "no leader"
		case what%2 == 0:
			_ = e.Signal(syscall.SIGSTOP)
			_ = sleep(s.ctx, span)
			_ = e.Signal(syscall.SIGCONT)
			return "leader stopped"
		}
		e.Kill()
		_ = sleep(s.ctx, span)
		if err := e.start(); err != nil {
			s.t.Errorf("start etcd again: %v", err)
		}
		return "leader killed"
	}
}

// unlink takes the way to etcd away.
func (s *storm) unlink(f *claimFront, span time.Duration, swallow bool) {
	if swallow {
		f.Link.Swallow()
	} else {
		f.Link.Cut()
	}
	_ = sleep(s.ctx, span)
	f.Link.Mend()
	_ = sleep(s.ctx, 500*time.Millisecond)
}

// calm checks that after the storm every account logs in again, from everywhere.
func (s *storm) calm() {
	for _, f := range s.Fronts {
		f.awaitClaimsOrHash(s.t, s.sticky)
	}
	for i, a := range s.Accounts {
		for range 100 {
			m, err := s.Fronts[i%len(s.Fronts)].login(a, 12*time.Second)
			if err == nil {
				m.close()
				break
			}
			if !errors.Is(err, errTemporary) {
				s.t.Error(err)
				break
			}
			time.Sleep(50 * time.Millisecond) // a client's pause between two tries
		}
	}
}

func (f *claimFront) awaitClaimsOrHash(t testing.TB, sticky string) {
	t.Helper()
	if sticky == "claim" {
		f.awaitClaims(t, 30*time.Second)
	}
}

// report prints what happened, and returns the number of violations.
func (s *storm) report(lasts time.Duration) int {
	sum := s.Tally.Summary()
	var faults []string
	for _, name := range slices.Sorted(maps.Keys(s.faults)) {
		faults = append(faults, fmt.Sprintf("%s %d", name, s.faults[name]))
	}
	s.t.Logf("%s of storm over %d frontends and %d members: %s", lasts, len(s.Fronts), len(s.Members), strings.Join(faults, ", "))
	s.t.Logf("%d logins and %d deliveries by clients, %d temporary refusals; %d logins at members, %d of them elsewhere than before",
		s.logins, s.deliveries, s.temporary, sum.Logins, sum.Moves)
	lost := 0
	for _, f := range s.Fronts {
		if text, err := os.ReadFile(f.Log); err == nil {
			lost += strings.Count(string(text), `msg="lease lost`)
		}
	}
	s.t.Logf("leases lost by frontends that lived: %d", lost)
	s.t.Logf("violations: %d", len(sum.Violations))
	if s.sticky == "claim" {
		for _, v := range sum.Violations {
			s.t.Log(v)
		}
	}
	slices.Sort(s.recovery)
	if n := len(s.recovery); n > 0 {
		at := func(share float64) time.Duration {
			return s.recovery[min(n-1, int(share*float64(n)))].Round(time.Millisecond)
		}
		s.t.Logf("from a member's kill to the next login of an account that was there (%d): 50%% within %s, 90%% %s, 99%% %s, at most %s",
			n, at(0.5), at(0.9), at(0.99), s.recovery[n-1].Round(time.Millisecond))
	}
	if s.logins == 0 || sum.Moves == 0 {
		s.t.Error("nobody logged in, or no account ever moved: nothing was tested")
	}
	return len(sum.Violations)
}
