package proxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"mailmux/directory"
	"mailmux/proxy/auth"
	"mailmux/proxy/backend"
)

// Enter says the protocol's words on a fresh connection to a member: greeting, STARTTLS if NeedTLS, identity, login. It
// returns nil when the backend accepted, and otherwise
//
//   - ErrRejected: the backend refused the credentials, with no reason or the plain one;
//   - *Reply: the backend refused with a code of its own;
//   - ClientFault(err): the client's part of a relayed exchange went wrong;
//   - any other error: the member is at fault, and another one may be tried. It is called again then.
type Enter func(b *Backend) error

// ClientFault marks an error of the client's leg inside Enter: no other member is tried for it.
func ClientFault(err error) error { return &clientFault{err} }

type clientFault struct{ err error }

func (e *clientFault) Error() string { return e.err.Error() }
func (e *clientFault) Unwrap() error { return e.err }

// Login finds the home backend of the credentials and logs in there: name, account, host, member, dial, TLS, and the
// protocol's words in enter. One deadline covers it all. Several members may be tried, until one has refused the
// credentials: then never again, except when the directory, asked past its cache, names another home host by now.
//
// After nil, the protocol tells the client that it is logged in and calls HandOver. After an error the client may try
// again, if the protocol lets it; CauseOf says what to tell it.
func (s *Session) Login(ctx context.Context, creds *auth.Credentials, enter Enter) error {
	defer creds.Forget()
	s.loginBegan = time.Now()
	err := s.tryLogin(ctx, creds, enter)
	if err == nil {
		s.server.penalties.succeeded(s.identity.Client.Addr())
		return nil
	}
	s.server.registry.unclaim(s.record)
	s.record.failures++
	cause := CauseOf(err)
	s.server.metrics.LoginFailed(s.Service(), cause)
	if cause == CauseAuth && !s.exempt() {
		s.server.penalties.failed(s.identity.Client.Addr(), time.Now())
	}
	s.record.refused(err)
	return err
}

func (s *Session) exempt() bool {
	return networks(s.state.limits.Exempt).contains(s.identity.Client.Addr())
}

func (s *Session) tryLogin(ctx context.Context, creds *auth.Credentials, enter Enter) error {
	switch {
	case !s.PlainLogin():
		return ErrPlaintext
	case s.looped():
		return fmt.Errorf("%w: time to live %d", ErrLoop, s.identity.TTL)
	}
	if !s.exempt() {
		wait := s.server.penalties.delay(s.identity.Client.Addr(), &s.state.limits, s.loginBegan)
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
	began := time.Now()
	ctx, cancel := context.WithDeadline(ctx, began.Add(s.state.limits.HandOverTimeout))
	defer cancel()
	deadline, _ := ctx.Deadline()
	s.nc.SetDeadline(deadline.Add(lastWordTimeout))
	s.server.registry.note(&s.record.mechanism, creds.Mechanism)
	err := s.route(ctx, creds, enter)
	switch {
	case err == nil:
	case errors.Is(err, ErrRejected), errors.Is(err, directory.ErrBadPassword):
		s.server.timing.refused(time.Since(began))
	case CauseOf(err) == CauseAuth: // no such user: it must not show by being quick
		pause(ctx, s.server.timing.sample()-time.Since(began))
	}
	if err != nil { // the client may try again, within what is left of its time
		s.nc.SetDeadline(time.Now().Add(s.state.limits.LoginTimeout))
	}
	return err
}

// route looks the account up and enters its home host. What was remembered of the account may be out of date, so a
// failure of it is looked into past the cache once: somebody may have moved the account meanwhile.
func (s *Session) route(ctx context.Context, creds *auth.Credentials, enter Enter) error {
	name, err := s.state.Domains.Login(creds.Account(), s.local.Addr(), s.identity.Name)
	if err != nil {
		return err
	}
	account, err := s.state.Directory.Lookup(ctx, name)
	if err != nil {
		return err
	}
	err = s.enterAccount(ctx, name, &account, creds, enter)
	if err == nil || !account.Cached || !mayHaveMoved(err) || creds.Relayed() {
		return err
	}
	fresh, freshErr := s.state.Directory.Refresh(ctx, name)
	if freshErr != nil || fresh.Host == account.Host && fresh.DN == account.DN && fresh.Login == account.Login && fresh.Status == account.Status {
		return err
	}
	return s.enterAccount(ctx, name, &fresh, creds, enter)
}

// mayHaveMoved says whether an error may come from what was remembered of the account.
func mayHaveMoved(err error) bool {
	var fault *clientFault
	return !errors.Is(err, ErrLimit) && !errors.As(err, &fault)
}

// enterAccount checks that the account may be served, and enters its home host.
func (s *Session) enterAccount(ctx context.Context, name directory.Name, account *directory.Account, creds *auth.Credentials, enter Enter) error {
	s.record.origin(account)
	if err := served(account); err != nil {
		return err
	}
	host, err := s.state.Hosts.Host(account.Host)
	if err != nil {
		return err
	}
	if err := s.server.registry.claim(s.record, name, account, s.state.limits.PerAccount); err != nil {
		return err
	}
	return s.enterHost(ctx, host, account, creds, enter)
}

// Retries of a host none of whose members could be reached: a backend that restarts is not noticed by the client.
const (
	retries    = 3
	firstRetry = 200 * time.Millisecond // doubles, with jitter
)

// enterHost tries the members of a host, in the order of its choice, until one accepts or refuses.
func (s *Session) enterHost(ctx context.Context, host *backend.Host, account *directory.Account, creds *auth.Credentials, enter Enter) error {
	var tried backend.Tried
	var last error
	for round := 0; ; {
		m, err := s.choose(ctx, host, account, &tried)
		if err != nil {
			if last == nil || round == s.rounds(host) || ctx.Err() != nil {
				return &backendError{host.Name(), "", errors.Join(last, err)}
			}
			wait := firstRetry << min(round, 2)
			if pause(ctx, wait/2+rand.N(wait)) != nil {
				return &backendError{host.Name(), "", last}
			}
			round++
			tried = backend.Tried{}
			continue
		}
		s.leaveOtherMembers(host, m)
		err = s.enterMember(ctx, m, account, creds, enter)
		if err == nil {
			return nil
		}
		lost := s.record.visit.isLost()
		s.record.visit.leave()
		if !s.mayTryAgain(err, creds) {
			return err
		}
		if lost { // the member did nothing wrong, its account moved
			continue
		}
		last = err
		tried.Add(m, err)
	}
}

// choose picks the member. An account that still has sessions on a withdrawn member stays there until they have ended:
// two members at once are worse than one more session on that one.
func (s *Session) choose(ctx context.Context, host *backend.Host, account *directory.Account, tried *backend.Tried) (*backend.Member, error) {
	s.record.visit = nil
	if s.state.claimed(host) {
		var err error
		s.record.visit, err = s.state.visit(ctx, host, account, s.record.name, s.Service(), tried)
		if err != nil {
			return nil, err
		}
		return s.record.visit.claim.Member(), nil
	}
	if host.Sticky() && tried.Len() == 0 {
		if m := s.server.registry.memberOf(s.record, host.Name()); m != nil {
			if withdrawn, _ := m.Withdrawn(); withdrawn && m.Joinable(s.Service()) {
				return m, nil
			}
		}
	}
	return host.Choose(s.Service(), s.record.name, tried)
}

// mayTryAgain says whether another member, or the same one once more, may be asked after an error: never once the
// credentials were refused, or a challenge has gone to the client.
func (s *Session) mayTryAgain(err error, creds *auth.Credentials) bool {
	return errors.Is(err, errBackend) && !creds.Relayed() && !errors.Is(err, backend.ErrLoop)
}

// enterMember connects to one member and logs in there.
func (s *Session) enterMember(ctx context.Context, m *backend.Member, account *directory.Account, creds *auth.Credentials, enter Enter) error {
	if err := s.verify(ctx, m, account, creds); err != nil {
		return err
	}
	began := time.Now()
	s.record.open(m) // counted from here on, so that many logins at once do not all choose the same member
	b, err := s.dial(ctx, m, account, creds)
	if err != nil {
		s.record.leaveMember()
		return &backendError{m.Host(), m.Name(), err} // Dial has reported the failure to the member itself
	}
	if err = enter(b); err != nil && b.Conn.Echoed() {
		err = &echoError{err}
	}
	var reply *Reply
	var fault *clientFault
	switch {
	case err == nil:
		m.Succeeded(s.Service(), time.Since(began))
		s.backend = b
		s.record.memberTLS = b.tls != nil // nobody else reads it
		return nil
	case errors.Is(err, ErrRejected), errors.As(err, &reply):
		m.Succeeded(s.Service(), time.Since(began)) // it works; it said no
	case errors.As(err, &fault):
	case s.record.visit.isLost():
		err = &backendError{m.Host(), m.Name(), err}
	default:
		if b.stated {
			m.LoginFailed(s.Service(), s.record.name, err)
		} else {
			m.Failed(s.Service(), err)
		}
		err = &backendError{m.Host(), m.Name(), err}
	}
	s.record.leaveMember()
	b.close()
	return err
}

// verify checks the password here, where the member is logged in to by a master user: then nobody else will.
func (s *Session) verify(ctx context.Context, m *backend.Member, account *directory.Account, creds *auth.Credentials) error {
	if m.Login() != backend.Master {
		if creds.Mechanism == auth.External {
			return fmt.Errorf("%w: EXTERNAL needs backend.login: master on host %s", ErrRejected, m.Host())
		}
		return nil
	}
	switch {
	case creds.Mechanism == auth.External: // the certificate was verified
		return nil
	case creds.Authzid != "" || !creds.Told():
		return fmt.Errorf("%w: a master login needs the account's own password here, not %s", ErrRejected, creds.Mechanism)
	case s.verified == account.DN:
		return nil
	}
	if err := s.state.Directory.CheckPassword(ctx, *account, creds.Password); err != nil {
		return err
	}
	s.verified = account.DN
	return nil
}

// leaveOtherMembers closes the account's sessions on the other members, where it has one of its own, and on the members
// of another home host. It returns when they are closed.
func (s *Session) leaveOtherMembers(host *backend.Host, m *backend.Member) {
	for _, other := range s.server.registry.choose(s.record, m, host.Sticky()) {
		other.cut()
	}
}

// echoError is the error of a member that has said the credentials back. Its text, which is logged, does not show them.
type echoError struct{ err error }

func (e *echoError) Error() string { return "the member says the credentials back, which is not shown" }
func (e *echoError) Unwrap() error { return e.err }

// errBackend is in every error of a member or a host.
var errBackend = errors.New("backend")

// backendError says which member of which host went wrong, and is errBackend.
type backendError struct {
	host, member string
	err          error
}

func (e *backendError) Error() string {
	if e.member == "" || e.member == e.host {
		return "host " + e.host + ": " + e.err.Error()
	}
	return "host " + e.host + ", member " + e.member + ": " + e.err.Error()
}

func (e *backendError) Unwrap() error        { return e.err }
func (e *backendError) Is(target error) bool { return target == errBackend }
