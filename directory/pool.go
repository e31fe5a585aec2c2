package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"
)

const (
	busy         = 8 // requests in flight on a connection that make another one worth its while
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 5 * time.Second
	quiet        = 15 * time.Second // a server that was not heard for so long is asked whether it is there
)

// server is one server of the directory: its connections, and whether it works. Lookups share connections. While it is
// down nobody waits for it: its own goroutine (watch) tries it again and again and puts it back in service.
type server struct {
	address address
	dialer  *dialer
	limit   int
	log     *slog.Logger

	failed chan struct{} // wakes watch; holds one

	mu       sync.Mutex
	conns    []*conn
	dialing  *dialling // the connection being made, shared by all who wait for one
	binders  []*conn   // idle connections for password checks
	down     bool
	since    time.Time // of up or down
	lastErr  error
	lastOK   time.Time
	latency  time.Duration // of lookups, as a moving average
	requests uint64
	failures uint64
	closed   bool
	wg       sync.WaitGroup // dials

	binding chan struct{} // bounds the password checks at once
}

// dialling is a connection in the making.
type dialling struct {
	done chan struct{}
	conn *conn
	err  error
}

func newServer(a address, d *dialer, c Config) *server {
	return &server{
		address: a, dialer: d, limit: c.Connections, since: time.Now(), log: slog.New(slog.DiscardHandler),
		failed: make(chan struct{}, 1), binding: make(chan struct{}, 4*c.Connections),
	}
}

// try runs op on a connection, within the timeout. A connection that turns out to be dead, as an idle one may when the
// server was restarted, is replaced once: a search can be asked again.
func (s *server) try(ctx context.Context, op func(context.Context, *conn) error) error {
	if err := s.isDown(); err != nil {
		return err
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, s.dialer.timeout)
	defer cancel()
	began := time.Now()
	broken := false
	var err error
	for range 2 {
		var c *conn
		var fresh bool
		if c, fresh, err = s.acquire(ctx); err != nil {
			broken = true
			break
		}
		err = op(ctx, c)
		s.release(c)
		broken = isNetwork(err)
		if !broken || fresh || ctx.Err() != nil {
			break
		}
	}
	// Our caller's impatience says nothing about the server; its own time is bounded by the timeout.
	s.note(err, time.Since(began), broken && caller.Err() == nil)
	return err
}

func (s *server) isDown() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("directory closed")
	}
	if s.down {
		return fmt.Errorf("%s is down for %s: %w", s.address.url, time.Since(s.since).Round(time.Second), s.lastErr)
	}
	return nil
}

// note keeps the outcome of a request. A server that is broken, rather than one that answered with an error, is taken out
// of service; one that refuses our bind counts as broken, so that a wrong password is not tried with each lookup.
func (s *server) note(err error, took time.Duration, broken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if err == nil || isAnswer(err) {
		s.lastOK = time.Now()
		s.latency += (took - s.latency) / 8
		return
	}
	s.failures++
	s.lastErr = err
	if !broken || s.down || s.closed {
		return
	}
	s.down, s.since = true, time.Now()
	s.log.Warn("directory server is down", "server", s.address.url, "error", err)
	select {
	case s.failed <- struct{}{}:
	default:
	}
}

// acquire gives the least busy connection. When all are busy another one is made beside, up to the limit; when there is
// none the caller waits for it. fresh says that it was never used before.
func (s *server) acquire(ctx context.Context) (c *conn, fresh bool, err error) {
	s.mu.Lock()
	c = s.leastBusy()
	if c == nil || c.inFlight >= busy && len(s.conns) < s.limit {
		s.grow()
	}
	d := s.dialing
	if c != nil {
		c.inFlight++
		s.mu.Unlock()
		return c, false, nil
	}
	s.mu.Unlock()
	if d == nil {
		return nil, false, errors.New("directory closed")
	}
	select {
	case <-d.done:
	case <-ctx.Done():
		return nil, false, fmt.Errorf("connect to %s: %w", s.address.url, ctx.Err())
	}
	if d.err != nil {
		return nil, false, d.err
	}
	s.mu.Lock()
	d.conn.inFlight++
	s.mu.Unlock()
	return d.conn, true, nil
}

// leastBusy also sorts out what is dead or too old. An old connection ends when its last request is done.
func (s *server) leastBusy() *conn {
	now := time.Now()
	var best *conn
	kept := s.conns[:0]
	for _, c := range s.conns {
		if !c.usable(now) {
			if c.inFlight == 0 {
				c.drop()
			}
			continue
		}
		kept = append(kept, c)
		if best == nil || c.inFlight < best.inFlight {
			best = c
		}
	}
	clear(s.conns[len(kept):])
	s.conns = kept
	return best
}

// grow starts to make a connection, unless one is in the making. The caller holds the mutex.
func (s *server) grow() {
	if s.dialing != nil || s.closed {
		return
	}
	d := &dialling{done: make(chan struct{})}
	s.dialing = d
	s.wg.Go(func() { s.finish(d) })
}

func (s *server) finish(d *dialling) {
	d.conn, d.err = s.dialer.dial(context.Background(), s.address)
	s.mu.Lock()
	s.dialing = nil
	if d.err == nil {
		if s.closed {
			d.conn.drop()
		} else {
			s.conns = append(s.conns, d.conn)
		}
	}
	s.mu.Unlock()
	close(d.done)
}

func (s *server) release(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.inFlight--
	if c.inFlight == 0 && (s.closed || !c.usable(time.Now())) {
		c.drop()
	}
}

// watch waits for the server to fail, and then tries it with growing pauses until it works. It also asks a server that
// nobody asked for a while, or ever, so that a dead one is found before a user has to wait for it, and an operator knows
// that there is no second one left.
func (s *server) watch(ctx context.Context) {
	pause := firstBackoff
	for {
		timer := time.NewTimer(s.nextLook(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-s.failed:
			pause = firstBackoff
			timer.Stop()
			continue
		case <-timer.C:
		}
		if s.isDown() == nil {
			s.askIfQuiet(ctx)
			continue
		}
		if err := s.revive(ctx); err != nil {
			pause = min(2*pause, lastBackoff)
		} else {
			pause = firstBackoff
		}
	}
}

// nextLook is when to look again, with jitter: many frontends lose a server at the same moment.
func (s *server) nextLook(pause time.Duration) time.Duration {
	if s.isDown() == nil {
		pause = quiet
	}
	return pause*3/4 + rand.N(pause/2)
}

// revive makes a new connection to a server that is down, and asks something on it.
func (s *server) revive(ctx context.Context) error {
	c, err := s.dialer.dial(ctx, s.address)
	if err == nil {
		asking, cancel := context.WithTimeout(ctx, s.dialer.timeout)
		defer cancel()
		if _, err = c.search(asking, rootDSE(), 1); err != nil && !isNetwork(err) {
			err = nil // It answers, though it does not show its root.
		}
		if err != nil {
			c.drop()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.lastErr = err
		return err
	}
	if s.closed {
		c.drop()
		return nil
	}
	// Connections from before the failure may lead to a peer that is gone; requests on them end by themselves.
	for _, old := range s.conns {
		old.expires = time.Time{}
	}
	for _, old := range s.binders {
		old.drop()
	}
	s.leastBusy()
	s.binders = nil
	s.conns = append(s.conns, c)
	s.log.Info("directory server is back", "server", s.address.url, "seconds", time.Since(s.since).Seconds())
	s.down, s.since, s.lastOK = false, time.Now(), time.Now()
	return nil
}

func (s *server) askIfQuiet(ctx context.Context) {
	s.mu.Lock()
	idle := time.Since(s.lastOK) >= quiet
	s.mu.Unlock()
	if idle {
		_ = s.try(ctx, func(ctx context.Context, c *conn) error { // try keeps the outcome
			_, err := c.search(ctx, rootDSE(), 1)
			return err
		})
	}
}

func rootDSE() *ldap.SearchRequest {
	return ldap.NewSearchRequest("", ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, 0, false, "(objectClass=*)",
		[]string{"supportedExtension", "supportedControl", "vendorName", "vendorVersion"}, nil)
}

// close ends all connections and waits for those in the making.
func (s *server) close() {
	s.mu.Lock()
	s.closed = true
	for _, c := range append(s.conns, s.binders...) {
		c.drop()
	}
	s.conns, s.binders = nil, nil
	s.mu.Unlock()
	s.wg.Wait()
}

// checkPassword binds as dn on a connection of its own kind: a bind changes who the whole connection is.
func (s *server) checkPassword(ctx context.Context, dn, password string) error {
	if err := s.isDown(); err != nil {
		return err
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, s.dialer.timeout)
	defer cancel()
	select {
	case s.binding <- struct{}{}:
		defer func() { <-s.binding }()
	case <-ctx.Done():
		return fmt.Errorf("%d password checks at once at %s: %w", cap(s.binding), s.address.url, ctx.Err())
	}
	began := time.Now()
	broken := false
	var err error
	for range 2 {
		var c *conn
		var fresh bool
		if c, fresh, err = s.takeBinder(ctx); err != nil {
			broken = true
			break
		}
		err = bindAs(ctx, c, dn, password)
		if broken = isNetwork(err); !broken {
			s.putBinder(c)
			break
		}
		c.drop()
		if fresh || ctx.Err() != nil {
			break
		}
	}
	if ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultInappropriateAuthentication) {
		err = ErrBadPassword
	}
	s.note(err, time.Since(began), broken && caller.Err() == nil)
	return err
}

// bindAs binds; go-ldap's Bind knows no context, so a context that ends takes the connection with it.
func bindAs(ctx context.Context, c *conn, dn, password string) error {
	defer context.AfterFunc(ctx, c.drop)()
	c.requests.Add(1)
	err := c.lc.Bind(dn, password)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("bind as %s: %w", dn, ctx.Err())
	}
	return err
}

func (s *server) takeBinder(ctx context.Context) (c *conn, fresh bool, err error) {
	s.mu.Lock()
	for len(s.binders) > 0 {
		c = s.binders[len(s.binders)-1]
		s.binders = s.binders[:len(s.binders)-1]
		if c.usable(time.Now()) {
			s.mu.Unlock()
			return c, false, nil
		}
		c.drop()
	}
	s.mu.Unlock()
	c, err = s.dialer.connect(ctx, s.address)
	if err != nil {
		return nil, false, err
	}
	return c, true, c.nc.SetDeadline(time.Time{})
}

func (s *server) putBinder(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.binders) >= s.limit {
		c.drop()
		return
	}
	s.binders = append(s.binders, c)
}
