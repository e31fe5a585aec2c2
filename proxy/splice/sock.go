package splice

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Sock is a TCP connection that the relay can take over. Until then it is an ordinary net.Conn with deadlines, and serves
// as the connection below TLS as well.
//
// After take, its descriptor belongs to the relay: Read never waits, and Write keeps what it is given until flush.
type Sock struct {
	open  *open  // until take
	ahead []byte // read already, such as what came behind a PROXY header
	gate  *Gate  // nil without one

	fd      int    // valid once open is nil
	drained bool   // the last read came back short
	hup     bool   // the peer's FIN is there: a short read is not the end
	queue   []byte // written by TLS, not yet sent
}

// open is a connection that Go's poller waits for.
type open struct {
	socket
	raw           syscall.RawConn
	local, remote netip.AddrPort // asked for when they are invalid
}

// socket is what waits and has deadlines: an os.File around a descriptor of ours, or a net.TCPConn.
type socket interface {
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	SyscallConn() (syscall.RawConn, error)
	Close() error
}

// NewSock wraps a connection that package net has opened. Closing the Sock closes c.
func NewSock(c *net.TCPConn) *Sock {
	s, _ := newSock(c) // a nil connection would be refused
	return s
}

func newSock(c socket) (*Sock, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &Sock{open: &open{socket: c, raw: raw}, fd: -1}, nil
}

// Guard has every write before take ask a gate; nil takes it away. It is called by whoever writes.
func (s *Sock) Guard(g *Gate) {
	if s.open == nil || s.gate == g {
		return
	}
	s.gate = g
	timeout := plainTimeout
	if g != nil {
		timeout = claimedTimeout
	}
	s.open.raw.Control(func(fd uintptr) { SetOption(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, timeout) })
}

// Unread puts bytes back: Read returns them first. The slice belongs to the Sock then.
func (s *Sock) Unread(b []byte) { s.ahead = b }

var errTaken = errors.New("connection is the relay's")

// wouldBlock is what Read says when nothing is there. It claims to be temporary, so that crypto/tls does not hold it
// against the connection for ever.
type wouldBlock struct{}

func (wouldBlock) Error() string   { return "nothing to read now" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

func (s *Sock) Read(p []byte) (int, error) {
	if len(s.ahead) > 0 {
		n := copy(p, s.ahead)
		if s.ahead = s.ahead[n:]; len(s.ahead) == 0 {
			s.ahead = nil
		}
		return n, nil
	}
	if s.open != nil {
		return s.wait(unix.SYS_READ, p)
	}
	if s.drained {
		return 0, wouldBlock{}
	}
	n, err := readFD(s.fd, p)
	switch {
	case err == unix.EAGAIN:
		s.drained = true
		return 0, wouldBlock{}
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	s.drained = n < len(p) && !s.hup
	return n, nil
}

func (s *Sock) Write(p []byte) (int, error) {
	if s.open != nil {
		if !s.gate.Open() {
			return 0, ErrGate
		}
		return s.wait(unix.SYS_WRITE, p)
	}
	if s.queue == nil {
		s.queue = getQueue()
	}
	s.queue = append(s.queue, p...)
	return len(p), nil
}

// wait reads or writes before take: Go's poller waits, within the deadline, and the call itself is bare. The scheduler
// watches whoever is in a system call that it was told of, every 20 µs; on calls that never wait that is wasted, and
// was measured at 5 % of a login.
func (s *Sock) wait(call uintptr, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	t := transfers.Get().(*transfer)
	t.call, t.p, t.n, t.err = call, p, 0, nil
	var err error
	if call == unix.SYS_READ {
		err = s.open.raw.Read(t.step)
	} else {
		err = s.open.raw.Write(t.step)
	}
	n := t.n
	if err == nil {
		err = t.err
	} else {
		err = opError(t.op(), waited(err))
	}
	t.p = nil
	transfers.Put(t)
	return n, err
}

// transfer is a read or a write that may have to wait.
type transfer struct {
	call uintptr
	p    []byte
	n    int
	err  error
	step func(fd uintptr) (done bool)
}

var transfers = sync.Pool{New: func() any {
	t := new(transfer)
	t.step = t.try
	return t
}}

// try goes on with the transfer, and says whether it is done.
func (t *transfer) try(fd uintptr) bool {
	for {
		n, err := rawIO(t.call, int(fd), t.p[t.n:])
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return false
		case err != nil:
			t.err = opError(t.op(), err)
			return true
		case t.call == unix.SYS_READ:
			if t.n = n; n == 0 {
				t.err = io.EOF
			}
			return true
		default:
			if t.n += n; t.n == len(t.p) {
				return true
			}
		}
	}
}

func (t *transfer) op() string {
	if t.call == unix.SYS_READ {
		return "read"
	}
	return "write"
}

// waited says what the end of a wait means: its deadline, or that the connection was closed meanwhile.
func waited(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return net.ErrClosed
}

// opError keeps io.EOF and the like out: it is for what the system says.
func opError(op string, err error) error { return &net.OpError{Op: op, Net: "tcp", Err: err} }

// CloseWrite sends a FIN: the peer reads the end, and may go on writing. After take it does nothing.
func (s *Sock) CloseWrite() error {
	if s.open == nil {
		return nil
	}
	var failed error
	err := s.open.raw.Control(func(fd uintptr) { failed = unix.Shutdown(int(fd), unix.SHUT_WR) })
	return errors.Join(err, failed)
}

// Close closes the connection. After take it does nothing: the relay closes.
func (s *Sock) Close() error {
	if s.open != nil {
		return s.open.Close()
	}
	return nil
}

// gentle bounds how much of a peer's last words is read and thrown away on closing.
const gentle = 256 << 10

// CloseGently closes the connection so that what was sent arrives: first the direction to the peer (with TLS's
// close_notify, if t is over this Sock), then, after what the peer has sent already is thrown away, the rest. A close
// with unread bytes would be a reset, which may overtake the last line. It does not wait.
func (s *Sock) CloseGently(t *tls.Conn) {
	if s.open == nil {
		return
	}
	if t != nil {
		t.CloseWrite()
	}
	s.CloseWrite()
	s.open.raw.Control(func(fd uintptr) {
		buf := scratches.Get().(*[scratchSize]byte)
		defer scratches.Put(buf)
		for got := 0; got < gentle; {
			n, err := readFD(int(fd), buf[:])
			if n <= 0 || err != nil {
				return
			}
			got += n
		}
	})
	s.open.Close()
}

// QuickAck has what comes next acknowledged at once (tcp(7), TCP_QUICKACK). A peer that answers one write of ours with
// two small ones of its own, without TCP_NODELAY, sends the second one only then: 40 ms later otherwise. The kernel
// goes back to delaying by itself, so it is to be said again behind each write.
func (s *Sock) QuickAck() {
	if s.open == nil {
		return
	}
	s.open.raw.Control(quickAck)
}

// name is one end's address, asked for once.
func (o *open) name(known *netip.AddrPort, ask func(fd int) (unix.Sockaddr, error)) netip.AddrPort {
	if !known.IsValid() {
		o.raw.Control(func(fd uintptr) {
			if sa, err := ask(int(fd)); err == nil {
				*known = fromSockaddr(sa)
			}
		})
	}
	return *known
}

func tcpAddr(a netip.AddrPort) net.Addr {
	if !a.IsValid() {
		return nil // of a connection that is closed
	}
	return net.TCPAddrFromAddrPort(a)
}

func quickAck(fd uintptr) {
	SetOption(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
}

// SyscallConn gives access to the descriptor, before take.
func (s *Sock) SyscallConn() (syscall.RawConn, error) {
	if s.open == nil {
		return nil, errTaken
	}
	return s.open.raw, nil
}

// LocalAddr is the connection's; nil after take.
func (s *Sock) LocalAddr() net.Addr {
	if s.open != nil {
		return tcpAddr(s.open.name(&s.open.local, unix.Getsockname))
	}
	return nil
}

// RemoteAddr is the connection's; nil after take.
func (s *Sock) RemoteAddr() net.Addr {
	if s.open != nil {
		return tcpAddr(s.open.name(&s.open.remote, unix.Getpeername))
	}
	return nil
}

// SetDeadline sets the connection's; after take there are none, and it says so.
func (s *Sock) SetDeadline(t time.Time) error {
	if s.open != nil {
		return s.open.SetDeadline(t)
	}
	return errTaken
}

// SetReadDeadline is SetDeadline for reading.
func (s *Sock) SetReadDeadline(t time.Time) error {
	if s.open != nil {
		return s.open.SetReadDeadline(t)
	}
	return errTaken
}

// SetWriteDeadline is SetDeadline for writing. After take, TLS may call it on closing, where it means nothing.
func (s *Sock) SetWriteDeadline(t time.Time) error {
	if s.open != nil {
		return s.open.SetWriteDeadline(t)
	}
	return nil
}

// take moves the descriptor from Go's poller into the caller's hands. Duplicating it is the one way to do so: closing
// the original ends its registration there, and the connection lives on.
func (s *Sock) take() (int, error) {
	fd, dupErr := -1, error(nil)
	if err := s.open.raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, err
	}
	if dupErr != nil {
		return -1, dupErr
	}
	s.open.Close()
	s.open, s.fd = nil, fd
	return fd, nil
}

// readFD and writeFD are read(2) and write(2) on descriptors that never wait, so the scheduler need not be told of them.
func readFD(fd int, p []byte) (int, error) {
	for {
		n, err := rawIO(unix.SYS_READ, fd, p)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func writeFD(fd int, p []byte) (int, error) {
	for {
		n, err := rawIO(unix.SYS_WRITE, fd, p)
		if err != unix.EINTR {
			return n, err
		}
	}
}

var (
	_ net.Conn     = (*Sock)(nil)
	_ syscall.Conn = (*Sock)(nil)
	_ net.Error    = wouldBlock{}
)
