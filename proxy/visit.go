package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"mailmux/directory"
	"mailmux/proxy/backend"
	"mailmux/proxy/splice"
)

// Errors of a visit.
var (
	errLost  = errors.New("the account has left its member meanwhile")
	errStays = errors.New("the account stays on a member that does not work from here")
)

// visit is a session or a delivery at a member under a claim, from the choice of the member on. Its methods may be called
// from many goroutines; those of a nil visit do nothing.
type visit struct {
	claim Claim

	mu   sync.Mutex
	leg  net.Conn // until the hand-over
	pair *splice.Pair
	lost bool
}

// claimed says whether the member of a host's accounts is agreed on with the other frontends.
func (s *State) claimed(host *backend.Host) bool { return s.Claims != nil && host.Claimed() }

// ClaimKey is the name of an account's claim: the login name, for people, and what tells the account from all others, its
// entry in the directory. All names of an entry have the same claim; two entries with one login name do not.
func ClaimKey(account *directory.Account) string {
	dn := account.DN
	if dn == "" {
		dn = account.Login
	}
	return strings.ToLower(account.Login) + "\x00" + strings.ToLower(dn)
}

// visit takes the claim on an account. A member that was tried already is an error: the account has to stay there as long
// as others have it, but it does not work from here.
func (s *State) visit(ctx context.Context, host *backend.Host, account *directory.Account, name, service string, tried *backend.Tried) (*visit, error) {
	v := &visit{}
	choose := func() (*backend.Member, error) { return host.Choose(service, name, tried) }
	claim, err := s.Claims.Take(ctx, Want{Key: ClaimKey(account), Name: name, Host: host, Service: service, Choose: choose, Cut: v.cut})
	if err != nil {
		return nil, err
	}
	if tried.Has(claim.Member()) {
		claim.Release()
		return nil, fmt.Errorf("%w: %s", errStays, claim.Member())
	}
	v.claim = claim
	return v, nil
}

// cut closes what is open to the member.
func (v *visit) cut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lost = true
	switch {
	case v.pair != nil:
		v.pair.Close()
	case v.leg != nil:
		v.leg.Close()
	}
}

// enter puts a connection under the claim: it is closed with it, and no byte is written when the claim may be over.
func (v *visit) enter(nc net.Conn) error {
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.lost {
		return errLost
	}
	v.leg = nc
	if sock, ok := nc.(*splice.Sock); ok {
		sock.Guard(v.claim.Gate())
	}
	return nil
}

// handOver puts a session under the claim that the relay has from now on. A leg that was cut is closed, which ends the
// pair.
func (v *visit) handOver(b *Backend, start func() *splice.Pair) *splice.Pair {
	if v == nil {
		return start()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.leg = nil
	v.pair = start()
	if v.lost {
		v.pair.Close()
	}
	return v.pair
}

func (v *visit) gate() *splice.Gate {
	if v == nil {
		return nil
	}
	return v.claim.Gate()
}

func (v *visit) isLost() bool {
	if v == nil {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.lost
}

// leave gives the claim back. The connection is closed, or has been given back to those that have no account.
func (v *visit) leave() {
	if v != nil {
		v.claim.Release()
	}
}

// rounds is how often the members of a host are tried again. An account with a claim may have to wait until the frontends
// have agreed that its member is down: as long as the login may take.
func (s *Session) rounds(host *backend.Host) int {
	if s.state.claimed(host) {
		return 1000
	}
	return retries
}

// stay is the claim of a recipient, for as long as its mail is on the way. It belongs to one delivery.
type stay struct {
	mu    sync.Mutex
	visit *visit
}

// stay takes the claim for a delivery, or keeps the one that it has.
func (srv *Server) stay(r Route, key, service string, tried *backend.Tried) (*backend.Member, error) {
	r.stay.mu.Lock()
	defer r.stay.mu.Unlock()
	if v := r.stay.visit; v != nil {
		if m := v.claim.Member(); !v.isLost() && !tried.Has(m) {
			return m, nil
		}
		v.leave()
		r.stay.visit = nil
	}
	s := srv.state.Load()
	ctx, cancel := context.WithTimeout(srv.ctx, s.limits.HandOverTimeout)
	defer cancel()
	v, err := s.visit(ctx, r.Host, &r.Account, key, service, tried)
	if err != nil {
		return nil, &backendError{r.Host.Name(), "", err}
	}
	r.stay.visit = v
	return v.claim.Member(), nil
}

// Claimed says whether the account's member is agreed on with the other frontends.
func (r Route) Claimed() bool { return r.stay != nil }

// Enter puts the connection by which a recipient's mail goes to its member under the claim on the account, before the
// member is told of the recipient. It fails when the account has left the member meanwhile.
func (r Route) Enter(nc net.Conn) error {
	if r.stay == nil {
		return nil
	}
	r.stay.mu.Lock()
	defer r.stay.mu.Unlock()
	if r.stay.visit == nil {
		return errLost
	}
	return r.stay.visit.enter(nc)
}

// Leave ends the use of the member that Server.Member gave: the mail is there, or has failed. The connection may be used
// for other mail then. It may be called again.
func (r Route) Leave() {
	if r.stay == nil {
		return
	}
	r.stay.mu.Lock()
	defer r.stay.mu.Unlock()
	if v := r.stay.visit; v != nil {
		v.mu.Lock()
		v.leg = nil
		v.mu.Unlock()
		v.leave()
		r.stay.visit = nil
	}
}
