package integration

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"mailmux/integration/tally"
)

// An account has one member on all frontends: its sessions and its mail go there from wherever they come.
func TestClaimIsSharedByFrontends(t *testing.T) {
	s := newClaimSite(t, claimOptions{Members: 4, Fronts: 3})
	for _, a := range s.Accounts[:6] {
		var at string
		for _, f := range s.Fronts {
			m, err := f.login(a, 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer m.close()
			if at == "" {
				at = m.member
			}
			if m.member != at {
				t.Errorf("%s is at %s and at %s", a.Login, at, m.member)
			}
		}
		answer, err := s.Fronts[1].deliver(a, 5*time.Second)
		if err != nil || !strings.Contains(answer, at+" has it") {
			t.Errorf("mail for %s, who is at %s: %s %v", a.Login, at, answer, err)
		}
	}
	noViolations(t, s.Tally)
}

// move sends an account with sessions on all frontends elsewhere; lookup says where it is, and who holds it.
func TestClaimMoves(t *testing.T) {
	s := newClaimSite(t, claimOptions{Members: 3, Fronts: 2})
	a := s.Accounts[0]
	first, err := s.Fronts[0].login(a, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer first.close()
	second, err := s.Fronts[1].login(a, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer second.close()
	out, code, err := s.Fronts[0].Run(t.Context(), "lookup", a.Login)
	if err != nil || code != 0 || !strings.Contains(out, claimHost+"/"+first.member) || !strings.Contains(out, "f1.example.com, f2.example.com") &&
		!strings.Contains(out, "f2.example.com, f1.example.com") {
		t.Errorf("lookup shows no claim of both: %d %v\n%s", code, err, out)
	}
	to := "n1"
	if first.member == to {
		to = "n2"
	}
	if out, code, err := s.Fronts[1].Run(t.Context(), "move", a.Login, to); err != nil || code != 0 {
		t.Fatalf("move: %d %v\n%s", code, err, out)
	}
	for _, m := range []*mail{first, second} {
		if line, err := m.lines.ReadString('\n'); err == nil {
			t.Errorf("a session at the old member goes on: %s", line)
		}
	}
	for _, f := range s.Fronts {
		m, err := f.login(a, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer m.close()
		if m.member != to {
			t.Errorf("%s was moved to %s and is at %s", a.Login, to, m.member)
		}
	}
	noViolations(t, s.Tally)
}

// A reload that gives a member's name to another server: the account's sessions at the old one are closed before it logs
// in at the new one, by claim and by hash.
func TestClaimOfAnotherServerByTheSameName(t *testing.T) {
	for _, sticky := range []string{"claim", "hash"} {
		t.Run(sticky, func(t *testing.T) {
			s := newClaimSite(t, claimOptions{Members: 2, Fronts: 1, Embedded: true, Sticky: sticky})
			f, a := s.Fronts[0], s.Accounts[0]
			first, err := f.login(a, 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer first.close()
			one, two := s.Net.IP(firstMember)+",", s.Net.IP(firstMember+1)+","
			if err := f.Configure(strings.NewReplacer(one, two, two, one).Replace(s.config(0, f))); err != nil {
				t.Fatal(err)
			}
			if out, code, err := f.Run(t.Context(), "reload"); err != nil || code != 0 {
				t.Fatalf("reload: %d %v\n%s", code, err, out)
			}
			second, err := f.login(a, 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer second.close()
			if second.member == first.member {
				t.Errorf("%s is at %s again", a.Login, second.member)
			}
			noViolations(t, s.Tally)
		})
	}
}

// A withdrawn member is withdrawn on every frontend, also on one that starts later; with evacuate its accounts leave.
func TestClaimWishesAreShared(t *testing.T) {
	s := newClaimSite(t, claimOptions{Members: 2, Fronts: 2})
	var held []*mail
	for i, a := range s.Accounts {
		m, err := s.Fronts[i%2].login(a, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer m.close()
		held = append(held, m)
	}
	if err := s.Fronts[0].post(t.Context(), "/withdraw", map[string]any{"target": claimHost + "/n1", "evacuate": true}); err != nil {
		t.Fatal(err)
	}
	for i, m := range held {
		if m.member != "n1" {
			continue
		}
		if line, err := m.lines.ReadString('\n'); err == nil {
			t.Errorf("a session at the evacuated member goes on: %s", line)
		}
		again, err := s.Fronts[(i+1)%2].login(s.Accounts[i], 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer again.close()
		if again.member != "n2" {
			t.Errorf("%s is at %s again", s.Accounts[i].Login, again.member)
		}
	}
	f := s.Fronts[1]
	f.Kill()
	if err := f.Restart(); err != nil {
		t.Fatal(err)
	}
	f.awaitClaims(t, 10*time.Second)
	out, _, err := f.Run(t.Context(), "status")
	if err != nil || !strings.Contains(out, "withdrawn") && !strings.Contains(out, "evacuating") {
		t.Errorf("the wish was forgotten by a restart: %v\n%s", err, out)
	}
	if err := f.post(t.Context(), "/ready", map[string]any{"target": claimHost + "/n1"}); err != nil {
		t.Fatal(err)
	}
	noViolations(t, s.Tally)
}

// A frontend that cannot reach etcd closes its sessions before its lease ends there, and refuses new ones for the time
// being. When the way is free again it serves.
func TestClaimFencesItself(t *testing.T) {
	s := newClaimSite(t, claimOptions{Members: 2, Fronts: 2})
	a := s.Accounts[0]
	f := s.Fronts[0]
	m, err := f.login(a, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	cut := time.Now()
	f.Link.Swallow()
	_ = m.conn.SetDeadline(time.Now().Add(20 * time.Second))
	if line, err := m.lines.ReadString('\n'); err == nil {
		t.Errorf("the session goes on: %s", line)
	}
	if took := time.Since(cut); took > claimLease {
		t.Errorf("the session was closed %s after the cut, the lease is %s", took, claimLease)
	} else {
		t.Logf("closed %s after the cut; the lease is %s, the margin %s", took.Round(time.Millisecond), claimLease, claimMargin)
	}
	if _, err := f.login(a, 15*time.Second); !errors.Is(err, errTemporary) {
		t.Errorf("a login without etcd: %v", err)
	}
	f.Link.Mend()
	f.awaitClaims(t, 20*time.Second)
	again, err := f.login(a, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	again.close()
	noViolations(t, s.Tally)
}

// A frontend that is stopped loses its sessions before others may have its accounts, and serves when it goes on.
func TestClaimOfAStoppedFrontend(t *testing.T) {
	s := newClaimSite(t, claimOptions{Members: 2, Fronts: 2})
	a := s.Accounts[0]
	f := s.Fronts[0]
	m, err := f.login(a, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	if err := f.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	for len(s.Tally.Where(a.Login)) > 0 && time.Since(stopped) < claimLease {
		time.Sleep(10 * time.Millisecond) // of the tally's clock, not of the frontend's
	}
	took := time.Since(stopped)
	if left := s.Tally.Where(a.Login); len(left) > 0 {
		t.Errorf("%s is still connected to %v when the lease may be over", a.Login, left)
	} else {
		t.Logf("disconnected %s after the stop; the lease is %s", took.Round(time.Millisecond), claimLease)
	}
	if err := s.Fronts[1].post(t.Context(), "/move", map[string]any{"account": a.Login, "member": other(m.member)}); err != nil {
		t.Fatal(err)
	}
	moved, err := s.Fronts[1].login(a, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer moved.close()
	if err := f.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	f.awaitClaims(t, 20*time.Second)
	again, err := f.login(a, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	again.close()
	if again.member != moved.member {
		t.Errorf("the frontend that was stopped goes to %s, the other one to %s", again.member, moved.member)
	}
	noViolations(t, s.Tally)
}

func other(member string) string {
	if member == "n1" {
		return "n2"
	}
	return "n1"
}

// With claims.on_outage: hash sessions go on without etcd.
func TestClaimOutageByHash(t *testing.T) {
	s := newClaimSite(t, claimOptions{Members: 2, Fronts: 1, Outage: "hash"})
	s.Fronts[0].Link.Cut()
	s.Fronts[0].await(t, 20*time.Second, "no lease", func(s claimState) bool { return s.Claims.State == "waiting" })
	m, err := s.Fronts[0].login(s.Accounts[0], 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	s.Fronts[0].Link.Mend()
	_ = m.conn.SetDeadline(time.Now().Add(20 * time.Second))
	if line, err := m.lines.ReadString('\n'); err == nil {
		t.Errorf("the session without a claim goes on when etcd is back: %s", line)
	}
}

// When the controller dies, another frontend decides in its place; a member that hangs is then given up by all.
func TestClaimControllerIsReplaced(t *testing.T) {
	s := newClaimSite(t, claimOptions{Members: 3, Fronts: 3})
	leader := -1
	deadline := time.Now().Add(10 * time.Second)
	for leader < 0 && time.Now().Before(deadline) {
		for i, f := range s.Fronts {
			if st, err := f.state(t.Context()); err == nil && st.Claims.Leading {
				leader = i
			}
		}
	}
	if leader < 0 {
		t.Fatal("nobody is the controller")
	}
	s.Fronts[leader].Kill()
	s.Members[0].Hang()
	for i, f := range s.Fronts {
		if i != leader {
			f.await(t, 20*time.Second, "the verdict", func(s claimState) bool { return len(s.Claims.Down) == 1 })
		}
	}
	for _, a := range s.Accounts {
		m, err := s.Fronts[(leader+1)%3].login(a, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if m.member == "n1" {
			t.Errorf("%s logs in to the member that hangs", a.Login)
		}
		m.close()
	}
	noViolations(t, s.Tally)
}

func noViolations(t testing.TB, l *tally.Tally) {
	t.Helper()
	sum := l.Summary()
	for _, v := range sum.Violations {
		t.Error(v)
	}
	t.Logf("%d logins, %d of them at another member than before, %d violations", sum.Logins, sum.Moves, len(sum.Violations))
}

// A claim is given back with the account's last session, and costs etcd nothing while there is one.
func TestClaimEndsWithTheLastSession(t *testing.T) {
	s := newClaimSite(t, claimOptions{Members: 2, Fronts: 1, Embedded: true})
	f := s.Fronts[0]
	requests := func() float64 {
		samples, err := f.Metrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return samples[`mailmux_claim_request_seconds_count{request="take"}`]
	}
	first, err := f.login(s.Accounts[0], 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	before := requests()
	var more []*mail
	for range 10 {
		m, err := f.login(s.Accounts[0], 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		more = append(more, m)
	}
	if n := requests() - before; n != 0 {
		t.Errorf("10 more sessions of an account took %v requests to etcd", n)
	}
	for _, m := range append(more, first) {
		m.close()
	}
	f.await(t, 5*time.Second, "no claim", func(s claimState) bool { return s.Claims.Accounts == 0 && s.Claims.Sessions == 0 })
}
