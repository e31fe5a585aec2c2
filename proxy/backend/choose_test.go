package backend

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// cluster is a host of n members, with weights if given.
func cluster(sticky string, weights ...int) Config {
	row := HostConfig{Sticky: sticky}
	for i := range weights {
		row.Members = append(row.Members, MemberConfig{Address: fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), Weight: &weights[i]})
	}
	return Config{Hosts: map[string]HostConfig{"east": row}}
}

// choose picks a member that has to be there.
func choose(t testing.TB, h *Host, service, key string) *Member {
	t.Helper()
	m, err := h.Choose(service, key, nil)
	if err != nil {
		t.Fatalf("Choose(%s, %s): %v", service, key, err)
	}
	return m
}

// down makes a service of a member be down by the checks.
func down(m *Member, service string) {
	i, _ := serviceIndex(service)
	for range m.settings.Load().Check.Fall {
		m.checkDone(i, errors.New("connection refused"), 0)
	}
}

// up makes it be up again.
func up(m *Member, service string) {
	i, _ := serviceIndex(service)
	for range m.settings.Load().Check.Rise {
		m.checkDone(i, nil, time.Millisecond)
	}
}

func TestLosingAMemberMovesOnlyItsShare(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(1, 5), 2, 12).Draw(rt, "weights")
		lost := rapid.IntRange(0, len(weights)-1).Draw(rt, "lost")
		h := host(t, table(t, cluster("hash", weights...), Options{}), "east")
		const accounts = 300
		before := make(map[string]*Member)
		for i := range accounts {
			key := fmt.Sprintf("%s%d@example.com", rapid.StringMatching(`[a-z]{1,8}`).Draw(rt, "name"), i)
			before[key] = choose(t, h, "imap", key)
		}
		gone := h.Members()[lost]
		down(gone, "imap")
		for key, was := range before {
			now := choose(t, h, "imap", key)
			if was != gone && now != was {
				rt.Fatalf("%s moved from %s to %s although %s was lost", key, was, now, gone)
			}
			if now == gone {
				rt.Fatalf("%s is still sent to %s", key, gone)
			}
		}
		up(gone, "imap")
		for key, was := range before {
			if now := choose(t, h, "imap", key); now != was {
				rt.Fatalf("%s is on %s after the return of %s, was on %s", key, now, gone, was)
			}
		}
	})
}

// TestFrontendsAgree makes tables on their own, with the members in another order: they have to come to the same member.
func TestFrontendsAgree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(0, 9), 2, 16).Draw(rt, "weights")
		weights[0] = 1 // somebody has to serve
		cfg := cluster("hash", weights...)
		one := host(t, table(t, cfg, Options{}), "east")
		row := cfg.Hosts["east"]
		row.Members = rapid.Permutation(row.Members).Draw(rt, "order")
		other := host(t, table(t, Config{Hosts: map[string]HostConfig{"EAST": row}}, Options{}), "east")
		for range 50 {
			key := rapid.String().Draw(rt, "key")
			if a, b := choose(t, one, "imap", key), choose(t, other, "pop3", key); a.Name() != b.Name() {
				rt.Fatalf("%q: one frontend says %s, the other %s", key, a, b)
			}
		}
	})
}

// TestTheHashIsWhatItWas pins the choice: frontends of different versions serve side by side during an upgrade.
func TestTheHashIsWhatItWas(t *testing.T) {
	h := host(t, table(t, cluster("hash", 1, 1, 1, 1), Options{}), "east")
	weighted := host(t, table(t, cluster("hash", 1, 2, 3, 4), Options{}), "east")
	var got []string
	for _, key := range []string{"ann@example.com", "bob@example.com", "carol@example.org", "dave", "zoë@example.com", ""} {
		got = append(got, choose(t, h, "imap", key).Name()[7:], choose(t, weighted, "imap", key).Name()[7:])
	}
	want := []string{"2", "4", "4", "4", "2", "2", "4", "4", "1", "1", "2", "2"}
	if !slices.Equal(got, want) {
		t.Errorf("members are %q, were %q", got, want)
	}
}

func TestSharesFollowTheWeights(t *testing.T) {
	weights := []int{1, 2, 3, 4, 0}
	h := host(t, table(t, cluster("hash", weights...), Options{}), "east")
	const accounts = 50000
	count := make(map[string]int)
	for i := range accounts {
		count[choose(t, h, "imap", fmt.Sprintf("user%d@example.com", i)).Name()]++
	}
	for i, m := range h.Members() {
		share := float64(count[m.Name()]) / accounts
		want := float64(weights[i]) / 10
		t.Logf("weight %d: %.4f of the accounts, %.4f by weight", weights[i], share, want)
		if math.Abs(share-want) > 0.01 {
			t.Errorf("%s has %.4f of the accounts, want %.4f", m, share, want)
		}
	}
}

// TestABreakerIsProbedByItsOwnAccounts: the others serve, and now and then one session finds out whether its home works
// again, because no check can tell.
func TestABreakerIsProbedByItsOwnAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := host(t, table(t, cluster("hash", 1, 1, 1), Options{}), "east")
		home := choose(t, h, "imap", "ann")
		for range 3 {
			home.Failed("imap", errors.New("no answer to LOGIN"))
		}
		away := choose(t, h, "imap", "ann")
		if away == home || choose(t, h, "pop3", "ann") != away {
			t.Fatal("the services of the account's mailbox are not on one other member")
		}
		probes := 0
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			switch choose(t, h, "imap", "ann") {
			case home:
				probes++
				home.Failed("imap", errors.New("no answer to LOGIN"))
			case away:
			default:
				t.Fatal("the account is on a third member")
			}
		}
		if probes < 4 || probes > 6 {
			t.Errorf("%d of 600 sessions went home in a minute, want about 5: after 1, 3, 7, 15, 31 seconds", probes)
		}
	})
}

// TestWhatLosingOneOfFourMoves prints the figures: a quarter moves, spread over the three that are left.
func TestWhatLosingOneOfFourMoves(t *testing.T) {
	h := host(t, table(t, cluster("hash", 1, 1, 1, 1), Options{}), "east")
	const accounts = 50000
	before := make([]*Member, accounts)
	for i := range before {
		before[i] = choose(t, h, "imap", fmt.Sprintf("user%d@example.com", i))
	}
	lost := h.Members()[1]
	down(lost, "imap")
	moved, to := 0, make(map[*Member]int)
	for i, was := range before {
		if now := choose(t, h, "imap", fmt.Sprintf("user%d@example.com", i)); now != was {
			moved++
			to[now]++
		}
	}
	t.Logf("%.2f%% moved, to the others %d, %d, %d", 100*float64(moved)/accounts, to[h.Members()[0]], to[h.Members()[2]], to[h.Members()[3]])
	if share := float64(moved) / accounts; share < 0.24 || share > 0.26 {
		t.Errorf("%.4f of the accounts moved, want a quarter", share)
	}
	for m, n := range to {
		if n < moved*30/100 || n > moved*37/100 {
			t.Errorf("%s got %d of %d that moved, want a third", m, n, moved)
		}
	}
}

func TestServicesOfAMailboxMoveTogether(t *testing.T) {
	h := host(t, table(t, cluster("hash", 1, 1, 1), Options{}), "east")
	key := "ann@example.com"
	home := choose(t, h, "imap", key)
	down(home, "lmtp")
	away := choose(t, h, "imap", key)
	if away == home || choose(t, h, "lmtp", key) != away || choose(t, h, "pop3", key) != away {
		t.Error("LMTP is down on a member, and IMAP and LMTP of an account do not go to the same other one")
	}
	if choose(t, h, "submission", key) != home {
		t.Error("submission opens no mailbox and does not have to move")
	}
	for _, m := range h.Members() {
		if m != home {
			down(m, "lmtp")
		}
	}
	if choose(t, h, "imap", key) != home {
		t.Error("LMTP is down everywhere, and IMAP does not go home")
	}
	down(home, "imap")
	if choose(t, h, "imap", key) == home {
		t.Error("IMAP counts for more than LMTP: a member without it is not better than one without LMTP")
	}
}

func TestPriorities(t *testing.T) {
	cfg := cluster("hash", 1, 1, 1)
	cfg.Hosts["east"].Members[2].Priority = 1
	h := host(t, table(t, cfg, Options{}), "east")
	reserve := h.Members()[2]
	for i := range 100 {
		if choose(t, h, "imap", fmt.Sprint(i)) == reserve {
			t.Fatal("the reserve serves while the others do")
		}
	}
	down(h.Members()[0], "imap")
	down(h.Members()[1], "imap")
	if choose(t, h, "imap", "ann") != reserve {
		t.Error("the reserve does not serve when the others are down")
	}
}

func TestTriedMembersAreLeftOut(t *testing.T) {
	for _, sticky := range []string{"hash", "none"} {
		h := host(t, table(t, cluster(sticky, 1, 1, 1), Options{}), "east")
		var tried Tried
		for n := range 3 {
			m, err := h.Choose("imap", "ann", &tried)
			if err != nil {
				t.Fatal(err)
			}
			if tried.Len() != n || slices.Contains(tried.members, m) {
				t.Fatalf("%s: %s was tried before", sticky, m)
			}
			tried.Add(m, errors.New("connection refused"))
		}
		if _, err := h.Choose("imap", "ann", &tried); !errors.Is(err, ErrNoMember) {
			t.Errorf("%s: %v after all were tried, want ErrNoMember", sticky, err)
		}
	}
}

func TestABusyMemberKeepsItsAccounts(t *testing.T) {
	h := host(t, table(t, cluster("hash", 1, 1), Options{}), "east")
	var tried Tried
	tried.Add(choose(t, h, "imap", "ann"), fmt.Errorf("connect: %w", ErrBusy))
	if _, err := h.Choose("imap", "ann", &tried); !errors.Is(err, ErrBusy) || !errors.Is(err, ErrNoMember) {
		t.Errorf("Choose after ErrBusy: %v, want no other member", err)
	}
}

func TestFewestSessionsByWeight(t *testing.T) {
	h := host(t, table(t, cluster("none", 1, 3), Options{}), "east")
	for i := range 400 {
		choose(t, h, "imap", fmt.Sprint(i)).Opened("imap")
	}
	one, three := h.Members()[0].Sessions(), h.Members()[1].Sessions()
	if one < 99 || one > 101 || one+three != 400 {
		t.Errorf("%d and %d sessions, want 100 and 300", one, three)
	}
	for range three {
		h.Members()[1].Closed("imap")
	}
	if m := choose(t, h, "imap", "ann"); m != h.Members()[1] {
		t.Errorf("%s is chosen, not the one without sessions", m)
	}
}

// TestAnOutageOfAllEndsByItself: all members are down and no check runs; a session a time finds out.
func TestAnOutageOfAllEndsByItself(t *testing.T) {
	for _, sticky := range []string{"hash", "none"} {
		synctest.Test(t, func(t *testing.T) {
			h := host(t, table(t, cluster(sticky, 1, 1), Options{}), "east")
			for _, m := range h.Members() {
				down(m, "imap")
			}
			let := 0
			for range 600 { // a minute, ten logins a second
				time.Sleep(100 * time.Millisecond)
				if _, err := h.Choose("imap", "ann", nil); err == nil {
					let++
				} else if !errors.Is(err, ErrNoMember) {
					t.Fatal(err)
				}
			}
			most := 33 // one in two seconds, of one member; with sticky: none of either
			if sticky == "none" {
				most *= 2
			}
			if let < most*8/10 || let > most {
				t.Errorf("%s: %d of 600 sessions were let through, want about %d", sticky, let, most)
			}
			m, err := h.Choose("imap", "ann", nil)
			for err != nil {
				time.Sleep(100 * time.Millisecond)
				m, err = h.Choose("imap", "ann", nil)
			}
			m.Succeeded("imap", time.Millisecond)
			m.Succeeded("imap", time.Millisecond)
			if got := choose(t, h, "imap", "ann"); got != m || !m.Available("imap") {
				t.Errorf("%s: %s is chosen after sessions succeeded on %s", sticky, got, m)
			}
		})
	}
}

func TestExplainChangesNothing(t *testing.T) {
	h := host(t, table(t, cluster("hash", 1, 1), Options{}), "east")
	home := choose(t, h, "imap", "ann")
	for _, m := range h.Members() {
		down(m, "imap")
		m.mu.Lock()
		m.health[imap].probeAt = time.Time{}
		m.mu.Unlock()
	}
	for range 3 {
		x, err := h.Explain("imap", "ann")
		if err != nil || x.Chosen != home.Name() || x.Why != whyProbe || x.Members[0].State != "is down: connection refused" {
			t.Fatalf("Explain: %+v, %v", x, err)
		}
	}
	if _, err := h.Choose("imap", "ann", nil); err != nil {
		t.Errorf("the session that may find out was used up: %v", err)
	}
	if _, err := h.Explain("http", "ann"); !errors.Is(err, ErrService) {
		t.Errorf("Explain of a service that is none: %v", err)
	}
}

func TestChooseAllocatesNothing(t *testing.T) {
	for _, n := range []int{1, 4, 16} {
		for _, sticky := range []string{"hash", "none"} {
			weights := slices.Repeat([]int{2}, n)
			h := host(t, table(t, cluster(sticky, weights...), Options{}), "east")
			allocs := testing.AllocsPerRun(100, func() {
				if _, err := h.Choose("imap", "ann@example.com", nil); err != nil {
					t.Fatal(err)
				}
			})
			if allocs != 0 {
				t.Errorf("%s of %d members: %.0f allocations", sticky, n, allocs)
			}
		}
	}
}

func BenchmarkChoose(b *testing.B) {
	for _, n := range []int{1, 4, 16} {
		for _, sticky := range []string{"hash", "none"} {
			b.Run(fmt.Sprintf("%s/%d", sticky, n), func(b *testing.B) {
				h := host(b, table(b, cluster(sticky, slices.Repeat([]int{1}, n)...), Options{}), "east")
				b.ReportAllocs()
				for b.Loop() {
					if _, err := h.Choose("imap", "ann@example.com", nil); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
