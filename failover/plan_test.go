package failover

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"mailmux/directory"
)

func TestMoveDecides(t *testing.T) {
	to := []Target{{"B", 1}}
	for _, c := range []struct {
		plan  Plan
		r     directory.Record
		want  directory.Change
		leave string
	}{
		{&Move{From: "a", To: to}, directory.Record{DN: "x", Host: "A"}, directory.Change{DN: "x", From: "A", To: "B", OldTo: "A"}, ""},
		{&Move{From: "a", To: to}, directory.Record{DN: "x", Host: "A", OldHost: "o"}, directory.Change{DN: "x", From: "A", To: "B", OldFrom: "o", OldTo: "o"}, ""},
		{&Move{From: "a", To: to}, directory.Record{DN: "x", Host: "A", OldHost: "b"}, directory.Change{DN: "x", From: "A", To: "B", OldFrom: "b"}, ""},
		{&Move{From: "a", To: to}, directory.Record{DN: "x", Host: "c"}, directory.Change{}, "its home host is c"},
		{&Move{From: "a", To: to}, directory.Record{DN: "x"}, directory.Change{}, "it has no home host: mend the entry first"},
		{&Move{From: "a", To: to}, directory.Record{DN: "x", Host: "a", Several: true}, directory.Change{}, "it has several home hosts, or several original ones: mend the entry first"},
		{&Move{From: "a", To: to}, directory.Record{DN: "x\xff", Host: "a"}, directory.Change{}, "its DN is not UTF-8: mend the entry first"},
		{&Move{Original: "a", To: to}, directory.Record{DN: "x", Host: "c", OldHost: "A"}, directory.Change{DN: "x", From: "c", To: "B", OldFrom: "A", OldTo: "A"}, ""},
		{&Move{Original: "a", To: to}, directory.Record{DN: "x", Host: "b", OldHost: "A"}, directory.Change{}, "it is on B already"},
		{&Move{Original: "a", To: to}, directory.Record{DN: "x", Host: "c"}, directory.Change{}, "its original home host is none"},
		{&Restore{Host: "a"}, directory.Record{DN: "x", Host: "b", OldHost: "A"}, directory.Change{DN: "x", From: "b", To: "A", OldFrom: "A"}, ""},
		{&Restore{Host: "a"}, directory.Record{DN: "x", Host: "A", OldHost: "A"}, directory.Change{DN: "x", From: "A", To: "A", OldFrom: "A"}, ""},
		{&Restore{Host: "a", From: "c"}, directory.Record{DN: "x", Host: "b", OldHost: "A"}, directory.Change{}, "its home host is b"},
		{&Restore{Host: "a"}, directory.Record{DN: "x", Host: "b"}, directory.Change{}, "its original home host is none"},
	} {
		got, leave := c.plan.Decide(c.r)
		if got != c.want || leave != c.leave {
			t.Errorf("%+v of %+v: %+v, %q; want %+v, %q", c.plan, c.r, got, leave, c.want, c.leave)
		}
	}
}

// Over any number of moves the original home host is kept, and restore brings back exactly those who are away from it.
func TestTheOriginalHostSurvives(t *testing.T) {
	hosts := []string{"a", "B", "c", "D"}
	rapid.Check(t, func(t *rapid.T) {
		home := rapid.SampledFrom(hosts).Draw(t, "home")
		r := directory.Record{DN: "uid=x", Host: home}
		apply := func(p Plan) bool {
			c, leave := p.Decide(r)
			if leave != "" {
				return false
			}
			if c.From != r.Host || c.OldFrom != r.OldHost {
				t.Fatalf("%+v does not fit %+v", c, r)
			}
			r.Host, r.OldHost = c.To, c.OldTo
			return true
		}
		for range rapid.IntRange(0, 6).Draw(t, "moves") {
			from, to := rapid.SampledFrom(hosts).Draw(t, "from"), rapid.SampledFrom(hosts).Draw(t, "to")
			if from != to {
				apply(&Move{From: strings.ToUpper(from), To: []Target{{strings.ToLower(to), 1}}})
			}
		}
		away := !strings.EqualFold(r.Host, home)
		if away != (r.OldHost != "") || away && !strings.EqualFold(r.OldHost, home) {
			t.Fatalf("home %s: %+v", home, r)
		}
		for _, h := range hosts {
			if restored := apply(&Restore{Host: h}); restored && !strings.EqualFold(h, home) {
				t.Fatalf("restored to %s, which is not the home %s", h, home)
			}
		}
		if !strings.EqualFold(r.Host, home) || r.OldHost != "" {
			t.Fatalf("after restore: %+v, home %s", r, home)
		}
	})
}

func TestSharesFollowTheWeights(t *testing.T) {
	counts := map[string]int{}
	moved := 0
	const n = 30_000
	for i := range n {
		dn := fmt.Sprintf("uid=user%d,dc=x", i)
		host := choose([]Target{{"a", 2}, {"b", 1}}, dn)
		counts[host]++
		if host != choose([]Target{{"B", 1}, {"A", 2}}, strings.ToUpper(dn)) && !strings.EqualFold(host, choose([]Target{{"B", 1}, {"A", 2}}, strings.ToUpper(dn))) {
			t.Fatalf("%s: order or case matter", dn)
		}
		if third := choose([]Target{{"a", 2}, {"b", 1}, {"c", 1}}, dn); third != host && third != "c" {
			moved++
		}
	}
	if share := float64(counts["a"]) / n; math.Abs(share-2.0/3) > 0.015 {
		t.Errorf("weight 2 of 3 has a share of %.3f", share)
	}
	if moved > 0 {
		t.Errorf("a new target moved %d accounts between the old ones", moved)
	}
}

func TestParseTargets(t *testing.T) {
	got, err := ParseTargets("b=2, c")
	if err != nil || !slices.Equal(got, []Target{{"b", 2}, {"c", 1}}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "b,", "b=0", "b=-1", "b=x", "b=2x", "b,B", "=2"} {
		if got, err := ParseTargets(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}
