package admin

import (
	"context"
	"time"

	"mailmux/directory"
	"mailmux/proxy"
	"mailmux/proxy/backend"
)

// Engine is the sessions of this frontend; *proxy.Server is one. Its methods may be called from many goroutines at once.
type Engine interface {
	// Who lists the sessions that match, those before the login included, in no order. The function must not block.
	Who(match func(*proxy.Info) bool) []proxy.Info
	// Kick ends the sessions that match and says how many. It does not wait for their end.
	Kick(match func(*proxy.Info) bool) int
}

// Switches take parts of the service out of it and back. A target is Self, a host, or a member; the error of one that is
// not there, or not unique, says so.
type Switches interface {
	// Withdraw lets the target have no new sessions.
	Withdraw(t Target) error
	// Ready takes the withdrawal back.
	Ready(target string) error
}

// Frontend is the process as a whole.
type Frontend interface {
	// Status gives the state of now.
	Status() Status
	// Reload reads the configuration, the certificates and the secrets again. After an error the old configuration is in
	// use as before. Warnings do not keep the new one from its place.
	Reload(ctx context.Context) (warnings []string, err error)
}

// Explainer says why an account goes where it goes.
type Explainer interface {
	// Normal is the normalised name of an account that an operator typed, or the text as it is if it can be none.
	Normal(login string) string
	// Explain takes a login name as a client would type it. The Explanation is filled in as far as it goes; its error is
	// one that the name itself or ctx has.
	Explain(ctx context.Context, login string) (Explanation, error)
}

// Forgetter drops what is remembered of accounts, so that the next login asks the directory: after a failover.
type Forgetter interface {
	// Forget drops login names, or addresses, and all accounts of a host when one is given. It says how many names were
	// dropped, as far as they were remembered.
	Forget(host string, accounts []string) int
}

// The states of a frontend.
const (
	Serving   = "serving"
	Withdrawn = "withdrawn" // it listens no more, by the operator's wish; mailmux ready takes that back
	Draining  = "draining"  // it ends when its last session does
)

// Status is the state of a frontend.
type Status struct {
	Hostname  string               `json:"hostname"`
	Version   string               `json:"version"`
	PID       int                  `json:"pid"`
	State     string               `json:"state"` // Serving, Withdrawn or Draining
	Started   time.Time            `json:"started"`
	Loaded    time.Time            `json:"loaded"`     // when the configuration in use was
	Config    string               `json:"config"`     // the file
	LastFault string               `json:"last_fault"` // why the last reload kept the old configuration; "" when it did not
	Sessions  Count                `json:"sessions"`
	Listeners []ListenerStatus     `json:"listeners"`
	Hosts     []backend.HostStatus `json:"hosts"`
	// CheckFactor is how many times as long as configured the intervals between checks are: above 1 where
	// backend.checks_per_second bounds them.
	CheckFactor float64 `json:"check_factor"`
	// CheckLag is how late checks begin.
	CheckLag  time.Duration      `json:"check_lag_ns"`
	Directory directory.Stats    `json:"directory"`
	Claims    *proxy.ClaimStatus `json:"claims,omitempty"` // nil without the section claims
	// Queue is absent where there is none.
	Queue *QueueStatus `json:"queue,omitempty"`
}

// Count is how many sessions there are, and may be.
type Count struct {
	Open    int            `json:"open"`
	Relayed int            `json:"relayed"` // of them handed over
	Limit   int            `json:"limit"`
	Service map[string]int `json:"by_service"`
	// Penalised is how many client addresses have their logins delayed because of failed ones.
	Penalised int `json:"penalised_addresses"`
}

// ListenerStatus is one listening address.
type ListenerStatus struct {
	Service string `json:"service"`
	Address string `json:"address"`
	TLS     string `json:"tls"`
}

// Explanation is the way of an account, step by step.
type Explanation struct {
	Login     string                `json:"login"`      // as asked
	Name      string                `json:"name"`       // normalised
	Directory directory.Explanation `json:"directory"`  // filter, entry, attribute, what is remembered
	Answer    string                `json:"answer"`     // the directory's error, "" when it found the account
	Temporary bool                  `json:"temporary"`  // that error is an outage, or a fault of the entry, and not "no such user"
	Host      string                `json:"host"`       // the home host sessions go to now, "" when there is none
	HostError string                `json:"host_error"` // why there is no way there
	Choices   []backend.Explanation `json:"choices"`    // the member of a new session, by service, and why
	Sessions  []Session             `json:"sessions"`   // the account's, now
	Claim     *proxy.ClaimInfo      `json:"claim,omitempty"`
}
