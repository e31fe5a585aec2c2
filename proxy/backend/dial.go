package backend

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"mailmux/proxy/splice"
)

// DialInfo is what a member may be told about the client in a PROXY header. The zero DialInfo stands for a connection
// that is our own: a check, or a delivery from the queue.
type DialInfo struct {
	Client     netip.AddrPort       // where the client connects from
	Local      netip.AddrPort       // where it connected to
	SessionID  string               // goes into the unique id of a v2 header
	TLS        *tls.ConnectionState // of the client's leg, nil in the clear
	Secured    bool                 // somebody in front of us did TLS with the client
	ServerName string               // the TLS server name (SNI) that the client asked for, "" if none
	Near       *splice.Sock         // the client's connection, if its bytes are going to be relayed
}

// The connection to a member is found dead userTimeout after the last answer, whether bytes are under way or not: then
// the probes that are sent when it is idle count, however many there were (tcp(7), TCP_USER_TIMEOUT).
const (
	keepIdle     = 60 * time.Second
	keepInterval = 20 * time.Second
	userTimeout  = 2 * time.Minute
)

// Dial connects to the service and writes the PROXY header, if the member expects one. All addresses of the member are
// tried, each within connect_timeout. Too many connects at a time wait for their turn. Implicit TLS is for the caller.
//
// A connect that fails counts against the member at once, unless ctx was canceled or the shortage is ours or the DNS's;
// the error is a *DialError then. ErrLoop is an address of our own, ErrBusy a queue that is full, ErrDown a member that
// went down while this session waited.
func (m *Member) Dial(ctx context.Context, service string, d DialInfo) (*splice.Sock, error) {
	i, ok := serviceIndex(service)
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrService, service)
	}
	e := m.settings.Load()
	turn, err := m.turn(ctx, i)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", m, err)
	}
	conn, err := m.connect(ctx, d.Near, e, e.ports[i], e.local.ports[i])
	turn.release()
	if err == nil {
		if err = writeHeader(conn, e, d); err == nil {
			return conn, nil
		}
		conn.Close()
	}
	if errors.Is(err, ErrLoop) || ours(err) || errors.Is(ctx.Err(), context.Canceled) {
		return nil, fmt.Errorf("connect to %s: %w", m, err)
	}
	m.failed(service, err, true)
	return nil, &DialError{Member: m.String(), Err: err}
}

// turns bounds the connects to a member.
type turns struct {
	slots   chan struct{}
	waiting atomic.Int64
}

// queueFactor is how many sessions may wait for each that connects: enough for the storm of logins behind a restart.
const queueFactor = 64

func newTurns(most int) *turns { return &turns{slots: make(chan struct{}, most)} }

func (t *turns) release() { <-t.slots }

// turn waits until a connect may begin. Those that waited behind a member's last breaths are not let through: each would
// wait for a timeout of its own.
func (m *Member) turn(ctx context.Context, i int) (*turns, error) {
	t := m.turns.Load()
	select {
	case t.slots <- struct{}{}:
		return t, nil
	default:
	}
	if t.waiting.Add(1) > int64(queueFactor*cap(t.slots)) {
		t.waiting.Add(-1)
		return nil, ErrBusy
	}
	defer t.waiting.Add(-1)
	before := blocked(m.state.Load()) & (1 << i)
	select {
	case t.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if now := blocked(m.state.Load()) & (1 << i); now != 0 && before == 0 {
		t.release()
		return nil, ErrDown
	}
	return t, nil
}

// connect tries the member's addresses, one after the other. Where one is that of our own listener, the backend behind it
// is at the port local, or nowhere if that is 0.
func (m *Member) connect(ctx context.Context, near *splice.Sock, e *effective, port, local uint16) (*splice.Sock, error) {
	if e.address.name == "" {
		return m.connectTo(ctx, near, e, netip.AddrPortFrom(e.address.ip, port), local)
	}
	addrs, err := m.lookup(ctx, e.address.name)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, a := range addrs {
		conn, err := m.connectTo(ctx, near, e, netip.AddrPortFrom(a, port), local)
		if err == nil {
			if len(addrs) > 1 {
				m.resolved.answered(a)
			}
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// connectTo connects to one address. It costs the system calls of the socket and its options, and no goroutine or timer
// of its own.
func (m *Member) connectTo(ctx context.Context, near *splice.Sock, e *effective, to netip.AddrPort, local uint16) (*splice.Sock, error) {
	if m.table.self(to) {
		if local == 0 {
			return nil, fmt.Errorf("%w: %s", ErrLoop, to)
		}
		if to = e.local.behind(to, local); m.table.self(to) {
			return nil, fmt.Errorf("%w: %s, which is to be the backend behind it", ErrLoop, to)
		}
	}
	prepare := setOptions
	if from := e.source(to.Addr()); from.IsValid() {
		prepare = func(fd int) error { return bound(fd, from) }
	}
	return splice.Dial(ctx, near, to, time.Now().Add(e.ConnectTimeout), prepare)
}

// self says whether an address is that of our own listener.
func (t *Table) self(a netip.AddrPort) bool {
	return t.options.Self != nil && t.options.Self(a)
}

// behind is where the backend behind our own listener is.
func (l *local) behind(own netip.AddrPort, port uint16) netip.AddrPort {
	if l.ip.IsValid() {
		return netip.AddrPortFrom(l.ip, port)
	}
	return netip.AddrPortFrom(own.Addr(), port)
}

// home is the address of the backend behind our own listener, if the member's address is that of the listener. Members
// that are not to be such ones cost nothing here.
func (m *Member) home(e *effective, i int) (netip.AddrPort, bool) {
	if e.local.ports[i] == 0 {
		return netip.AddrPort{}, false
	}
	addrs := []netip.Addr{e.address.ip}
	if e.address.name != "" {
		addrs = m.resolved.last()
	}
	for _, a := range addrs {
		if own := netip.AddrPortFrom(a, e.ports[i]); m.table.self(own) {
			return e.local.behind(own, e.local.ports[i]), true
		}
	}
	return netip.AddrPort{}, false
}

// source is the local address to connect from, the next in turn; invalid where the system chooses.
func (e *effective) source(to netip.Addr) netip.Addr {
	list := e.source6
	if to.Is4() {
		list = e.source4
	}
	if len(list) == 0 {
		return netip.Addr{}
	}
	return list[e.next.Add(1)%uint64(len(list))]
}

// setOptions sets what sessions need. The kernel is to notice a member that is gone: when nothing is sent by keepalive,
// and when something is by the time that it may stay unacknowledged.
func setOptions(fd int) error {
	return errors.Join(
		splice.SetOption(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		splice.SetOption(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		splice.SetOption(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepIdle/time.Second)),
		splice.SetOption(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepInterval/time.Second)),
		splice.SetOption(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout/time.Millisecond)),
	)
}

// bound also binds to a source address, and leaves the port to connect: bind alone would need one that no other
// destination uses.
func bound(fd int, from netip.Addr) error {
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: from.As16()}
	if from.Is4() {
		sa = &unix.SockaddrInet4{Addr: from.As4()}
	}
	return errors.Join(
		setOptions(fd),
		splice.SetOption(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		os.NewSyscallError("bind", unix.Bind(fd, sa)),
	)
}

// reachMember connects for a check. It takes no turn: one check of a member runs at a time.
func reachMember(ctx context.Context, m *Member, service int) (net.Conn, error) {
	e := m.settings.Load()
	conn, err := m.connect(ctx, nil, e, e.ports[service], e.local.ports[service])
	if err != nil {
		return nil, err
	}
	if err := writeHeader(conn, e, DialInfo{}); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
