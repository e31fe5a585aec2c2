package admin

import (
	"net/netip"
	"time"
)

// Engine is the sessions of this frontend. Its methods may be called from many goroutines at once.
type Engine interface {
	// Sessions lists the sessions that match, those before the login included, in no order.
	Sessions(f Filter) []Session
	// Kick ends the sessions that match, as Sessions would list them, and says how many. It does not wait for their end.
	Kick(f Filter) int
}

// Switches take parts of the service out of it and back. A target is "self" for this frontend, a host, or a member; the
// error of one that is not there, or not unique, says so and names the nearest one.
type Switches interface {
	// Withdraw lets the target have no new sessions. With evacuate the old ones are let go, at a bounded rate.
	Withdraw(target string, evacuate bool) error
	// Ready takes the withdrawal back.
	Ready(target string) error
}

// Session is one session, as who shows it.
type Session struct {
	ID      string         `json:"id"`
	Service string         `json:"service"`
	Client  netip.AddrPort `json:"client"`
	TLS     string         `json:"tls,omitempty"` // the version, "" in the clear
	Account string         `json:"account,omitempty"`
	Host    string         `json:"host,omitempty"`
	Member  string         `json:"member,omitempty"`
	Began   time.Time      `json:"began"`
	State   string         `json:"state"` // login or relay
	Up      int64          `json:"bytes_up"`
	Down    int64          `json:"bytes_down"`
}

// Filter chooses sessions. What is empty matches all; what is set has to match, names without regard to case.
type Filter struct {
	ID      string       `json:"id,omitempty"`
	Account string       `json:"account,omitempty"`
	Service string       `json:"service,omitempty"`
	Host    string       `json:"host,omitempty"`
	Member  string       `json:"member,omitempty"`
	Client  netip.Prefix `json:"client,omitzero"`
}

// Empty says whether the filter matches every session.
func (f Filter) Empty() bool { return f == Filter{} }
