package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

var errRefused = errors.New("connection refused")

// one is the only member of a host, in a table that is not started.
func one(t testing.TB, settings Settings) *Member {
	t.Helper()
	cfg := Config{Hosts: map[string]HostConfig{"east": {Members: members("10.0.0.1"), Settings: settings}}}
	return host(t, table(t, cfg, Options{}), "east").Members()[0]
}

func TestRiseAndFall(t *testing.T) {
	m := one(t, Settings{})
	for n, c := range []struct {
		err  error
		want bool
	}{
		{errRefused, true}, {errRefused, true}, {nil, true}, // two failures are none
		{errRefused, true}, {errRefused, true}, {errRefused, false}, // three are
		{nil, false}, {errRefused, false}, // one success is none
		{nil, false}, {nil, true},
		{syscall.EMFILE, true}, {syscall.EMFILE, true}, {syscall.EMFILE, true}, // our shortage is not its failure
	} {
		m.checkDone(imap, c.err, 0)
		if m.Available("imap") != c.want {
			t.Fatalf("after check %d (%v) the member is available: %t", n, c.err, !c.want)
		}
	}
}

func TestFailedSessionsOpenTheBreakerAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := one(t, Settings{Check: CheckConfig{Mode: "off"}})
		h := host(t, m.table, "east")
		for range 3 {
			m.Failed("imap", errors.New("TLS: unknown authority"))
		}
		if m.Available("imap") || !m.Available("pop3") {
			t.Fatal("three sessions failed: imap has to be out, pop3 not")
		}
		// The pauses double: sessions are let through after about 1, 2, 4 … 30, 30 seconds.
		began := time.Now()
		var at []time.Duration
		for time.Since(began) < 2*time.Minute {
			time.Sleep(50 * time.Millisecond)
			if _, err := h.Choose("imap", "ann", nil); err == nil {
				at = append(at, time.Since(began).Round(time.Second))
				m.Failed("imap", errors.New("TLS: unknown authority"))
			}
		}
		if len(at) < 6 || len(at) > 8 {
			t.Errorf("sessions were let through at %v, want pauses of 1, 2, 4, 8, 16, 30, 30 seconds", at)
		}
		for {
			if m, err := h.Choose("imap", "ann", nil); err == nil {
				m.Succeeded("imap", time.Millisecond)
				break
			}
			time.Sleep(time.Second)
		}
		if !m.Available("imap") {
			t.Error("the breaker is open after a session that succeeded")
		}
	})
}

// TestChecksDoNotCloseABreakerOfLogins: greeting and login are judged apart, so that the two do not fight.
func TestChecksDoNotCloseABreakerOfLogins(t *testing.T) {
	m := one(t, Settings{})
	for range 3 {
		m.Failed("imap", errors.New("no answer to LOGIN"))
	}
	for range 5 {
		m.checkDone(imap, nil, time.Millisecond)
	}
	if m.Available("imap") {
		t.Error("a greeting closed the breaker that failed logins had opened")
	}
	m.Succeeded("imap", time.Millisecond)
	if !m.Available("imap") {
		t.Error("a login did not close the breaker")
	}
	// Failed connects are what a check looks at: it may close their breaker.
	for range 2 {
		m.failed("imap", errRefused, true)
	}
	m.checkDone(imap, nil, time.Millisecond)
	for range 2 {
		m.failed("imap", errRefused, true)
	}
	if !m.Available("imap") {
		t.Error("failures before and behind a good check were added up")
	}
	m.failed("imap", errRefused, true)
	if m.Available("imap") {
		t.Error("three failed connects did not take the member out")
	}
	for range 2 {
		m.checkDone(imap, nil, time.Millisecond)
	}
	if !m.Available("imap") {
		t.Error("good checks did not bring a member back that failed connects took out")
	}
}

func TestOneBrokenMailboxIsNotAMemberThatFails(t *testing.T) {
	m := one(t, Settings{})
	for range 20 {
		m.LoginFailed("imap", "ann", errors.New("NO [UNAVAILABLE]"))
	}
	if !m.Available("imap") {
		t.Fatal("one account took the member away from all others")
	}
	for _, key := range []string{"bob", "carol"} {
		m.LoginFailed("imap", key, errors.New("NO [UNAVAILABLE]"))
	}
	if m.Available("imap") {
		t.Error("three accounts failed and the member is still in service")
	}
}

func TestWhatIsNotTheMembersFault(t *testing.T) {
	m := one(t, Settings{})
	for range 5 {
		for _, err := range []error{&DialError{"m", errRefused}, fmt.Errorf("read: %w", context.Canceled), net.ErrClosed, syscall.EMFILE} {
			m.Failed("imap", err)
			m.LoginFailed("imap", err.Error(), err)
		}
	}
	if !m.Available("imap") {
		t.Error("a session that went away, or our own shortage, took the member out")
	}
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := host(t, table(t, cluster("none", 10, 10), Options{}), "east")
		m := h.Members()[0]
		down(m, "imap")
		up(m, "imap")
		share := func() float64 { return m.share(time.Now()) }
		if got := share(); got > 1 {
			t.Errorf("its share is %.1f of 10 at once after its return", got)
		}
		time.Sleep(15 * time.Second)
		if got := share(); got < 4.9 || got > 5.1 {
			t.Errorf("its share is %.1f of 10 after half of slow_start", got)
		}
		time.Sleep(16 * time.Second)
		if got := share(); got != 10 || m.state.Load()&slowBit != 0 {
			t.Errorf("its share is %.1f of 10 after slow_start", got)
		}
		if other := h.Members()[1].share(time.Now()); other != 10 {
			t.Errorf("the share of a member that was never away is %.1f", other)
		}
	})
}

// TestTheJudgesKeepApart plays any order of events and compares with what the operator, the checks and the sessions said
// last: no event of one undoes the verdict of another, but for an outage that the checks saw end.
func TestTheJudgesKeepApart(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := one(t, Settings{Check: CheckConfig{Rise: 1, Fall: 1}, Breaker: BreakerConfig{Failures: 1}})
		withdrawn, checkDown, loginsFail := false, false, false
		for range rapid.IntRange(1, 40).Draw(rt, "events") {
			switch rapid.IntRange(0, 5).Draw(rt, "event") {
			case 0:
				m.checkDone(imap, nil, 0)
				loginsFail = loginsFail && !checkDown // the end of an outage explains them
				checkDown = false
			case 1:
				m.checkDone(imap, errRefused, 0)
				checkDown = true
			case 2:
				m.Failed("imap", errors.New("silence"))
				loginsFail = true
			case 3:
				m.Succeeded("imap", time.Millisecond)
				loginsFail, checkDown = false, false // rise is 1, and a login is more than a check
			case 4, 5:
				withdrawn = !withdrawn
				if withdrawn {
					_ = m.table.Withdraw("east", false)
				} else {
					_ = m.table.Ready("east")
				}
			}
			if got, want := m.Available("imap"), !withdrawn && !checkDown && !loginsFail; got != want {
				rt.Fatalf("available is %t; withdrawn %t, down by checks %t, logins fail %t", got, withdrawn, checkDown, loginsFail)
			}
		}
	})
}

func TestEventsAndStatusTellWhatHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []string
		cfg := Config{Hosts: map[string]HostConfig{"east": {Members: members("10.0.0.1")}}}
		tab := table(t, cfg, Options{Services: []string{"imap"}, Changed: func(e Event) {
			events = append(events, fmt.Sprintf("%s %s %s: %s", e.Member, e.Service, e.Change, e.Why))
		}})
		m := host(t, tab, "east").Members()[0]
		if s := m.Status().Services; len(s) != 1 || s[0].State != "unchecked" {
			t.Errorf("services are %+v before the first check", s)
		}
		m.Opened("imap")
		for range 20 {
			m.Succeeded("imap", 3*time.Millisecond)
			time.Sleep(500 * time.Millisecond)
		}
		if s := m.Status(); s.Rate < 1 || s.Rate > 2 || s.Sessions != 1 || s.Services[0].Login != 3*time.Millisecond || s.Services[0].State != "up" {
			t.Errorf("status is %+v after 20 logins in 10 seconds", s)
		}
		down(m, "imap")
		time.Sleep(time.Minute)
		if s := m.Status().Services[0]; s.State != "down" || s.Why != "connection refused" || time.Since(s.Since) != time.Minute {
			t.Errorf("status is %+v a minute after it went down", s)
		}
		up(m, "imap")
		if err := tab.Withdraw("east", true); err != nil {
			t.Fatal(err)
		}
		want := []string{"east/10.0.0.1 imap down: connection refused", "east/10.0.0.1 imap up: ", "east/10.0.0.1  wish: withdrawn, accounts leave"}
		if !slices.Equal(events, want) {
			t.Errorf("events are %q, want %q", events, want)
		}
	})
}

// TestASilentMemberIsBackByItsChecks: sessions that waited in vain take it out as failed connects do, and checks that succeed
// are enough to bring it back. Those of other failures are not.
func TestASilentMemberIsBackByItsChecks(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		back bool
	}{"silent": {&SilentError{errors.New("i/o timeout")}, true}, "garbage": {errors.New("greeting is not IMAP's"), false}} {
		m := one(t, Settings{})
		m.checkDone(imap, nil, time.Millisecond)
		for range 3 {
			m.Failed("imap", c.err)
		}
		if m.Available("imap") {
			t.Errorf("%s: three sessions do not take it out", name)
		}
		up(m, "imap")
		if got := m.Available("imap"); got != c.back {
			t.Errorf("%s: after checks that succeed it is available: %v, want %v", name, got, c.back)
		}
	}
}
