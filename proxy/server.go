package proxy

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mailmux/directory"
	"mailmux/proxy/backend"
	"mailmux/proxy/splice"
)

// Config is what the configuration says of the engine.
type Config struct {
	Hostname  string
	Listeners []Listener
	TLS       TLS
	Limits    Limits
	Auth      Auth
	Trace     []netip.Prefix // clients whose words are logged until the hand-over
}

// Parts are what a server is made of. A reload brings new ones.
type Parts struct {
	Config    Config
	Directory directory.Lookup
	Domains   directory.Domains
	Hosts     *backend.Table
	Claims    Claims             // nil: hosts with sticky: claim are hosts with sticky: hash
	Handlers  map[string]Handler // by service
	Log       *slog.Logger       // nil is silent
	Metrics   Metrics            // nil counts nothing

	// Dial connects to a member: nil for the member's own Dial. Tests put a pipe here.
	Dial func(ctx context.Context, m *backend.Member, service string, info backend.DialInfo) (net.Conn, error)
}

// State is everything the configuration decides. A session keeps the one it began with.
type State struct {
	Parts
	limits             Limits
	tls                *tlsServer // nil without a certificate
	clientNameBy       string
	mechanisms         []string
	mechanismsExternal []string
}

// Server is the engine. Its methods may be called from many goroutines.
type Server struct {
	state    atomic.Pointer[State]
	log      *slog.Logger
	metrics  Metrics
	pump     *splice.Pump
	registry *registry
	slots    *slots

	penalties penalties
	timing    *timing
	losses    losses
	idPrefix  string
	nextID    atomic.Uint64

	mu        sync.Mutex
	listeners map[string]*listener // by address
	own       atomic.Pointer[ownAddrs]
	draining  atomic.Bool

	evacuating atomic.Int32    // calls of Evacuate since it began; 0: none runs
	ctx        context.Context // ends when nothing is to be waited for any more
	cancel     context.CancelFunc
	sessions   sync.WaitGroup // goroutines of listeners, and of sessions before their hand-over
	workers    workers
}

// New makes a server of its parts. It listens nowhere yet. The error joins all faults; each begins with its key.
func New(parts Parts) (*Server, error) {
	srv := &Server{
		log:       parts.Log,
		metrics:   parts.Metrics,
		registry:  newRegistry(),
		timing:    newTiming(),
		listeners: map[string]*listener{},
		idPrefix:  idPrefix(),
	}
	srv.penalties.table = map[netip.Addr]penalty{}
	if srv.log == nil {
		srv.log = slog.New(slog.DiscardHandler)
	}
	if srv.metrics == nil {
		srv.metrics = noMetrics{}
	}
	state, err := newState(parts, nil)
	if err != nil {
		return nil, err
	}
	srv.state.Store(state)
	srv.slots = newSlots(state.limits.Sessions)
	srv.pump = splice.New(state.relay())
	srv.workers.next = make(chan accepted)
	srv.ctx, srv.cancel = context.WithCancel(context.Background())
	return srv, nil
}

func newState(parts Parts, old *State) (*State, error) {
	s := &State{Parts: parts, limits: parts.Config.Limits.WithDefaults(), clientNameBy: parts.Config.TLS.ClientName}
	var faults []error
	under := func(key string, err error) {
		if err != nil {
			faults = append(faults, fmt.Errorf("%s.%w", key, err))
		}
	}
	var oldTLS *tlsServer
	if old != nil {
		oldTLS = old.tls
	}
	var err error
	s.tls, err = newTLS(&parts.Config.TLS, oldTLS)
	under("tls", err)
	for i, l := range parts.Config.Listeners {
		if l.TLS == TLSImplicit && len(parts.Config.TLS.Certificates) == 0 {
			faults = append(faults, fmt.Errorf("listeners[%d].tls: implicit TLS needs tls.certificates", i))
		}
		if parts.Handlers[l.Service] == nil {
			faults = append(faults, fmt.Errorf("listeners[%d].service: %q is not built in", i, l.Service))
		}
	}
	s.mechanisms = parts.Config.Auth.offered(false)
	s.mechanismsExternal = parts.Config.Auth.offered(true)
	return s, errors.Join(faults...)
}

// halfClosed ends a session one of whose directions is closed, when the other is silent for so long.
const halfClosed = time.Minute

func (s *State) relay() splice.Config {
	return splice.Config{Idle: s.limits.IdleTimeout, HalfClosed: halfClosed}
}

// Reload puts new parts in place for the sessions to come, listens where it is new and stops where it is not wanted any
// more. Sessions live on. After an error everything is as before.
func (srv *Server) Reload(parts Parts) error {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	state, err := newState(parts, srv.state.Load())
	if err != nil {
		return err
	}
	opened, err := srv.open(parts.Config.Listeners)
	if err != nil {
		return err
	}
	srv.state.Store(state)
	srv.pump.Configure(state.relay())
	srv.slots.resize(state.limits.Sessions)
	srv.adopt(parts.Config.Listeners, opened)
	return nil
}

// Listen opens all listening sockets, or takes them from inherited (by systemd), and accepts nothing yet.
func (srv *Server) Listen(inherited []net.Listener) error {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for _, l := range inherited {
		srv.inherit(l)
	}
	config := srv.state.Load().Config.Listeners
	opened, err := srv.open(config)
	if err != nil {
		return err
	}
	srv.adopt(config, opened)
	return nil
}

// Drain stops listening, tells the clients that have not logged in yet to come again, and waits until the last session
// has ended or the context has; then it ends the rest. It reports how many it had to end.
func (srv *Server) Drain(ctx context.Context) (cut int) {
	srv.draining.Store(true)
	srv.stopListening(ctx)
	srv.slots.close()
	for _, rec := range srv.registry.matching(func(r *Record) bool { return !r.handed.Load() }) {
		rec.interrupt()
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for srv.Sessions() > 0 {
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		break
	}
	cut = srv.Sessions()
	srv.Close()
	return cut
}

// Sessions is the number of sessions there are.
func (srv *Server) Sessions() int { return srv.registry.size() }

// Close ends every session at once and gives all sockets back.
func (srv *Server) Close() {
	srv.draining.Store(true)
	srv.cancel()
	srv.mu.Lock()
	for _, l := range srv.listeners {
		l.close()
	}
	srv.listeners = map[string]*listener{}
	srv.mu.Unlock()
	srv.slots.close()
	for _, rec := range srv.registry.matching(func(*Record) bool { return true }) {
		rec.cut()
	}
	srv.sessions.Wait()
	srv.pump.Close()
}

// idPrefix tells the sessions of this run of this frontend from all others.
func idPrefix() string {
	var b [5]byte
	rand.Read(b[:])
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

func (srv *Server) newID() string {
	return srv.idPrefix + "-" + strconv.FormatUint(srv.nextID.Add(1), 36)
}

// slots is the ceiling of sessions. Listeners wait for a slot before they accept: what cannot be served waits in the
// kernel's queue.
type slots struct {
	mu        sync.Mutex
	free      *sync.Cond
	used, max int
	closed    bool
}

func newSlots(n int) *slots {
	s := &slots{max: n}
	s.free = sync.NewCond(&s.mu)
	return s
}

// take waits for a slot. It returns false when the server is closed.
func (s *slots) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.used >= s.max && !s.closed {
		s.free.Wait()
	}
	if s.closed {
		return false
	}
	s.used++
	return true
}

// wait waits until a slot seems to be free. Several listeners may see the same one; take decides.
func (s *slots) wait() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.used >= s.max && !s.closed {
		s.free.Wait()
	}
	return !s.closed
}

func (s *slots) give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	s.free.Broadcast()
}

func (s *slots) resize(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.max = n
	s.free.Broadcast()
}

func (s *slots) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.free.Broadcast()
}
