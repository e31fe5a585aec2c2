package mailstore

import (
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
)

// ErrClosed is what Serve returns after Close.
var ErrClosed = errors.New("mailstore: backend closed")

// errAuth is the answer to every login that is refused, whatever the reason.
var errAuth = errors.New("authentication failed")

// Service is what a listener serves.
type Service string

// The services of a backend.
const (
	IMAP       Service = "imap"
	POP3       Service = "pop3"
	Submission Service = "submission"
	LMTP       Service = "lmtp"
	Sieve      Service = "sieve"
)

// Config says how a backend behaves. Only the name is needed.
type Config struct {
	// Name is in every greeting: east.example.com.
	Name string
	// TLS, if set, offers STARTTLS and STLS. For implicit TLS serve a tls.Listener.
	TLS *tls.Config
	// RequireTLS refuses logins in the clear.
	RequireTLS bool
	// MasterUser and MasterPassword may log in for any account: SASL PLAIN with the account as authorization identity,
	// or "account*master" as the user name.
	MasterUser     string
	MasterPassword string
	// Send takes what was submitted. Absent: recipients on the backend's own storages get it, all others are refused.
	Send func(from string, to []string, message []byte) error
}

// Login is one successful login, as the backend saw it.
type Login struct {
	Service Service
	Account string
	// Identity is what the peer said about its client by IMAP ID or by XCLIENT, keys in lower case; nil if it said nothing.
	Identity map[string]string
}

// Backend is one mail server. Its methods may be called from many goroutines.
type Backend struct {
	config Config

	mu       sync.Mutex
	storages []*Storage
	closers  map[closer]struct{}
	logins   []Login
	closed   bool

	running sync.WaitGroup
}

// closer is a listener, a connection or a server of a library.
type closer interface{ Close() error }

// New makes a backend without storages.
func New(config Config) *Backend {
	return &Backend{config: config, closers: make(map[closer]struct{})}
}

// Name is the name the backend greets with.
func (b *Backend) Name() string { return b.config.Name }

// Attach gives the backend a storage.
func (b *Backend) Attach(s *Storage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(b.storages, s) {
		b.storages = append(b.storages, s)
	}
}

// Detach takes a storage away. Sessions that are logged in keep what they have open.
func (b *Backend) Detach(s *Storage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.storages = slices.DeleteFunc(b.storages, func(have *Storage) bool { return have == s })
}

// Logins lists the successful logins so far.
func (b *Backend) Logins() []Login {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.logins)
}

// Serve answers connections from a listener, which it closes, until Close; then it returns ErrClosed.
func (b *Backend) Serve(service Service, l net.Listener) error {
	defer l.Close()
	switch service {
	case IMAP:
		return b.serveIMAP(l)
	case POP3:
		return b.serveConns(l, b.servePOP3)
	case Sieve:
		return b.serveConns(l, b.serveSieve)
	case Submission, LMTP:
		return b.serveSMTP(service, l)
	}
	return fmt.Errorf("mailstore: no such service: %q", service)
}

// serveConns runs a function for each connection.
func (b *Backend) serveConns(l net.Listener, serve func(net.Conn)) error {
	if !b.register(l) {
		return ErrClosed
	}
	defer b.forget(l)
	for {
		nc, err := l.Accept()
		if err != nil {
			return b.serveError(err)
		}
		if !b.register(nc) {
			nc.Close()
			return ErrClosed
		}
		b.running.Go(func() { b.serveConn(nc, serve) })
	}
}

// serveConn runs a function for one connection and closes it.
func (b *Backend) serveConn(nc net.Conn, serve func(net.Conn)) {
	defer b.forget(nc)
	defer closeHard(nc)
	serve(nc)
}

// serveError is ErrClosed after Close, whatever the library or the listener said.
func (b *Backend) serveError(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	return fmt.Errorf("accept connection to %s: %w", b.config.Name, err)
}

// register remembers what Close has to close. False: the backend is closed already.
func (b *Backend) register(c closer) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.closers[c] = struct{}{}
	return true
}

// forget undoes register.
func (b *Backend) forget(c closer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.closers, c)
}

// Close ends listeners and sessions like a power cut, and waits for the POP3 and ManageSieve sessions. The storages stay
// as they are.
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closed = true
	closers := make([]closer, 0, len(b.closers))
	for c := range b.closers {
		closers = append(closers, c)
	}
	b.mu.Unlock()
	for _, c := range closers {
		closeHard(c)
	}
	b.running.Wait()
	return nil
}

// closeHard closes without the farewell of TLS, which waits for peers that do not read.
func closeHard(c closer) {
	if secured, ok := c.(*tls.Conn); ok {
		c = secured.NetConn()
	}
	c.Close()
}

// attached lists the storages of now.
func (b *Backend) attached() []*Storage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.storages)
}

// find looks for an account on the attached storages, or returns nil.
func (b *Backend) find(login string) *account {
	for _, s := range b.attached() {
		if a := s.account(login); a != nil {
			return a
		}
	}
	return nil
}

// authenticate checks a password and says whose mailboxes are to be opened. The authorization identity may be empty or
// the user itself; only the master user may name somebody else.
func (b *Backend) authenticate(authzid, user, password string) (*account, error) {
	if login, master, ok := strings.Cut(user, "*"); ok && authzid == "" {
		authzid, user = login, master
	}
	if b.config.MasterUser != "" && user == b.config.MasterUser && authzid != "" {
		a := b.find(authzid)
		if a == nil || subtle.ConstantTimeCompare([]byte(password), []byte(b.config.MasterPassword)) != 1 {
			return nil, errAuth
		}
		return a, nil
	}
	a := b.find(user)
	if a == nil || !a.checkPassword(password) || authzid != "" && !strings.EqualFold(authzid, user) {
		return nil, errAuth
	}
	return a, nil
}

// record remembers a login.
func (b *Backend) record(service Service, a *account, identity map[string]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.logins = append(b.logins, Login{Service: service, Account: a.login, Identity: identity})
}
