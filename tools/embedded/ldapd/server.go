package ldapd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
)

// ErrClosed is what Serve returns after Close.
var ErrClosed = errors.New("ldapd: server closed")

// Config says how a server behaves. The zero value is an open directory: everybody may read, who is bound may write.
type Config struct {
	// RootDN and RootPassword may bind without an entry in the tree. Empty: nobody.
	RootDN       string
	RootPassword string
	// RequireBind refuses searches, except of the root DSE, on connections that are not bound.
	RequireBind bool
	// AnonymousWrites lets connections change the directory that are not bound.
	AnonymousWrites bool
	// TLS, if set, offers StartTLS. For ldaps serve a tls.Listener.
	TLS *tls.Config
	// SizeLimit is the most entries a search returns that is not paged. Zero: no limit, this is a tool.
	SizeLimit int
	// NoPaging plays a server without the simple paged results control.
	NoPaging bool
	// NoTransactions plays a server without RFC 5805.
	NoTransactions bool
	// EmptyTransactionID names every transaction "", as OpenLDAP does.
	EmptyTransactionID bool
	// MaxMessage bounds a request in bytes. Zero: 1 MiB.
	MaxMessage int
}

// Server answers LDAP requests on any number of listeners. Its methods may be called from many goroutines.
type Server struct {
	tree   *Tree
	config Config

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	hook      Hook
	counts    map[Op]int64
	closed    bool

	running sync.WaitGroup
}

// New makes a server in front of a tree.
func New(tree *Tree, config Config) *Server {
	if config.MaxMessage <= 0 {
		config.MaxMessage = defaultMaxMessage
	}
	return &Server{
		tree:      tree,
		config:    config,
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*conn]struct{}),
		counts:    make(map[Op]int64),
	}
}

// Serve answers connections from a listener, which it closes, until Close; then it returns ErrClosed. It may run for
// several listeners at once.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	for {
		nc, err := l.Accept()
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.listeners, l)
			if s.closed {
				return ErrClosed
			}
			return fmt.Errorf("accept LDAP connection on %s: %w", l.Addr(), err)
		}
		s.start(nc)
	}
}

// start runs one connection, unless the server was closed meanwhile.
func (s *Server) start(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		nc.Close()
		return
	}
	s.counts[OpConnect]++
	c := newConn(s, nc, s.counts[OpConnect])
	s.conns[c] = struct{}{}
	s.running.Add(1)
	go s.run(c)
}

// run serves a connection and forgets it.
func (s *Server) run(c *conn) {
	defer s.running.Done()
	c.serve()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// DropConnections closes all connections, as a restart or a firewall does, and keeps listening.
func (s *Server) DropConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.close()
	}
}

// Close closes listeners and connections and waits until every goroutine of the server has ended. Requests that a hook
// delays are given up. The tree stays as it is.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		c.close()
	}
	s.mu.Unlock()
	s.running.Wait()
	return nil
}
