package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mailmux/proxy/splice"
)

// listener is one listening socket. Its configuration may change at a reload, its address does not.
type listener struct {
	socket *splice.Acceptor
	cfg    atomic.Pointer[Listener]
	closed sync.Once
	ended  chan struct{} // closed when nothing is accepted any more
}

// Keepalive of the clients' connections: a peer that vanished is noticed within some four minutes, an idle one costs a
// packet every two.
const (
	keepIdle     = 120 // seconds
	keepInterval = 30
	keepCount    = 4
	userTimeout  = 180_000 // milliseconds that sent bytes may stay unacknowledged (RFC 5482)
)

// listen opens one address. Connections inherit the socket's options, which saves their calls on each of them.
func listen(address string) (*listener, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(setListenOptions)
	}}
	// Plain TCP, whatever Go's default is: the options above are inherited for certain.
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	return newListener(l.(*net.TCPListener))
}

func newListener(tcp *net.TCPListener) (*listener, error) {
	socket, err := splice.NewAcceptor(tcp)
	if err != nil {
		return nil, err
	}
	return &listener{socket: socket, ended: make(chan struct{})}, nil
}

func setListenOptions(fd uintptr) {
	unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepIdle)
	unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepInterval)
	unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepCount)
	unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, userTimeout)
}

// inherit takes a socket over from systemd. The server is locked.
func (srv *Server) inherit(l net.Listener) {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		l.Close()
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		raw.Control(setListenOptions)
	}
	if l, err := newListener(tcp); err == nil {
		srv.listeners[l.socket.Addr().String()] = l
	}
}

// key is an address as the listeners' map has it.
func (l *Listener) key() string {
	addr, err := net.ResolveTCPAddr("tcp", l.Address)
	if err != nil {
		return l.Address
	}
	return strings.Replace(addr.String(), "0.0.0.0:", "[::]:", 1)
}

// open opens the sockets that are not there yet, all or none. The server is locked.
func (srv *Server) open(config []Listener) (map[string]*listener, error) {
	opened := map[string]*listener{}
	var faults []error
	for i, c := range config {
		key := c.key()
		if opened[key] != nil || srv.find(key) != nil && !strings.HasSuffix(key, ":0") {
			continue
		}
		l, err := listen(c.Address)
		if err != nil {
			faults = append(faults, fmt.Errorf("listeners[%d].address: %w%s", i, err, srv.helps(err, key)))
			continue
		}
		opened[key] = l
	}
	if len(faults) > 0 {
		for _, l := range opened {
			l.close()
		}
		return nil, errors.Join(faults...)
	}
	return opened, nil
}

// helps says what helps against an address that cannot be listened on. The server is locked.
func (srv *Server) helps(err error, key string) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		for _, l := range srv.listeners {
			bound := addrPort(l.socket.Addr())
			covers := bound.Addr().IsUnspecified() || strings.HasPrefix(key, "[::]:")
			if covers && strings.HasSuffix(key, fmt.Sprintf(":%d", bound.Port())) {
				return fmt.Sprintf("; this frontend itself listens at %s until it is restarted", bound)
			}
		}
		return "; another program listens there: ss -ltnp tells which"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "; this machine has no such address"
	}
	return ""
}

// find looks for a socket that is there, under its own address or an equal one.
func (srv *Server) find(key string) *listener {
	if l := srv.listeners[key]; l != nil {
		return l
	}
	for _, l := range srv.listeners {
		if bound := l.socket.Addr().String(); bound == key || bound == strings.Replace(key, "[::]:", "0.0.0.0:", 1) {
			return l
		}
	}
	return nil
}

// adopt makes the listeners be those of the configuration: new ones begin, others go on with their new settings, those
// not wanted any more are closed. The server is locked.
func (srv *Server) adopt(config []Listener, opened map[string]*listener) {
	keep := map[string]*listener{}
	for _, c := range config {
		key := c.key()
		l, isNew := opened[key], true
		if l == nil {
			l = srv.find(key)
			isNew = l.cfg.Load() == nil // inherited
		}
		l.cfg.Store(&c)
		keep[key] = l
		if isNew {
			srv.sessions.Go(func() { srv.accept(l) })
		}
	}
	for _, l := range srv.listeners {
		if slices.Contains(slices.Collect(maps.Values(keep)), l) {
			continue
		}
		if l.cfg.Load() == nil { // systemd goes on listening there
			srv.log.Warn("no listener has this socket from systemd, and clients wait there for nothing: add it to listeners, or take it out of the socket unit",
				"address", l.socket.Addr().String())
		}
		l.close()
	}
	srv.listeners = keep
	srv.noteOwn()
}

// lastAccepts bounds how long those who have connected are waited for when a socket is closed. They are there, so it takes no
// time, but where limits.sessions is reached.
const lastAccepts = time.Second

// stopListening closes all listening sockets, behind the last client that has connected by now: a close would reset those
// who were not accepted yet. ctx cuts that short.
func (srv *Server) stopListening(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastAccepts)
	defer cancel()
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for _, l := range srv.listeners {
		l.socket.End()
	}
	for _, l := range srv.listeners {
		select {
		case <-l.ended:
		case <-ctx.Done():
		}
		l.close()
	}
	srv.listeners = map[string]*listener{}
}

func (l *listener) close() { l.closed.Do(func() { l.socket.Close() }) }

// accept is a listener's goroutine: wait until a slot is free, accept, take a slot, begin the session.
func (srv *Server) accept(l *listener) {
	defer close(l.ended)
	backoff := 5 * time.Millisecond
	for srv.slots.wait() {
		nc, err := l.socket.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of descriptors or memory; it passes
			srv.log.Warn("cannot accept a connection", "address", l.socket.Addr().String(), "error", err, "next_try_in", backoff.String())
			if pause(srv.ctx, backoff) != nil {
				return
			}
			backoff = min(2*backoff, time.Second)
			continue
		}
		backoff = 5 * time.Millisecond
		if !srv.slots.take() {
			nc.Close()
			return
		}
		srv.begin(nc, *l.cfg.Load())
	}
}

// Addrs are the addresses that are listened on, by service; with port 0 in the configuration they tell which it is.
func (srv *Server) Addrs() map[string][]net.Addr {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	addrs := map[string][]net.Addr{}
	for _, l := range srv.listeners {
		service := l.cfg.Load().Service
		addrs[service] = append(addrs[service], l.socket.Addr())
	}
	return addrs
}

// Self says whether an address is one that this server listens on: a member there would be a loop.
func (srv *Server) Self(a netip.AddrPort) bool {
	own := srv.own.Load()
	return own != nil && own.has(a)
}

// ownAddrs are the addresses that are listened on, and those of the machine, for sockets that listen on all of them.
type ownAddrs struct {
	bound   []netip.AddrPort
	machine []netip.Addr
}

func (o *ownAddrs) has(a netip.AddrPort) bool {
	for _, b := range o.bound {
		if b.Port() == a.Port() && (b.Addr() == a.Addr().Unmap() || b.Addr().IsUnspecified() && o.here(a.Addr().Unmap())) {
			return true
		}
	}
	return false
}

func (o *ownAddrs) here(a netip.Addr) bool {
	return a.IsLoopback() || a.IsUnspecified() || slices.Contains(o.machine, a)
}

// noteOwn takes down what Self asks for. The server is locked.
func (srv *Server) noteOwn() {
	o := &ownAddrs{}
	for _, l := range srv.listeners {
		o.bound = append(o.bound, addrPort(l.socket.Addr()))
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		srv.log.Warn("cannot list the machine's addresses: loops through them are found by their time to live only", "error", err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			o.machine = append(o.machine, p.Addr().Unmap())
		}
	}
	srv.own.Store(o)
}
