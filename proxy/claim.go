package proxy

import (
	"context"
	"time"

	"mailmux/proxy/backend"
	"mailmux/proxy/splice"
)

// Claims agrees with the other frontends on the one member that an account is on, for hosts with sticky: claim (package
// claims is one). Its methods may be called from many goroutines.
type Claims interface {
	// Take takes the claim on an account for one session or delivery, or joins it, and waits while the account is about
	// to leave its member, at most until ctx ends. After an error there is nothing to release. The error is temporary:
	// etcd is away, no member is to be chosen, or the account stays on a member that does not work from here.
	Take(ctx context.Context, want Want) (Claim, error)
}

// Want is what a session or a delivery asks of Claims.
type Want struct {
	Key     string // the account's, the same for all of its names: see ClaimKey
	Name    string // the account's normalised name
	Host    *backend.Host
	Service string
	// Choose picks the member, if nobody has the account.
	Choose func() (*backend.Member, error)
	// Cut closes at once what is open to the member, because the claim is about to end, and returns when it is closed. It
	// is called at most once, from any goroutine, and never while it could block on the caller of Take.
	Cut func()
}

// Claim is the right to use a member for an account. Nothing is sent to the member before it is there, nor after Release.
type Claim interface {
	// Member is the member that has the account.
	Member() *backend.Member
	// Gate closes when the claim may be over; nil for a claim that was given without agreement.
	Gate() *splice.Gate
	// Release gives it back, when everything to the member is closed. It may be called again, and does not wait.
	Release()
}

// ClaimStatus is what an operator sees of the claims. Its JSON is public.
type ClaimStatus struct {
	State      string          `json:"state"` // held, or waiting: there is no lease, so new sessions of claimed hosts are refused or go by hash
	Lease      string          `json:"lease,omitempty"`
	Left       time.Duration   `json:"left_ns"` // until the sessions are closed, if no renewal is answered
	Accounts   int             `json:"accounts"`
	Sessions   int             `json:"sessions"`
	Unclaimed  int             `json:"unclaimed"` // sessions that went by hash because etcd was away
	Fenced     int64           `json:"fenced"`    // how often this frontend lost its lease
	Controller string          `json:"controller,omitempty"`
	Leading    bool            `json:"leading"` // this frontend is the controller
	Epoch      int64           `json:"epoch"`
	Down       []string        `json:"down,omitempty"` // members that the controller has decided down
	Frontends  []ClaimFrontend `json:"frontends,omitempty"`
	Error      string          `json:"error,omitempty"` // why there is no lease, or why the last account that asked for a claim got none
}

// ClaimFrontend is one live frontend of the site.
type ClaimFrontend struct {
	Name     string    `json:"name"`
	Lease    string    `json:"lease"`
	Since    time.Time `json:"since"`
	Epoch    int64     `json:"epoch"` // that it has acknowledged
	Down     []string  `json:"down,omitempty"`
	Accounts int       `json:"accounts"`
}

// ClaimInfo is one account's claim.
type ClaimInfo struct {
	Member  string    `json:"member,omitempty"` // host/member, "" when nobody has the account
	Since   time.Time `json:"since,omitzero"`
	Holders []string  `json:"holders,omitempty"` // the frontends that have sessions of it
	Moving  string    `json:"moving,omitempty"`  // that it is to leave, and where to
}
