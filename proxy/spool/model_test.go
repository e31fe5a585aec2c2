package spool

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// step is one thing that happens to a queue and its surroundings.
type step struct {
	Kind string
	N    int
	M    int
}

var stepKinds = []string{"accept", "accept", "accept", "down", "up", "wake", "move", "directory", "hold", "release", "delete", "retry", "sleep", "sleep", "clock", "restart"}

// Whatever happens in whatever order, each message arrives once in each mailbox in the end, except what the operator
// deleted; the books agree with the disk.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{rapid.SampledFrom(stepKinds).Draw(rt, "kind"), rapid.IntRange(0, 2).Draw(rt, "n"), rapid.IntRange(0, 2).Draw(rt, "m")}
		}), 1, 25).Draw(rt, "steps")
		dir, err := os.MkdirTemp("", "model")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		var faults []string
		synctest.Test(t, func(t *testing.T) { faults = play(t, dir, steps) })
		if len(faults) > 0 {
			rt.Fatal(strings.Join(faults, "\n"))
		}
	})
}

// play runs the steps, lets everything come right, and says what is wrong then.
func play(t *testing.T, dir string, steps []step) (faults []string) {
	accounts, hosts := []string{"a@x", "b@x", "c@x"}, []string{"h0", "h1", "h2"}
	w := newWorld()
	w.homes["a@x"], w.homes["b@x"], w.homes["c@x"] = "h0", "h1", "h1"
	var set atomic.Int64 // how far the wall clock was set
	open := func() *rig {
		return start(t, testConfig(dir), w, func(s *Spool) {
			s.cap = 3
			s.now = func() time.Time { return time.Now().Add(time.Duration(set.Load())).Round(0) }
		})
	}
	r := open()
	want := make(map[string][]string) // body → recipients
	ids := []string{}
	maybe := make(map[string]bool) // deleted by the operator
	body := make(map[string]string)
	check := func(what string, _ Result, err error) {
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s: %v", what, err))
		}
	}
	for i, s := range steps {
		account, host := accounts[s.N], hosts[s.M]
		switch s.Kind {
		case "accept":
			e := &Envelope{Tried: s.M == 0}
			for _, a := range accounts[:s.N+1] {
				e.To = append(e.To, Recipient{Address: a, Host: hosts[s.M]})
			}
			b := fmt.Sprintf("message %d", i)
			id := r.accept(t, e, b)
			ids, body[id], want[b] = append(ids, id), b, accounts[:s.N+1]
		case "down":
			w.set(func() { w.down[host] = true })
		case "up":
			w.set(func() { w.down[host] = false })
		case "wake":
			r.Wake(host)
		case "move":
			w.set(func() { w.homes[account] = host })
			r.WakeAccount(account)
		case "directory":
			w.set(func() { w.homes[account] = "" })
		case "hold":
			res, err := r.Hold(t.Context(), Filter{Recipient: account})
			check("hold", res, err)
		case "release":
			res, err := r.Release(t.Context(), Filter{Recipient: account})
			check("release", res, err)
		case "retry":
			res, err := r.Retry(t.Context(), Filter{Host: host})
			check("retry", res, err)
		case "delete":
			if len(ids) > 0 {
				id := ids[(s.N*3+s.M)%len(ids)]
				res, err := r.Delete(t.Context(), Filter{IDs: []string{id}})
				check("delete", res, err)
				maybe[body[id]] = maybe[body[id]] || res.Changed > 0
			}
		case "sleep":
			time.Sleep([]time.Duration{time.Millisecond, 10 * time.Second, time.Hour}[s.M])
		case "clock":
			set.Add(int64([]time.Duration{-300 * 24 * time.Hour, -time.Hour, 3 * time.Hour}[s.M]))
		case "restart":
			r.end()
			r = open()
		}
	}
	w.set(func() { clear(w.down); w.homes["a@x"], w.homes["b@x"], w.homes["c@x"] = "h0", "h1", "h2" })
	res, err := r.Release(t.Context(), Filter{})
	check("release", res, err)
	time.Sleep(3 * time.Hour) // longer than MaxRetry, whatever the clock did
	if st := r.Stats(); st.Messages != 0 || st.Bytes != 0 || st.Held != 0 || st.Quarantined != 0 {
		faults = append(faults, fmt.Sprintf("left at the end: %+v", st))
	}
	if left := files(t, dir); len(left) > 0 {
		faults = append(faults, fmt.Sprintf("files left at the end: %q", left))
	}
	r.end()
	for _, a := range accounts {
		got := w.box(a)
		slices.Sort(got)
		for b, to := range want {
			n := 0
			for _, g := range got {
				if g == b {
					n++
				}
			}
			least := 0
			if slices.Contains(to, a) && !maybe[b] {
				least = 1
			}
			if n < least || n > 1 {
				faults = append(faults, fmt.Sprintf("%s has %q %d times", a, b, n))
			}
		}
	}
	return faults
}
