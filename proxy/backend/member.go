package backend

import (
	"crypto/tls"
	"log/slog"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Member is one server process group at one address. Its methods may be called from many goroutines. A *Member stays
// valid for the sessions that hold it when a reload takes it out of the table or changes its settings.
type Member struct {
	table *Table
	host  string
	name  string
	seed  uint64 // of its name, for the hash

	settings atomic.Pointer[effective]
	// state is all that Choose has to know, in one word: see the bits below. It is written with mu held.
	state    atomic.Uint64
	sessions [numServices]atomic.Int64
	total    atomic.Int64 // sessions of all services
	chosen   atomic.Int64 // sessions since the start of the table
	turns    atomic.Pointer[turns]
	resolved resolved
	task     *task // its checks

	mu       sync.Mutex
	health   [numServices]health
	wish     wish
	decided  string // why the frontends' controller has taken it out
	agent    agentState
	returned time.Time // when it came back from being down: slow start counts from here
}

// The bits of a member's state. Bits 0 to 7 are the services that are down by the checks, 8 to 15 those whose breaker is
// open. What the operator wishes and what the member's agent says have bits of their own, so neither overwrites the
// other nor the checks.
const (
	breakerShift = 8

	withdrawnBit = 1 << 16 // by the operator
	agentOutBit  = 1 << 17 // by the member's agent
	goneBit      = 1 << 18 // not in the table any more
	slowBit      = 1 << 19 // starting slowly
	decidedBit   = 1 << 20 // decided down by the frontends' controller

	outBits = withdrawnBit | agentOutBit | goneBit | decidedBit
)

// blocked are the services that are down or whose breaker is open.
func blocked(state uint64) uint64 {
	return (state | state>>breakerShift) & (1<<numServices - 1)
}

// newMember makes a member that is up until something else is seen: a frontend that starts must not refuse everybody
// until the first checks are in.
func newMember(t *Table, host, name string, e *effective) *Member {
	m := &Member{table: t, host: host, name: name, seed: mix(hashString(name))}
	m.settings.Store(e)
	m.turns.Store(newTurns(e.MaxConnecting))
	m.task = newTask(func() int { return bits.OnesCount64(t.services.Load()) }, m.runChecks)
	return m
}

// adopt takes new settings over on a reload. What was seen of services at other ports is forgotten, the operator's wish
// stays. It says whether a check is due now.
func (m *Member) adopt(e *effective) bool {
	old := m.settings.Swap(e)
	if old.MaxConnecting != e.MaxConnecting {
		m.turns.Store(newTurns(e.MaxConnecting))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set(m.state.Load() &^ goneBit)
	if old.ports != e.ports {
		m.health = [numServices]health{}
		m.agent = agentState{}
		m.set(m.state.Load() & (withdrawnBit | decidedBit))
	}
	if e.Check.Mode == "off" {
		m.forget(1<<numServices - 1)
	}
	if e.Check.AgentPort == 0 {
		m.agent = agentState{}
		m.set(m.state.Load() &^ agentOutBit)
	}
	return old.ports != e.ports || old.Check != e.Check
}

// forgetChecks forgets what the checks said of the services in the mask.
func (m *Member) forgetChecks(mask uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(mask)
}

// forget is forgetChecks with mu held. Nothing would ever bring a service back that the checks took out before they were
// switched off.
func (m *Member) forget(mask uint64) {
	m.set(m.state.Load() &^ (mask & (1<<numServices - 1)))
	for i := range m.health {
		if h := &m.health[i]; mask&(1<<i) != 0 {
			h.checked, h.fails, h.passes, h.why, h.due = false, 0, 0, "", time.Time{}
		}
	}
}

// set stores the state; mu is held.
func (m *Member) set(state uint64) { m.state.Store(state) }

// Name is what operators call the member: its name in the configuration, or its address.
func (m *Member) Name() string { return m.name }

// Host is the name of the member's host.
func (m *Member) Host() string { return m.host }

// String is "host/member", the form that Withdraw and Ready take.
func (m *Member) String() string { return m.host + "/" + m.name }

// Address is where the service is reached: "address:port", with the name if the address is one. For a member that is
// our own listener it is the backend behind it.
func (m *Member) Address(service string) string {
	i, ok := serviceIndex(service)
	if !ok {
		return ""
	}
	return m.at(m.settings.Load(), i)
}

// at is Address.
func (m *Member) at(e *effective, i int) string {
	if home, ok := m.home(e, i); ok {
		return home.String()
	}
	return e.address.at(e.ports[i])
}

// TLS says when TLS begins on a connection to the service, and with which configuration; nil with Off. The configuration
// is shared: it must not be changed.
func (m *Member) TLS(service string) (Mode, *tls.Config) {
	i, ok := serviceIndex(service)
	if !ok {
		return Off, nil
	}
	return m.tls(m.settings.Load(), i)
}

// tls is TLS. The backend behind our own listener has a mode of its own.
func (m *Member) tls(e *effective, i int) (Mode, *tls.Config) {
	mode := e.modes[i]
	if _, local := m.home(e, i); local {
		mode = e.local.mode
	}
	if mode == Off {
		return Off, nil
	}
	return mode, e.tls
}

// GreetingTimeout is how long a session may wait for the member's first word before it tries another one. ok is false
// where no other member of the host takes sessions of the service: then patience is better than nothing.
func (m *Member) GreetingTimeout(service string) (d time.Duration, ok bool) {
	h := (*m.table.hosts.Load())[m.host]
	if h == nil {
		return 0, false
	}
	for _, s := range h.row.Load().seats {
		if s.member != m && s.weight > 0 && s.member.Available(service) {
			return m.settings.Load().GreetingTimeout, true
		}
	}
	return 0, false
}

// Login says how sessions log in.
func (m *Member) Login() LoginMode { return m.settings.Load().login }

// Master is the master user, for Login() == Master.
func (m *Member) Master() Credentials { return m.settings.Load().master }

// Identity says whether the member may be told who the client is.
func (m *Member) Identity() bool { return m.settings.Load().Settings.Identity == "auto" }

// Opened counts a session in. It is called as soon as the member is chosen, before the dial, so that sessions that come
// at once do not all choose the same member.
func (m *Member) Opened(service string) {
	if i, ok := serviceIndex(service); ok {
		m.sessions[i].Add(1)
		m.total.Add(1)
		m.chosen.Add(1)
	}
}

// Closed counts a session out. Each Opened has one Closed.
func (m *Member) Closed(service string) {
	if i, ok := serviceIndex(service); ok {
		m.sessions[i].Add(-1)
		m.total.Add(-1)
	}
}

// Sessions is the number of sessions of all services.
func (m *Member) Sessions() int64 { return m.total.Load() }

// Available says whether the member takes a session of the service now: it is up, its breaker closed, and neither the
// operator nor its agent has taken it out. It is for sessions that stay with the member of their account; Choose asks
// by itself.
func (m *Member) Available(service string) bool {
	i, ok := serviceIndex(service)
	state := m.state.Load()
	return ok && state&outBits == 0 && blocked(state)&(1<<i) == 0
}

// Joinable says whether an account that has sessions on the member may open another one there: the service is up, and the
// operator does not want the accounts to leave. A withdrawn member keeps its accounts that long, because two members at
// once are worse.
func (m *Member) Joinable(service string) bool {
	i, ok := serviceIndex(service)
	state := m.state.Load()
	if !ok || state&(goneBit|decidedBit) != 0 || blocked(state)&(1<<i) != 0 {
		return false
	}
	_, evacuate := m.Withdrawn()
	return !evacuate
}

// Withdrawn is what the operator wishes: no new accounts, and with evacuate that those here leave.
func (m *Member) Withdrawn() (withdrawn, evacuate bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wish.Withdrawn, m.wish.Evacuate
}

// Gone says whether the member has left the table: by a reload, or because its source does not list it any more.
func (m *Member) Gone() bool { return m.state.Load()&goneBit != 0 }

// share is the weight for choosing by sessions: the configured one, less while the member starts slowly, and scaled by
// what its agent reports. 0 means no new sessions.
func (m *Member) share(now time.Time) float64 {
	e := m.settings.Load()
	weight := float64(e.weight)
	if m.state.Load()&slowBit == 0 && e.Check.AgentPort == 0 {
		return weight
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.agent.percent != nil {
		weight *= float64(*m.agent.percent) / 100
	}
	if m.state.Load()&slowBit == 0 {
		return weight
	}
	ramp := float64(now.Sub(m.returned)) / float64(e.Check.SlowStart)
	if ramp >= 1 {
		m.set(m.state.Load() &^ slowBit)
		return weight
	}
	return weight * max(ramp, 0.05)
}

// Learn remembers the capabilities that the service showed, to a check or to a session.
func (m *Member) Learn(service string, capabilities []string) {
	i, ok := serviceIndex(service)
	if !ok {
		return
	}
	m.mu.Lock()
	known := m.health[i].capabilities
	m.mu.Unlock()
	if slices.Equal(known, capabilities) {
		return // the ordinary case, on every login
	}
	sorted := slices.Clone(capabilities)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	m.mu.Lock()
	changed := !slices.Equal(m.health[i].learnt, sorted)
	m.health[i].capabilities = slices.Clone(capabilities)
	m.health[i].learnt = sorted
	m.mu.Unlock()
	if changed {
		m.table.generation.Add(1)
	}
}

// Shows says whether the service showed a capability when it was seen last, with or without parameters.
func (m *Member) Shows(service, capability string) bool {
	i, ok := serviceIndex(service)
	if !ok {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.health[i].capabilities, func(shown string) bool {
		name, _, _ := strings.Cut(shown, " ")
		return strings.EqualFold(name, capability)
	})
}

// LogValue names the member in the log.
func (m *Member) LogValue() slog.Value { return slog.StringValue(m.String()) }
