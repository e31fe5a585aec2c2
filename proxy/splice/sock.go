package splice

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Sock is a TCP connection that the relay can take over. Until then it is an ordinary net.Conn with deadlines, for one
// reader and one writer at a time, and serves as the connection below TLS as well.
//
// It waits for the network by a poller of this package, not by Go's: so nothing has to be undone when it is taken, and
// nothing is read to find out that there is nothing. System calls are made bare: the scheduler watches whoever is in a
// call that it was told of, every 20 µs, which is wasted on calls that never wait.
//
// After take, its descriptor belongs to the relay: Read never waits, and Write keeps what it is given until flush.
type Sock struct {
	mu         sync.Mutex // held while the descriptor is used, so that it is not closed, and its number another's, meanwhile
	wake       sync.Cond
	self       watcher // this Sock
	poller     *poller
	fd         int
	generation int32
	closed     bool
	pair       *Pair // who took it
	readable   bool  // as far as is known; a read tells
	writable   bool  // since the last write that came back short
	watchOut   bool  // the poller is asked for room to write
	hup        bool  // the peer's FIN is there: a short read is not the end
	in, out    limit
	alarm      *time.Timer // for the limits; made by the first wait that has one
	alarmAt    int64       // when it goes off, in nanoseconds of sinceBegan; 0 when it does not

	local, remote netip.AddrPort // asked for when they are invalid
	ahead         []byte         // read already, such as what came behind a PROXY header
	gate          *Gate          // nil without one

	drained bool   // after take: the last read came back short
	queue   []byte // after take: written by TLS, not yet sent
}

// limit is a deadline, in nanoseconds of sinceBegan.
type limit struct {
	at     int64 // 0 is none
	passed bool
}

// generations number the Socks.
var generations atomic.Int32

// newSock makes a Sock of a descriptor, which does not block, and begins to wait for it. The descriptor is closed on an
// error.
func newSock(fd int, b *poller, out bool) (*Sock, error) {
	s := &Sock{poller: b, fd: fd, generation: generations.Add(1), writable: !out, watchOut: out}
	s.wake.L, s.self = &s.mu, s
	watched.set(fd, &s.self)
	if err := b.register(fd, s.generation, out); err != nil {
		closeWatched(fd)
		return nil, err
	}
	return s, nil
}

// NewSock takes the socket of c over; c is closed, the connection lives on.
func NewSock(c *net.TCPConn) (*Sock, error) {
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, failed := -1, error(nil)
	if err := raw.Control(func(old uintptr) { fd, failed = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, os.NewSyscallError("fcntl", failed)
	}
	b, err := somePoller()
	if err != nil {
		closeFD(fd)
		return nil, err
	}
	return newSock(fd, b, false)
}

// event is a poller's.
func (s *Sock) event(b *poller, fd int, generation int32, what uint32) {
	s.mu.Lock()
	if s.generation != generation || s.closed {
		s.mu.Unlock()
		return
	}
	if pair := s.pair; pair != nil { // taken just now
		s.mu.Unlock()
		pair.event(b, fd, generation, what)
		return
	}
	if what&^unix.EPOLLOUT != 0 {
		s.readable = true
		s.hup = s.hup || what&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
	}
	if what&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.writable = true
	}
	s.mu.Unlock()
	s.wake.Broadcast()
}

// refused says why the Sock does not read or write now: net.ErrClosed, os.ErrDeadlineExceeded or errTaken. It is locked.
func (s *Sock) refused(l *limit) error {
	switch {
	case s.closed:
		return net.ErrClosed
	case s.pair != nil:
		return errTaken
	case l.passed:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// wait returns when something has happened: an event, a limit that has passed, a new one, a close. It is locked.
func (s *Sock) wait(l *limit) {
	if l.at != 0 && (s.alarmAt == 0 || l.at < s.alarmAt) {
		s.setAlarm(l.at)
	}
	s.wake.Wait()
}

func (s *Sock) setAlarm(at int64) {
	s.alarmAt = at
	left := time.Duration(at - sinceBegan())
	if s.alarm == nil {
		s.alarm = time.AfterFunc(left, s.ring)
		return
	}
	s.alarm.Reset(left)
}

// ring is the alarm's. It may come early, for a limit that was moved on: then who waits sets it anew.
func (s *Sock) ring() {
	s.mu.Lock()
	s.alarmAt = 0
	s.pass()
	s.mu.Unlock()
	s.wake.Broadcast()
}

// pass looks which limits have passed.
func (s *Sock) pass() {
	now := sinceBegan()
	for _, l := range [...]*limit{&s.in, &s.out} {
		l.passed = l.at != 0 && l.at <= now
	}
}

// sinceBegan is the nanoseconds since this process began, on the monotonic clock.
func sinceBegan() int64 { return int64(time.Since(began)) }

// setLimits sets deadlines; a zero one is none.
func (s *Sock) setLimits(t time.Time, limits ...*limit) error {
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		return net.ErrClosed
	case s.pair != nil:
		s.mu.Unlock()
		return errTaken
	}
	var at int64
	if !t.IsZero() {
		at = max(1, int64(t.Sub(began)))
	}
	for _, l := range limits {
		l.at = at
	}
	s.pass()
	s.mu.Unlock()
	s.wake.Broadcast()
	return nil
}

// Guard has every write before take ask a gate; nil takes it away. It is called by whoever writes.
func (s *Sock) Guard(g *Gate) {
	if s.gate == g {
		return
	}
	s.gate = g
	timeout := plainTimeout
	if g != nil {
		timeout = claimedTimeout
	}
	s.option(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, timeout)
}

// Unread puts bytes back: Read returns them first. The slice belongs to the Sock then.
func (s *Sock) Unread(b []byte) { s.ahead = b }

var (
	errTaken = errors.New("connection is the relay's")
	errQueue = errors.New("the peer makes TLS answer, and does not read the answers")
)

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
	if s.pair != nil {
		return s.readNow(p)
	}
	if len(p) == 0 {
		return 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if err := s.refused(&s.in); err != nil {
			return 0, opError("read", err)
		}
		if s.readable {
			n, err := recv(s.fd, p)
			s.readable = err == nil && n == len(p) || s.hup
			switch {
			case err == nil && n == 0:
				s.readable = true // an end stays one
				return 0, io.EOF
			case err == nil:
				return n, nil
			case err != unix.EAGAIN:
				return 0, opError("read", err)
			}
			s.readable = false
		}
		s.wait(&s.in)
	}
}

// readNow is Read after take.
func (s *Sock) readNow(p []byte) (int, error) {
	if s.drained {
		return 0, wouldBlock{}
	}
	n, err := recv(s.fd, p)
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
	if s.pair != nil {
		if len(s.queue)+len(p) > maxQueue {
			return 0, errQueue
		}
		if s.queue == nil {
			s.queue = getQueue()
		}
		s.queue = append(s.queue, p...)
		return len(p), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for sent := 0; ; {
		if !s.gate.Open() {
			return sent, ErrGate
		}
		if err := s.refused(&s.out); err != nil {
			return sent, opError("write", err)
		}
		if s.writable {
			n, err := send(s.fd, p[sent:], 0)
			if err != nil && err != unix.EAGAIN {
				return sent, opError("write", err)
			}
			if sent += n; sent == len(p) {
				return sent, nil
			}
			s.writable = false
			if err := s.wantRoom(); err != nil {
				return sent, err
			}
			continue
		}
		s.wait(&s.out)
	}
}

// wantRoom asks the poller for events when there is room to write.
func (s *Sock) wantRoom() error {
	if s.watchOut {
		return nil
	}
	s.watchOut = true
	return s.poller.change(s.fd, s.generation, true)
}

// opError keeps io.EOF and the like out: it is for what the system says, and for waits that ended otherwise.
func opError(op string, err error) error { return &net.OpError{Op: op, Net: "tcp", Err: err} }

// Control has f use the descriptor, for as long as f runs. It is net.ErrClosed when the Sock is closed, and another error
// when it is taken.
func (s *Sock) Control(f func(fd int)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refused(new(limit)); err != nil {
		return err
	}
	f(s.fd)
	return nil
}

// Silent says that nothing has come in that was not read, not even the peer's end.
func (s *Sock) Silent() bool {
	silent := false
	err := s.Control(func(fd int) {
		_, err := transfer(unix.SYS_RECVFROM, fd, make([]byte, 1), unix.MSG_PEEK)
		silent = err == unix.EAGAIN
	})
	return err == nil && silent && len(s.ahead) == 0
}

// option sets an option of the socket, unless it is closed or taken.
func (s *Sock) option(level, option, value int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && s.pair == nil {
		SetOption(s.fd, level, option, value)
	}
}

// CloseWrite sends a FIN: the peer reads the end, and may go on writing. After take it does nothing.
func (s *Sock) CloseWrite() error {
	err := s.Control(sendFIN)
	if err == errTaken {
		return nil
	}
	return err
}

// Close closes the connection. After take it does nothing: the relay closes.
func (s *Sock) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.pair != nil:
		return nil
	case s.closed:
		return net.ErrClosed
	}
	s.close()
	return nil
}

// close is Close of an open Sock, which is locked.
func (s *Sock) close() {
	s.closed = true
	s.dropAlarm()
	closeWatched(s.fd)
	s.wake.Broadcast()
}

func (s *Sock) dropAlarm() {
	if s.alarm != nil {
		s.alarm.Stop()
		s.alarm = nil
	}
}

// gentle bounds how much of a peer's last words is read and thrown away on closing.
const gentle = 256 << 10

// CloseGently closes the connection so that what was sent arrives: first the direction to the peer (with TLS's
// close_notify, if t is over this Sock), then, after what the peer has sent already is thrown away, the rest. A close
// with unread bytes would be a reset, which may overtake the last line. It does not wait.
func (s *Sock) CloseGently(t *tls.Conn) {
	if t != nil && s.pair == nil {
		t.CloseWrite()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.pair != nil {
		return
	}
	sendFIN(s.fd)
	buf := scratches.Get().(*[scratchSize]byte)
	for got := 0; got < gentle; {
		n, err := recv(s.fd, buf[:])
		if n <= 0 || err != nil {
			break
		}
		got += n
	}
	scratches.Put(buf)
	s.close()
}

// QuickAck has what comes next acknowledged at once (tcp(7), TCP_QUICKACK). A peer that answers one write of ours with
// two small ones of its own, without TCP_NODELAY, sends the second one only then: 40 ms later otherwise. The kernel
// goes back to delaying by itself, so it is to be said again behind each write.
func (s *Sock) QuickAck() { s.option(unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) }

// Addrs are the connection's two ends. Those that are not known by now are invalid once it is closed or taken.
func (s *Sock) Addrs() (local, remote netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && s.pair == nil {
		if !s.local.IsValid() {
			s.local = name(unix.SYS_GETSOCKNAME, s.fd)
		}
		if !s.remote.IsValid() {
			s.remote = name(unix.SYS_GETPEERNAME, s.fd)
		}
	}
	return s.local, s.remote
}

func tcpAddr(a netip.AddrPort) net.Addr {
	if !a.IsValid() {
		return nil // of a connection that is closed
	}
	return net.TCPAddrFromAddrPort(a)
}

// LocalAddr is the connection's; nil when Addrs knows none.
func (s *Sock) LocalAddr() net.Addr {
	local, _ := s.Addrs()
	return tcpAddr(local)
}

// RemoteAddr is the connection's; nil when Addrs knows none.
func (s *Sock) RemoteAddr() net.Addr {
	_, remote := s.Addrs()
	return tcpAddr(remote)
}

// SetDeadline sets the connection's, for reads and writes under way as well; after take there are none, and it says so.
func (s *Sock) SetDeadline(t time.Time) error { return s.setLimits(t, &s.in, &s.out) }

// SetReadDeadline is SetDeadline for reading.
func (s *Sock) SetReadDeadline(t time.Time) error { return s.setLimits(t, &s.in) }

// SetWriteDeadline is SetDeadline for writing. After take, TLS may call it on closing, where it means nothing.
func (s *Sock) SetWriteDeadline(t time.Time) error {
	err := s.setLimits(t, &s.out)
	if err == errTaken {
		return nil
	}
	return err
}

// take gives the descriptor to a pair's end, and to the pair's poller.
func (s *Sock) take(p *Pair, e *end) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.pair != nil {
		return false
	}
	if s.poller != p.poller {
		s.poller.forget(s.fd)
		if p.poller.register(s.fd, s.generation, s.watchOut) != nil {
			return false
		}
		s.poller = p.poller
	}
	s.dropAlarm()
	s.pair = p
	e.fd, e.generation, e.readable, e.hup, e.watchOut = s.fd, s.generation, s.readable, s.hup, s.watchOut
	watched.set(s.fd, &p.self)
	return true
}

var (
	_ net.Conn  = (*Sock)(nil)
	_ net.Error = wouldBlock{}
)
