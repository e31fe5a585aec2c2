package splice

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Acceptor is a listening socket. Compared with net.TCPListener it spares the questions for addresses that are known,
// and the scheduler's attention for a call that never waits.
type Acceptor struct {
	file  *os.File
	raw   syscall.RawConn
	addr  net.Addr
	local netip.AddrPort // of every connection; invalid where the socket is bound to all addresses

	ending atomic.Bool
}

// NewAcceptor takes the socket of l over; l is closed, the socket stays. The options that a connection inherits from it
// are to be set by whoever made l; TCP_NODELAY is set here.
func NewAcceptor(l *net.TCPListener) (*Acceptor, error) {
	defer l.Close()
	file, err := l.File()
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { SetOption(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) })
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	a := &Acceptor{file: file, raw: raw, addr: l.Addr()}
	if t, ok := a.addr.(*net.TCPAddr); ok && !t.IP.IsUnspecified() {
		a.local = t.AddrPort()
		a.local = netip.AddrPortFrom(a.local.Addr().Unmap(), a.local.Port())
	}
	return a, nil
}

// Addr is what is listened on.
func (a *Acceptor) Addr() net.Addr { return a.addr }

// End stops listening when the connections that are there already have been accepted: Accept returns them, and then
// net.ErrClosed. Close would reset them.
func (a *Acceptor) End() {
	a.ending.Store(true)
	a.file.SetReadDeadline(time.Unix(1, 0))
}

// last takes one of the connections that are there, and closes the socket behind the last one.
func (a *Acceptor) last() (fd int, peer netip.AddrPort, failed, err error) {
	err = a.raw.Control(func(l uintptr) { fd, peer, failed = accept(int(l)) })
	if failed == unix.EAGAIN {
		err = a.Close()
		if err == nil {
			err = net.ErrClosed
		}
	}
	return fd, peer, failed, err
}

// Close stops listening. An Accept that waits returns.
func (a *Acceptor) Close() error { return a.file.Close() }

// Accept waits for a connection. The error is net.ErrClosed when the listener is closed, and otherwise passes sooner or
// later: no descriptors, no memory.
func (a *Acceptor) Accept() (*Sock, error) {
	var (
		fd     = -1
		peer   netip.AddrPort
		failed error
	)
	err := a.raw.Read(func(l uintptr) bool {
		fd, peer, failed = accept(int(l))
		return failed != unix.EAGAIN
	})
	if a.ending.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		fd, peer, failed, err = a.last()
	}
	switch {
	case err != nil:
		return nil, opError("accept", net.ErrClosed)
	case failed != nil:
		return nil, opError("accept", os.NewSyscallError("accept4", failed))
	}
	b, err := somePoller()
	if err != nil {
		closeFD(fd)
		return nil, err
	}
	s, err := newSock(fd, b, false)
	if err != nil {
		return nil, err
	}
	s.local, s.remote = a.local, peer
	return s, nil
}

// accept is accept4(2). Connections that are gone again are passed over (accept(2), "Error handling").
func accept(l int) (fd int, peer netip.AddrPort, err error) {
	for {
		var sa unix.RawSockaddrAny
		size := uint32(unsafe.Sizeof(sa))
		n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(l), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)),
			unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
			return int(n), fromRaw(&sa), nil
		case unix.EINTR, unix.ECONNABORTED, unix.EPROTO, unix.ENETDOWN, unix.EHOSTDOWN, unix.EHOSTUNREACH, unix.ENETUNREACH:
		default:
			return -1, netip.AddrPort{}, errno
		}
	}
}

// Dial connects to an address until deadline, or until ctx ends. prepare, if there is one, sets what is to be set on the
// socket before it connects, and may bind it; without a bind the port is left to connect, which finds one that is free
// for this destination. near, if there is one, is the connection that this one is going to be relayed to: the same poller
// serves both.
func Dial(ctx context.Context, near *Sock, to netip.AddrPort, deadline time.Time, prepare func(fd int) error) (*Sock, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	for tries := 0; ; tries++ {
		s, err := dial(ctx, near, to, deadline, prepare)
		// On the loopback the system may choose the very port that is dialed: then a socket is connected to itself.
		if err == nil && to.Port() >= 1024 && tries < 3 && name(unix.SYS_GETSOCKNAME, s.fd) == to {
			s.Close()
			continue
		}
		if err != nil {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
		}
		return s, nil
	}
}

func dial(ctx context.Context, near *Sock, to netip.AddrPort, deadline time.Time, prepare func(fd int) error) (*Sock, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := pollerNear(near)
	if err != nil {
		return nil, err
	}
	family, sa := toSockaddr(to)
	n, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if errno != 0 {
		return nil, os.NewSyscallError("socket", errno)
	}
	fd := int(n)
	if prepare != nil {
		if err := prepare(fd); err != nil {
			closeFD(fd)
			return nil, err
		}
	}
	done, err := sa.connect(fd)
	if !done { // a near peer has answered by now
		done, err = sa.connect(fd)
	}
	if err != nil {
		closeFD(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	s, err := newSock(fd, b, !done)
	if err != nil {
		return nil, err
	}
	s.remote = to
	if !done {
		if err := s.connected(ctx, &sa, deadline); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

func pollerNear(s *Sock) (*poller, error) {
	if s != nil {
		return s.poller, nil
	}
	return somePoller()
}

// connected waits until the connection stands.
func (s *Sock) connected(ctx context.Context, sa *sockaddr, deadline time.Time) error {
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	s.SetWriteDeadline(deadline)
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, func() { s.SetWriteDeadline(time.Unix(1, 0)) })()
	}
	if err := s.connect(sa); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	return s.SetWriteDeadline(time.Time{})
}

func (s *Sock) connect(sa *sockaddr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if err := s.refused(&s.out); err != nil {
			return err
		}
		if s.writable {
			done, err := sa.connect(s.fd)
			if err != nil {
				return os.NewSyscallError("connect", err)
			}
			if done {
				return nil
			}
			s.writable = false
		}
		s.wait(&s.out)
	}
}

// sockaddr is an address as connect(2) takes it.
type sockaddr struct {
	v4   unix.RawSockaddrInet4
	v6   unix.RawSockaddrInet6
	size uintptr
}

func toSockaddr(to netip.AddrPort) (family int, sa sockaddr) {
	port := networkOrder(to.Port())
	if to.Addr().Is4() {
		sa.v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: to.Addr().As4()}
		sa.size = unsafe.Sizeof(sa.v4)
		return unix.AF_INET, sa
	}
	sa.v6 = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: to.Addr().As16(), Scope_id: scope(to.Addr().Zone())}
	sa.size = unsafe.Sizeof(sa.v6)
	return unix.AF_INET6, sa
}

// scope is the index of an interface that an address names, as fe80::1%eth0 does.
func scope(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	n, _ := strconv.ParseUint(zone, 10, 32)
	return uint32(n)
}

// SetOption is setsockopt(2) for an option that is a number, on a descriptor that is nobody else's yet.
func SetOption(fd, level, option, value int) error {
	n := int32(value)
	_, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&n)), unsafe.Sizeof(n), 0)
	if errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return nil
}

// connect is connect(2), again and again until it is done: while a connection is being made it says EALREADY, then once
// 0 or what went wrong.
func (sa *sockaddr) connect(fd int) (done bool, err error) {
	at := unsafe.Pointer(&sa.v4)
	if sa.size == unsafe.Sizeof(sa.v6) {
		at = unsafe.Pointer(&sa.v6)
	}
	switch _, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(at), sa.size); errno {
	case 0, unix.EISCONN:
		return true, nil
	case unix.EINPROGRESS, unix.EALREADY, unix.EINTR:
		return false, nil
	default:
		return true, errno
	}
}

// networkOrder is htons(3), and ntohs(3).
func networkOrder(port uint16) uint16 {
	return binary.NativeEndian.Uint16([]byte{byte(port >> 8), byte(port)})
}

func fromRaw(sa *unix.RawSockaddrAny) netip.AddrPort {
	switch sa.Addr.Family {
	case unix.AF_INET:
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), networkOrder(v4.Port))
	case unix.AF_INET6:
		v6 := (*unix.RawSockaddrInet6)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(zoned(netip.AddrFrom16(v6.Addr).Unmap(), v6.Scope_id), networkOrder(v6.Port))
	}
	return netip.AddrPort{}
}

// name is getsockname(2) or getpeername(2).
func name(call uintptr, fd int) netip.AddrPort {
	var sa unix.RawSockaddrAny
	size := uint32(unsafe.Sizeof(sa))
	if _, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size))); errno != 0 {
		return netip.AddrPort{}
	}
	return fromRaw(&sa)
}

func zoned(a netip.Addr, scope uint32) netip.Addr {
	if scope == 0 || !a.Is6() {
		return a
	}
	if i, err := net.InterfaceByIndex(int(scope)); err == nil {
		return a.WithZone(i.Name)
	}
	return a.WithZone(strconv.FormatUint(uint64(scope), 10))
}
