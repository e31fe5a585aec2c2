package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// usage is what the daemon holds.
type usage struct {
	descriptors int
	goroutines  float64
	heap        float64 // bytes in use behind a collection
}

func (u usage) String() string {
	return fmt.Sprintf("%d descriptors, %.0f goroutines, %.1f MiB of heap", u.descriptors, u.goroutines, u.heap/(1<<20))
}

func (d *daemon) usage(t testing.TB) usage {
	t.Helper()
	// The profile of the heap collects garbage first.
	for range 2 {
		if _, err := d.Get(t.Context(), "/debug/pprof/heap?gc=1"); err != nil {
			t.Fatal(err)
		}
	}
	m, err := d.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n, err := d.Descriptors()
	if err != nil {
		t.Fatal(err)
	}
	u := usage{descriptors: n, goroutines: m["go_goroutines"], heap: m["go_memstats_heap_inuse_bytes"]}
	if u.goroutines == 0 || u.heap == 0 {
		t.Fatal("/metrics has no go_goroutines or go_memstats_heap_inuse_bytes")
	}
	return u
}

// idleSessions is how many sessions the limit on open files admits, with two descriptors each in the daemon and two
// here, for the client and the member.
func idleSessions(t testing.TB) int {
	t.Helper()
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	n := 9000
	if most := (int(lim.Cur) - 1500) / 2; most < n {
		t.Logf("the limit of %d open files admits only %d sessions instead of %d", lim.Cur, most, n)
		n = most
	}
	if testing.Short() {
		n = min(n, 1000)
	}
	return n
}

// Thousands of idle sessions are held with two descriptors each, all of them answer still, and when they are gone
// descriptors, goroutines and memory are back to where they were.
func TestIdleSessions(t *testing.T) {
	w := world(t)
	n := idleSessions(t)
	members := []string{w.Net.IP(stage.HostClient + 60), w.Net.IP(stage.HostClient + 61)}
	rows := ""
	for i, ip := range members {
		scripted(t, ip+":10143", idleMember)
		rows += fmt.Sprintf("  idle%d.example.com: {members: [%s], check: {mode: off}}\n", i, ip)
	}
	// Two accounts are enough: the limit by account is high.
	logins := []string{"idle0@example.com", "idle1@example.com"}
	var accounts []stage.Account
	for i, l := range logins {
		accounts = append(accounts, stage.Account{Login: l, Password: stage.FakePassword, Host: fmt.Sprintf("idle%d.example.com", i)})
	}
	d := ownDaemon(t, w, func(s *setup) {
		s.Hosts = rows
		s.Servers = "ldif:" + writeLDIF(t, s.Dir, accounts...)
	})
	for _, l := range logins { // what the first login builds up stays for good
		hold(t, d, l, 1, nil)
	}
	settled(t, d, usage{})
	before := d.usage(t)
	var during usage
	began := time.Now()
	hold(t, d, "", n, func(held int) {
		during = d.usage(t)
		t.Logf("%d sessions logged in after %s", held, time.Since(began).Round(time.Millisecond))
	}, logins...)
	if want := before.descriptors + 2*n + 50; during.descriptors > want {
		t.Errorf("%d sessions take %d descriptors, more than two each", n, during.descriptors-before.descriptors)
	}
	after := settled(t, d, before)
	t.Logf("before: %s", before)
	t.Logf("during: %s: %.2f KiB of heap a session", during, (during.heap-before.heap)/1024/float64(n))
	t.Logf("after:  %s", after)
	if after.heap > before.heap*1.5+8<<20 {
		t.Errorf("the heap does not come back: %s, then %s", before, after)
	}
}

// settled waits until the daemon's descriptors and goroutines are back to those of before, and returns what it holds.
func settled(t testing.TB, d *daemon, before usage) usage {
	t.Helper()
	var now usage
	if before == (usage{}) {
		eventually(t, "no session left", func() error {
			m, err := d.Metrics(t.Context())
			if err != nil {
				return err
			}
			for name, v := range m {
				if len(name) > 16 && name[:16] == "mailmux_sessions" && name[len(name)-1] == '}' && v != 0 && !isCounter(name) {
					return fmt.Errorf("%s is %v", name, v)
				}
			}
			return nil
		})
		return now
	}
	eventually(t, "descriptors and goroutines back to where they were", func() error {
		now = d.usage(t)
		if now.descriptors > before.descriptors+10 || now.goroutines > before.goroutines+10 {
			return fmt.Errorf("%s; before: %s", now, before)
		}
		return nil
	})
	return now
}

func isCounter(name string) bool {
	for i := range len(name) {
		if name[i] == '{' {
			return i > 6 && name[i-6:i] == "_total"
		}
	}
	return false
}

// hold logs in n sessions, calls during while all are held, asks each of them for a sign of life, and ends them.
func hold(t testing.TB, d *daemon, login string, n int, during func(int), logins ...string) {
	t.Helper()
	if login != "" {
		logins = []string{login}
	}
	conns := make([]*talk.Conn, n)
	var failed atomic.Int64
	each := func(do func(i int) error) {
		var wg sync.WaitGroup
		for worker := range 32 {
			wg.Go(func() {
				for i := worker; i < n; i += 32 {
					if err := do(i); err != nil && failed.Add(1) <= 3 {
						t.Errorf("session %d: %v", i, err)
					}
				}
			})
		}
		wg.Wait()
		if failed.Load() > 0 {
			t.Fatalf("%d of %d sessions failed", failed.Load(), n)
		}
	}
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	each(func(i int) error {
		c, err := talk.Dial(talk.IMAP, d.addr(talk.IMAP, talk.Plain), talk.Options{Source: d.W.Net.IP(stage.HostClient + 70 + i%50)})
		if err != nil {
			return err
		}
		conns[i] = c
		r, err := c.Login(talk.Command, logins[i%len(logins)], stage.FakePassword)
		if err == nil && !r.OK {
			err = &refusal{r.Final}
		}
		return err
	})
	if during != nil {
		during(n)
	}
	each(func(i int) error {
		r, err := conns[i].Command("NOOP")
		if err == nil && !r.OK {
			err = &refusal{r.Final}
		}
		return err
	})
}

// idleMember is a backend that takes every login and answers every command with OK.
func idleMember(conn net.Conn) {
	if _, err := io.WriteString(conn, "* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ ID AUTH=PLAIN] idle ready.\r\n"); err != nil {
		return
	}
	r := bufio.NewReaderSize(conn, 512)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		tag := line
		for i := range len(line) {
			if line[i] == ' ' {
				tag = line[:i]
				break
			}
		}
		if _, err := io.WriteString(conn, tag+" OK [CAPABILITY IMAP4rev1 IDLE] done\r\n"); err != nil {
			return
		}
	}
}
