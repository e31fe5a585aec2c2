package backend

import (
	"slices"
	"time"
)

// HostStatus is what an operator sees of a host. Its JSON is public.
type HostStatus struct {
	Name    string         `json:"name"`
	Sticky  string         `json:"sticky"`
	Sources []SourceStatus `json:"sources,omitempty"`
	Members []MemberStatus `json:"members"`
}

// SourceStatus is where members come from that the configuration does not list.
type SourceStatus struct {
	Name    string    `json:"name"`
	Members int       `json:"members"`
	Asked   time.Time `json:"asked,omitzero"` // when it was answered last
	Error   string    `json:"error,omitempty"`
}

// MemberStatus is what an operator sees of a member.
type MemberStatus struct {
	Name      string          `json:"name"`
	Address   string          `json:"address"`
	Wish      string          `json:"wish"` // in service, withdrawn, evacuating
	WishSince time.Time       `json:"wish_since,omitzero"`
	Available bool            `json:"available"` // takes sessions of some service
	Weight    int             `json:"weight"`
	Priority  int             `json:"priority,omitempty"`
	Agent     string          `json:"agent,omitempty"`      // what it said last
	AgentFrom time.Time       `json:"agent_since,omitzero"` // when it took the member out, or put it back
	AgentWhy  string          `json:"agent_error,omitempty"`
	Load      int             `json:"load_percent"`       // share of its weight that it takes, by its agent
	Slow      bool            `json:"starting,omitempty"` // starting slowly
	Returned  time.Time       `json:"returned,omitzero"`  // when it came back from being down
	Sessions  int64           `json:"sessions"`
	Total     int64           `json:"sessions_total"`
	Rate      float64         `json:"logins_per_second"`
	Services  []ServiceStatus `json:"services"`
}

// ServiceStatus is what an operator sees of one service of a member.
type ServiceStatus struct {
	Service   string        `json:"service"`
	Address   string        `json:"address"`
	State     string        `json:"state"` // unchecked, up, down, failing (breaker open)
	Since     time.Time     `json:"since,omitzero"`
	Why       string        `json:"why,omitempty"`
	Sessions  int64         `json:"sessions"`
	Rate      float64       `json:"logins_per_second"`
	Login     time.Duration `json:"login_ns"` // what a login takes, moving average
	Check     time.Duration `json:"check_ns"` // what the last good check took
	LastCheck time.Time     `json:"last_check,omitzero"`
}

// Status is the table as it stands, by host.
func (t *Table) Status() []HostStatus {
	var out []HostStatus
	t.all(func(h *Host) {
		r := h.row.Load()
		s := HostStatus{Name: h.name, Sticky: "none", Members: make([]MemberStatus, 0, len(r.seats))}
		if r.hash {
			s.Sticky = "hash"
		}
		if r.claim {
			s.Sticky = "claim"
		}
		for _, source := range r.sources {
			source.mu.Lock()
			s.Sources = append(s.Sources, SourceStatus{source.what(), len(source.list), source.asked, source.why})
			source.mu.Unlock()
		}
		for _, seat := range r.seats {
			s.Members = append(s.Members, seat.member.Status())
		}
		out = append(out, s)
	})
	return out
}

// CheckLag is how much later than they are due checks begin, because max_checks and checks_per_second bound them.
func (t *Table) CheckLag() time.Duration { return t.checks.late() }

// Status is the member as it stands.
func (m *Member) Status() MemberStatus {
	e := m.settings.Load()
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	state := m.state.Load()
	s := MemberStatus{
		Name:     m.name,
		Address:  e.address.String(),
		Wish:     "in service",
		Weight:   e.weight,
		Priority: e.priority,
		Agent:    m.agent.words, AgentFrom: m.agent.since, Returned: m.returned,
		AgentWhy: m.agent.why,
		Load:     100,
		Slow:     state&slowBit != 0 && now.Sub(m.returned) < e.Check.SlowStart,
		Sessions: m.total.Load(),
		Total:    m.chosen.Load(),
	}
	if m.wish.Withdrawn {
		s.Wish, s.WishSince = "withdrawn", m.wish.Since
	}
	if m.wish.Evacuate {
		s.Wish = "evacuating"
	}
	if m.agent.percent != nil {
		s.Load = *m.agent.percent
	}
	for i := range services {
		one := m.service(i, state, e, now)
		s.Rate += one.Rate
		if !m.table.checked(i) && one.Sessions == 0 && one.Rate == 0 {
			continue
		}
		s.Available = s.Available || state&outBits == 0 && blocked(state)&(1<<i) == 0
		s.Services = append(s.Services, one)
	}
	slices.Reverse(s.Services)
	return s
}

// service is the status of one service; mu is held.
func (m *Member) service(i int, state uint64, e *effective, now time.Time) ServiceStatus {
	h := &m.health[i]
	s := ServiceStatus{
		Service:   services[i].name,
		Address:   m.at(e, i),
		State:     "unchecked",
		Since:     h.since,
		Why:       h.why,
		Sessions:  m.sessions[i].Load(),
		Rate:      h.decayed(now),
		Login:     h.login,
		Check:     h.latency,
		LastCheck: h.lastCheck,
	}
	switch {
	case state&(1<<i) != 0:
		s.State = "down"
	case state&(1<<(i+breakerShift)) != 0:
		s.State, s.Since, s.Why = "failing", h.opened, h.openedWhy
	case h.checked || h.rate > 0:
		s.State = "up"
	}
	return s
}

// Explanation says which member an account would get, and why.
type Explanation struct {
	Host    string      `json:"host"`
	Service string      `json:"service"`
	Sticky  bool        `json:"sticky"`
	Chosen  string      `json:"chosen,omitempty"` // "" if none
	Why     string      `json:"why"`
	Members []Candidate `json:"members"`
}

// Candidate is one member's part of an explanation.
type Candidate struct {
	Name      string `json:"name"`
	Address   string `json:"address"`
	Available bool   `json:"available"`
	State     string `json:"state"` // in service, or why it takes no sessions
}

// Explain says which member Choose would pick for the account, and why, without changing anything.
func (h *Host) Explain(service, key string) (Explanation, error) {
	i, ok := serviceIndex(service)
	if !ok {
		return Explanation{}, ErrService
	}
	r := h.row.Load()
	x := Explanation{Host: h.name, Service: service, Sticky: r.hash}
	m, why, err := r.choose(h.name, i, key, nil, time.Now(), false)
	x.Why = why
	if err != nil {
		x.Why = err.Error()
	}
	if m != nil {
		x.Chosen = m.name
	}
	for _, s := range r.seats {
		one := Candidate{Name: s.member.name, Address: s.member.Address(service), Available: s.member.Available(service) && s.weight > 0}
		one.State = "in service"
		if !one.Available {
			one.State = s.member.condition(i)
		}
		x.Members = append(x.Members, one)
	}
	return x, nil
}
