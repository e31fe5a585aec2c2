package backend

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net"
	"time"
)

// health is what was seen of one service of a member. Two judges look at it, and each undoes only its own verdict:
//
//   - the checks, with rise and fall. A failed connect of a session, or a greeting that did not come, counts as a failed
//     check, for it is the same thing, and brings the next check forward.
//   - the breaker, by sessions. It opens when sessions fail in a row and closes when one succeeds. A check closes it
//     only when every failure was a failed connect, or when the checks have seen an outage begin and end, which explains
//     the others: else a check that sees a greeting proves nothing about logins, and if it closed the breaker the two would
//     fight.
type health struct {
	checked   bool // at least once
	fails     int  // in a row, while up
	passes    int  // in a row, while down
	since     time.Time
	why       string
	latency   time.Duration // of the last check that succeeded
	lastCheck time.Time
	due       time.Time // of the next check

	streak    int       // sessions that failed in a row
	connects  bool      // all of them by a failed connect
	accounts  [4]uint64 // the last accounts whose login failed, hashed: one account's trouble is not the member's
	opened    time.Time
	openedWhy string
	hold      time.Duration
	probing   bool      // a session was let through since the last verdict
	probeAt   time.Time // when the next one may be

	login  time.Duration // moving average of the time a login takes
	rate   float64       // logins a second, decaying
	rateAt time.Time

	capabilities []string // as shown last
	learnt       []string // the same, sorted
}

// rateWindow is the time over which logins a second are averaged.
const rateWindow = 10 * time.Second

// Change is what the table tells Options.Changed about a member.
type Change uint8

const (
	WentDown     Change = iota // no sessions any more: by the checks or the breaker
	CameUp                     // takes sessions again
	WasWishedOn                // the operator has withdrawn it, or put it back
	Left                       // it is not in the table any more
	WasDecidedOn               // the frontends' controller has decided it down, or given it back
)

// String is the word for the log.
func (c Change) String() string { return [...]string{"down", "up", "wish", "left", "decided"}[c] }

// Event tells that a member has changed. Service is "" when it concerns all of them.
type Event struct {
	Member  *Member
	Service string
	Change  Change
	Why     string
}

// jitter spreads a time by a tenth either way, so that frontends and members do not act in step.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.2*float64(d))
}

// Succeeded says that a session logged in, or was refused its credentials by a service that works, and how long that
// took from the dial.
func (m *Member) Succeeded(service string, d time.Duration) {
	i, ok := serviceIndex(service)
	if !ok {
		return
	}
	now := time.Now()
	m.mu.Lock()
	h := &m.health[i]
	h.streak, h.accounts, h.probing = 0, [4]uint64{}, false
	if h.login == 0 {
		h.login = d
	}
	h.login += (d - h.login) / 8
	h.rate = h.decayed(now) + 1/rateWindow.Seconds()
	h.rateAt = now
	was := m.state.Load()
	if was&(1<<i|1<<(i+breakerShift)) == 0 {
		h.fails = 0
		m.mu.Unlock()
		return
	}
	m.closeBreaker(i)
	m.passed(i, now)
	event := m.turned(i, was)
	m.mu.Unlock()
	m.table.tell(event)
}

// decayed is the rate of logins as it stands now.
func (h *health) decayed(now time.Time) float64 {
	if h.rate == 0 {
		return 0
	}
	return h.rate * math.Exp(-now.Sub(h.rateAt).Seconds()/rateWindow.Seconds())
}

// Failed says that a session failed on the member before credentials were sent: TLS, the greeting, nonsense, silence. An
// error of Dial is known already and not counted again; one of a session that went away says nothing about the member.
func (m *Member) Failed(service string, err error) {
	if !excused(err) {
		var silent *SilentError
		m.failed(service, err, errors.As(err, &silent))
	}
}

// excused says whether an error is not to be counted against the member, or was counted already.
func excused(err error) bool {
	var known *DialError
	return errors.As(err, &known) || errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed) || ours(err)
}

// LoginFailed says that the member did not answer the credentials of an account, or refused them for the time being.
// The breaker needs as many accounts as failures: one broken mailbox whose owner tries again and again must not take the
// member away from all others.
func (m *Member) LoginFailed(service, key string, err error) {
	i, ok := serviceIndex(service)
	if !ok {
		return
	}
	if excused(err) {
		return
	}
	id := hashString(key) | 1
	m.mu.Lock()
	h := &m.health[i]
	known := false
	for _, seen := range h.accounts {
		known = known || seen == id
	}
	if !known {
		copy(h.accounts[1:], h.accounts[:])
		h.accounts[0] = id
	}
	probing := h.probing
	m.mu.Unlock()
	if !known || probing {
		m.failed(service, err, false)
	}
}

// failed counts a session that failed. A failed connect counts with the checks, too.
func (m *Member) failed(service string, err error, connect bool) {
	i, ok := serviceIndex(service)
	if !ok {
		return
	}
	now := time.Now()
	e := m.settings.Load()
	checks := e.Check.Mode == "on" && m.table.checked(i)
	m.mu.Lock()
	h := &m.health[i]
	was := m.state.Load()
	h.connects = connect && (h.streak == 0 || h.connects)
	h.streak++
	switch open := uint64(1) << (i + breakerShift); {
	case was&open == 0 && h.streak >= e.Breaker.Failures:
		h.opened, h.openedWhy, h.hold = now, err.Error(), e.Breaker.Hold
		h.probing, h.probeAt = false, now.Add(jitter(h.hold))
		m.set(was | open)
	case was&open != 0 && h.probing:
		h.openedWhy, h.hold = err.Error(), min(2*h.hold, e.Breaker.MaxHold)
		h.probing, h.probeAt = false, now.Add(jitter(h.hold))
	}
	if connect && checks {
		m.missed(i, now, err, e)
	}
	event := m.turned(i, was)
	if event.Why == "" {
		event.Why = err.Error()
	}
	m.mu.Unlock()
	m.table.tell(event)
	if checks {
		m.checkSoon(i)
	}
}

// checkDone takes the outcome of a check. A shortage of our own says nothing about the member.
func (m *Member) checkDone(i int, err error, took time.Duration) {
	now := time.Now()
	e := m.settings.Load()
	m.mu.Lock()
	h := &m.health[i]
	was := m.state.Load()
	h.lastCheck = now
	switch {
	case err == nil:
		h.latency = took
		if h.streak > 0 && h.connects {
			h.streak = 0
			m.closeBreaker(i)
		}
		m.passed(i, now)
	case !ours(err):
		m.missed(i, now, err, e)
	}
	pause := m.table.interval(e.Check.Interval)
	switch {
	case h.fails > 0 || h.passes > 0:
		pause = e.Check.Interval / 8 // the next checks decide
	case m.state.Load()&(1<<i) != 0:
		// The end of an outage is known sooner than its beginning, as far as the others leave room for that.
		pause = pause/4 + 8*m.table.checks.late()
	}
	h.due = now.Add(jitter(pause))
	event := m.turned(i, was)
	if err != nil {
		event.Why = err.Error()
	}
	m.mu.Unlock()
	m.table.tell(event)
}

// passed counts a success with the checks; mu is held.
func (m *Member) passed(i int, now time.Time) {
	h := &m.health[i]
	if !h.checked {
		h.checked, h.since = true, now
	}
	h.fails = 0
	if m.state.Load()&(1<<i) == 0 {
		return
	}
	e := m.settings.Load()
	if h.passes++; h.passes < e.Check.Rise {
		return
	}
	h.passes, h.since, h.why = 0, now, ""
	h.streak = 0
	m.closeBreaker(i)
	m.set(m.state.Load()&^(1<<i) | slowBit)
	m.returned = now
}

// missed counts a failure with the checks; mu is held.
func (m *Member) missed(i int, now time.Time, err error, e *effective) {
	h := &m.health[i]
	h.checked, h.passes = true, 0
	if m.state.Load()&(1<<i) != 0 {
		h.why = err.Error()
		return
	}
	if h.fails++; h.fails < e.Check.Fall {
		return
	}
	h.fails, h.since, h.why = 0, now, err.Error()
	h.probing = false
	if at := now.Add(jitter(e.Check.Interval)); at.After(h.probeAt) {
		h.probeAt = at
	}
	m.set(m.state.Load() | 1<<i)
}

// closeBreaker lets sessions in again; mu is held.
func (m *Member) closeBreaker(i int) {
	h := &m.health[i]
	h.probing, h.hold, h.openedWhy = false, 0, ""
	m.set(m.state.Load() &^ (1 << (i + breakerShift)))
}

// turned is the event of a service that has gone down or come up since was; mu is held.
func (m *Member) turned(i int, was uint64) Event {
	bit := uint64(1) << i
	before, after := blocked(was)&bit != 0, blocked(m.state.Load())&bit != 0
	switch {
	case before == after:
		return Event{}
	case after:
		return Event{Member: m, Service: services[i].name, Change: WentDown}
	}
	return Event{Member: m, Service: services[i].name, Change: CameUp}
}

// mayProbe says whether a session may be let through to a service that is down, and takes the turn if take is set. An
// outage ends by itself that way even when no check can tell.
func (m *Member) mayProbe(i int, now time.Time, take bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := &m.health[i]
	if now.Before(h.probeAt) {
		return false
	}
	if take {
		pause := m.settings.Load().Check.Interval
		if m.state.Load()&(1<<(i+breakerShift)) != 0 {
			pause = max(h.hold, m.settings.Load().Breaker.Hold)
		}
		h.probing, h.probeAt = true, now.Add(jitter(pause))
	}
	return true
}
