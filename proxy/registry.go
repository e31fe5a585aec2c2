package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"mailmux/directory"
	"mailmux/proxy/backend"
	"mailmux/proxy/splice"
)

// Record is what is kept of a session as long as it lives: what the session event and the operator want to know. It is
// all that mailmux itself holds of an idle session beside the relay's pair.
type Record struct {
	server  *Server
	id      string
	service string
	client  netip.AddrPort
	tls     string // the version, "" in the clear
	began   time.Time

	// What follows is set by the login, under the registry's lock where other goroutines look.
	mechanism string
	name      string // the normalised account
	login     string
	host      string
	member    *backend.Member
	memberTLS bool
	source    string // "cache" or "stale" when the directory was not asked
	failures  int
	handed    atomic.Bool
	pair      atomic.Pointer[splice.Pair]
	kicked    atomic.Bool
	busy      atomic.Bool             // a message is on its way: see Session.Hold
	session   atomic.Pointer[Session] // until the hand-over

	visit       *visit // under a claim: from the member's choice to the session's end; nil without one
	entered     bool
	counted     *backend.Member // what the session is counted to
	lastRefusal error
	quit        bool
}

// registry is every session there is, and every account's.
type registry struct {
	mu       sync.Mutex
	all      map[string]*Record
	accounts map[string][]*Record
	byAddr   map[netip.Addr]int
}

func newRegistry() *registry {
	return &registry{all: map[string]*Record{}, accounts: map[string][]*Record{}, byAddr: map[netip.Addr]int{}}
}

// enter adds a session, unless its address has too many.
func (r *registry) enter(rec *Record, exempt bool, perAddress int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[rec.id] = rec
	rec.entered = true
	key := network(rec.client.Addr())
	r.byAddr[key]++
	if n := r.byAddr[key]; n > perAddress && !exempt {
		return fmt.Errorf("%w: %d sessions from %s (limits.per_address)", ErrLimit, n-1, key)
	}
	return nil
}

// leave takes a session out.
func (r *registry) leave(rec *Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !rec.entered {
		return
	}
	delete(r.all, rec.id)
	key := network(rec.client.Addr())
	if r.byAddr[key]--; r.byAddr[key] <= 0 {
		delete(r.byAddr, key)
	}
	r.drop(rec)
}

// claim counts a session to an account before it logs in there, unless the account has too many.
func (r *registry) claim(rec *Record, name directory.Name, account *directory.Account, most int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(rec)
	key := name.String()
	if n := len(r.accounts[key]); n >= most {
		return fmt.Errorf("%w: %d sessions of %s (limits.per_account)", ErrLimit, n, key)
	}
	rec.name, rec.login, rec.host = key, account.Login, account.Host
	r.accounts[key] = append(r.accounts[key], rec)
	return nil
}

// choose notes the member that a session is about to use, and returns the account's sessions that have to end before
// it does: those on another host, and, if sticky, on other members of this one. Two members at once can corrupt a
// mailbox on shared storage.
func (r *registry) choose(rec *Record, m *backend.Member, sticky bool) (elsewhere []*Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec.member = m
	for _, other := range r.accounts[rec.name] {
		if other == rec || other.member == nil {
			continue
		}
		if other.member.Host() != m.Host() || sticky && other.member != m {
			elsewhere = append(elsewhere, other)
		}
	}
	return elsewhere
}

// memberOf is the member of a host that the account's other sessions are on, nil without any.
func (r *registry) memberOf(rec *Record, host string) *backend.Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, other := range r.accounts[rec.name] {
		if other != rec && other.member != nil && other.member.Host() == host {
			return other.member
		}
	}
	return nil
}

// ofAccount lists an account's sessions.
func (r *registry) ofAccount(name string) []*Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.accounts[name])
}

// unclaim takes back claim and choose, after a login that failed.
func (r *registry) unclaim(rec *Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(rec)
	rec.member = nil
}

// drop takes a session out of its account's list. The registry is locked.
func (r *registry) drop(rec *Record) {
	list := r.accounts[rec.name]
	for i, other := range list {
		if other == rec {
			list[i] = list[len(list)-1]
			list[len(list)-1] = nil
			list = list[:len(list)-1]
			break
		}
	}
	if len(list) == 0 {
		delete(r.accounts, rec.name)
		return
	}
	r.accounts[rec.name] = list
}

// matching lists the sessions that a function wants.
func (r *registry) matching(want func(*Record) bool) []*Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*Record
	for _, rec := range r.all {
		if want(rec) {
			list = append(list, rec)
		}
	}
	return list
}

// note writes down what is learnt of a session on its way, which Who may be reading.
func (r *registry) note(field *string, value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*field = value
}

// handedOver marks a session as logged in, and forgets what it was made of.
func (r *registry) handedOver(rec *Record) {
	rec.handed.Store(true)
	rec.session.Store(nil)
}

// size is the number of sessions.
func (r *registry) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all)
}
