package splice

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Sock is a TCP connection that the relay can take over. Until then it is the net.TCPConn it was made of, with its
// deadlines, and serves as the connection below TLS as well.
//
// After take, its descriptor belongs to the relay: Read never waits, and Write keeps what it is given until flush.
type Sock struct {
	tcp   *net.TCPConn
	raw   syscall.RawConn // of tcp
	ahead []byte          // read already, such as what came behind a PROXY header

	fd      int    // valid once tcp is nil
	drained bool   // the last read came back short
	hup     bool   // the peer's FIN is there: a short read is not the end
	queue   []byte // written by TLS, not yet sent
}

// NewSock wraps c. Closing the Sock closes c.
func NewSock(c *net.TCPConn) *Sock {
	raw, _ := c.SyscallConn() // fails for a nil connection only
	return &Sock{tcp: c, raw: raw, fd: -1}
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
	if s.tcp != nil {
		return s.tcp.Read(p)
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
	if s.tcp != nil {
		return s.tcp.Write(p)
	}
	if s.queue == nil {
		s.queue = getQueue()
	}
	s.queue = append(s.queue, p...)
	return len(p), nil
}

// Close closes the connection. After take it does nothing: the relay closes.
func (s *Sock) Close() error {
	if s.tcp != nil {
		return s.tcp.Close()
	}
	return nil
}

// gentle bounds how much of a peer's last words is read and thrown away on closing.
const gentle = 256 << 10

// CloseGently closes the connection so that what was sent arrives: first the direction to the peer (with TLS's
// close_notify, if t is over this Sock), then, after what the peer has sent already is thrown away, the rest. A close
// with unread bytes would be a reset, which may overtake the last line. It does not wait.
func (s *Sock) CloseGently(t *tls.Conn) {
	if s.tcp == nil {
		return
	}
	if t != nil {
		t.CloseWrite()
	}
	s.tcp.CloseWrite()
	s.raw.Control(func(fd uintptr) {
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
	s.tcp.Close()
}

// QuickAck has what comes next acknowledged at once (tcp(7), TCP_QUICKACK). A peer that answers one write of ours with
// two small ones of its own, without TCP_NODELAY, sends the second one only then: 40 ms later otherwise. The kernel
// goes back to delaying by itself, so it is to be said again behind each write.
func (s *Sock) QuickAck() {
	if s.raw == nil {
		return
	}
	s.raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
}

// LocalAddr is the connection's; nil after take.
func (s *Sock) LocalAddr() net.Addr {
	if s.tcp != nil {
		return s.tcp.LocalAddr()
	}
	return nil
}

// RemoteAddr is the connection's; nil after take.
func (s *Sock) RemoteAddr() net.Addr {
	if s.tcp != nil {
		return s.tcp.RemoteAddr()
	}
	return nil
}

// SetDeadline sets the connection's; after take there are none, and it says so.
func (s *Sock) SetDeadline(t time.Time) error {
	if s.tcp != nil {
		return s.tcp.SetDeadline(t)
	}
	return errTaken
}

// SetReadDeadline is SetDeadline for reading.
func (s *Sock) SetReadDeadline(t time.Time) error {
	if s.tcp != nil {
		return s.tcp.SetReadDeadline(t)
	}
	return errTaken
}

// SetWriteDeadline is SetDeadline for writing. After take, TLS may call it on closing, where it means nothing.
func (s *Sock) SetWriteDeadline(t time.Time) error {
	if s.tcp != nil {
		return s.tcp.SetWriteDeadline(t)
	}
	return nil
}

// take moves the descriptor from Go's poller into the caller's hands. Duplicating it is the one way to do so: closing
// the original ends its registration there, and the connection lives on.
func (s *Sock) take() (int, error) {
	fd, dupErr := -1, error(nil)
	if err := s.raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, err
	}
	if dupErr != nil {
		return -1, dupErr
	}
	s.tcp.Close()
	s.tcp, s.raw, s.fd = nil, nil, fd
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
	_ net.Conn  = (*Sock)(nil)
	_ net.Error = wouldBlock{}
)
