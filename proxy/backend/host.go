package backend

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"
)

// Host is a row of the table. It stays valid over reloads that keep its name.
type Host struct {
	table *Table
	name  string
	row   atomic.Pointer[row]
}

// row is what Choose reads. It is never changed, only replaced.
type row struct {
	config  HostConfig
	hash    bool // sticky: hash or claim
	claim   bool // sticky: claim
	seats   []seat
	equal   bool // all weights that count are the same
	sources []*source
	retired bool
}

// seat is a member's place in a row, with what the hash needs beside it.
type seat struct {
	member   *Member
	seed     uint64
	weight   float64
	priority int
}

// Name is the host's name as the table keeps it: in lower case.
func (h *Host) Name() string { return h.name }

// Sticky says whether an account has one member of its own, so that its sessions elsewhere have to be closed before it
// may go to another one.
func (h *Host) Sticky() bool { return h.row.Load().hash }

// Members are the members as they are now, in the order of the table.
func (h *Host) Members() []*Member {
	seats := h.row.Load().seats
	members := make([]*Member, len(seats))
	for i, s := range seats {
		members[i] = s.member
	}
	return members
}

// Member finds a member by its name, nil if there is none.
func (h *Host) Member(name string) *Member {
	for _, s := range h.row.Load().seats {
		if s.member.name == name {
			return s.member
		}
	}
	return nil
}

// Tried remembers the members that one login has tried in vain. The zero Tried, and a nil one, are empty. It belongs to
// one goroutine.
type Tried struct {
	members []*Member
	busy    bool
}

// Add says that a member was tried, and how that failed.
func (t *Tried) Add(m *Member, err error) {
	t.members = append(t.members, m)
	t.busy = t.busy || errors.Is(err, ErrBusy)
}

// Has says whether a member was tried.
func (t *Tried) Has(m *Member) bool { return t.has(m) }

// Len is how many members were tried.
func (t *Tried) Len() int {
	if t == nil {
		return 0
	}
	return len(t.members)
}

func (t *Tried) has(m *Member) bool {
	if t == nil {
		return false
	}
	for _, other := range t.members {
		if other == m {
			return true
		}
	}
	return false
}

// Choose picks the member for a session of the service by the account with the normalised name key, leaving out those
// that were tried. It may let the session through to a member that is down, to find out whether it still is; then the
// session's Succeeded or Failed is the verdict. The error is ErrNoMember, with the state of each member in its text.
func (h *Host) Choose(service, key string, tried *Tried) (*Member, error) {
	i, ok := serviceIndex(service)
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrService, service)
	}
	r := h.row.Load()
	if len(r.seats) == 1 && tried.Len() == 0 {
		s := &r.seats[0]
		if state := s.member.state.Load(); (state&outBits)|blocked(state)&(1<<i) == 0 && s.weight > 0 {
			return s.member, nil
		}
	}
	m, _, err := r.choose(h.name, i, key, tried, time.Now(), true)
	return m, err
}

// Why a member was chosen, for people.
const (
	whyOnly     = "the host's only member"
	whyHash     = "the account's member by hash"
	whyNextHash = "next by hash: the account's own member is out of service"
	whySessions = "fewest sessions for its weight"
	whyProbe    = "it is down, this session finds out whether it still is"
)

// rank orders the members for a hash: fewest services down, the one that people watch first; then the priority; then
// how far the key is. Whole services of a mailbox count, not the one asked for, so that all of an account's sessions
// come to the same member.
type rank struct {
	down     uint64
	priority int
	distance float64
}

func (a rank) before(b rank) bool {
	if a.down != b.down {
		return a.down < b.down
	}
	if a.priority != b.priority {
		return a.priority < b.priority
	}
	return a.distance < b.distance
}

// choose is Choose behind its short cut. With take false nothing is changed, for Explain.
func (r *row) choose(host string, i int, key string, tried *Tried, now time.Time, take bool) (*Member, string, error) {
	if r.hash && len(r.seats) > 1 {
		return r.byHash(host, i, key, tried, now, take)
	}
	return r.bySessions(host, i, tried, now, take)
}

func (r *row) byHash(host string, i int, key string, tried *Tried, now time.Time, take bool) (*Member, string, error) {
	if tried != nil && tried.busy {
		// A member with a queue is not a member that failed: its accounts stay.
		return nil, "", r.none(host, i, ErrBusy)
	}
	var best, home, first *Member // in service; but for the breaker of this service; of all
	var bestRank, homeRank, firstRank rank
	id := hashString(key)
	for k := range r.seats {
		s := &r.seats[k]
		state := s.member.state.Load()
		if s.weight == 0 || state&outBits != 0 {
			continue
		}
		at := rank{priority: s.priority, distance: distanceTo(id, s.seed, s.weight, r.equal)}
		if first == nil || at.before(firstRank) {
			first, firstRank = s.member, at
		}
		if tried.has(s.member) {
			continue
		}
		at.down = blocked(state) & group(i)
		if best == nil || at.before(bestRank) {
			best, bestRank = s.member, at
		}
		if at.down &= blocked(state&^(1<<(i+breakerShift))) & group(i); home == nil || at.before(homeRank) {
			home, homeRank = s.member, at
		}
	}
	if best == nil {
		return nil, "", r.none(host, i, nil)
	}
	if home != best && home.mayProbe(i, now, take) {
		return home, whyProbe, nil
	}
	if bestRank.down&(1<<i) != 0 {
		if !best.mayProbe(i, now, take) {
			return nil, "", r.none(host, i, nil)
		}
		return best, whyProbe, nil
	}
	if best != first {
		return best, whyNextHash, nil
	}
	return best, whyHash, nil
}

func (r *row) bySessions(host string, i int, tried *Tried, now time.Time, take bool) (*Member, string, error) {
	var best, probe *Member
	var bestLoad float64
	var bestPriority, ties int
	for k := range r.seats {
		s := &r.seats[k]
		state := s.member.state.Load()
		if s.weight == 0 || state&outBits != 0 || tried.has(s.member) {
			continue
		}
		if blocked(state)&(1<<i) != 0 {
			// A breaker has to let a session through even while others serve: nothing else can close it.
			if probe == nil && state&(1<<i) == 0 && s.member.mayProbe(i, now, take) {
				probe = s.member
			}
			continue
		}
		share := s.member.share(now)
		if share <= 0 {
			continue
		}
		load := float64(s.member.total.Load()+1) / share
		switch {
		case best == nil || s.priority < bestPriority || s.priority == bestPriority && load < bestLoad:
			best, bestLoad, bestPriority, ties = s.member, load, s.priority, 1
		case s.priority == bestPriority && load == bestLoad:
			if ties++; rand.IntN(ties) == 0 {
				best = s.member
			}
		}
	}
	switch {
	case probe != nil:
		return probe, whyProbe, nil
	case best != nil && len(r.seats) == 1:
		return best, whyOnly, nil
	case best != nil:
		return best, whySessions, nil
	}
	for k := range r.seats {
		s := &r.seats[k]
		if s.weight != 0 && s.member.state.Load()&outBits == 0 && !tried.has(s.member) && s.member.mayProbe(i, now, take) {
			return s.member, whyProbe, nil
		}
	}
	return nil, "", r.none(host, i, nil)
}

// none is the error for a host without a member to choose: it says of each why not.
func (r *row) none(host string, i int, cause error) error {
	const most = 4
	var text strings.Builder
	switch {
	case r.retired:
		text.WriteString("it is not in the host table any more")
	case len(r.seats) == 0:
		text.WriteString("its members are not known yet")
		for _, s := range r.sources {
			if why := s.failure(); why != "" {
				fmt.Fprintf(&text, ", %s", why)
			}
		}
	}
	for k, s := range r.seats {
		if k == most {
			fmt.Fprintf(&text, ", and %d more", len(r.seats)-most)
			break
		}
		if k > 0 {
			text.WriteString(", ")
		}
		fmt.Fprintf(&text, "%s %s", s.member.name, s.member.condition(i))
	}
	if cause == nil {
		return fmt.Errorf("%w: %s for %s: %s", ErrNoMember, host, services[i].name, text.String())
	}
	return fmt.Errorf("%w: %s for %s: %s: %w", ErrNoMember, host, services[i].name, text.String(), cause)
}

// condition says in a few words why a member does not take sessions, or that it does and was tried.
func (m *Member) condition(i int) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	state, h := m.state.Load(), &m.health[i]
	switch {
	case state&goneBit != 0:
		return "has left the table"
	case state&withdrawnBit != 0:
		return "is withdrawn"
	case state&decidedBit != 0:
		return "is " + m.decided
	case state&agentOutBit != 0:
		return "is taken out by its agent: " + m.agent.words
	case state&(1<<i) != 0:
		return "is down: " + h.why
	case state&(1<<(i+breakerShift)) != 0:
		return "fails sessions: " + h.openedWhy
	case m.settings.Load().weight == 0:
		return "has weight 0"
	}
	return "was tried"
}
