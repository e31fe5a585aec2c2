package prototest

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Fault is what goes wrong with the bytes in one direction of a Conn.
type Fault struct {
	// Chunk is the most bytes that one read gives; 0 gives all there are.
	Chunk int
	// ResetAt resets the connection once so many bytes have passed; 0 never does.
	ResetAt int
	// StallAt lets no more than so many bytes pass, and says nothing about it; 0 lets all pass.
	StallAt int
}

// Conn is one end of a connection in memory. It has a buffer, unlike net.Pipe's, can be half-closed and reset, has
// addresses as a TCP connection does, and can be made to fail. It may be used inside a synctest bubble.
type Conn struct {
	in, out       *stream
	local, remote net.Addr
}

// bufferSize is how much an end may send ahead of its peer's reads.
const bufferSize = 256 << 10

// Pipe makes a connection from one address to another.
func Pipe(from, to *net.TCPAddr) (client, server *Conn) {
	a, b := newStream(), newStream()
	return &Conn{in: a, out: b, local: from, remote: to}, &Conn{in: b, out: a, local: to, remote: from}
}

// FaultIn sets what goes wrong with what this end reads, FaultOut with what it writes.
func (c *Conn) FaultIn(f Fault) { c.in.setFault(f) }

// FaultOut sets what goes wrong with what this end writes.
func (c *Conn) FaultOut(f Fault) { c.out.setFault(f) }

// Read is net.Conn's.
func (c *Conn) Read(p []byte) (int, error) { return c.in.read(p) }

// Write is net.Conn's.
func (c *Conn) Write(p []byte) (int, error) { return c.out.write(p) }

// Close ends both directions: the peer reads what is there and then EOF, and cannot write any more.
func (c *Conn) Close() error {
	c.out.end(io.EOF, net.ErrClosed)
	c.in.end(net.ErrClosed, syscall.EPIPE)
	return nil
}

// CloseWrite ends the direction from this end.
func (c *Conn) CloseWrite() error {
	c.out.end(io.EOF, syscall.EPIPE)
	return nil
}

// Reset ends both directions at once; what is under way is lost.
func (c *Conn) Reset() {
	c.out.drop()
	c.in.drop()
}

// LocalAddr is net.Conn's.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is net.Conn's.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline is net.Conn's.
func (c *Conn) SetDeadline(t time.Time) error {
	c.in.readDeadline.set(c.in, t)
	c.out.writeDeadline.set(c.out, t)
	return nil
}

// SetReadDeadline is net.Conn's.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.readDeadline.set(c.in, t)
	return nil
}

// SetWriteDeadline is net.Conn's.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.writeDeadline.set(c.out, t)
	return nil
}

// stream is one direction.
type stream struct {
	mu       sync.Mutex
	changed  sync.Cond
	buf      []byte
	readN    int // bytes read so far
	fault    Fault
	readErr  error // what reads end with, once the buffer is empty
	writeErr error

	readDeadline, writeDeadline deadline
}

func newStream() *stream {
	s := &stream{}
	s.changed.L = &s.mu
	return s
}

func (s *stream) setFault(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		n := min(len(p), len(s.buf))
		if s.fault.Chunk > 0 {
			n = min(n, s.fault.Chunk)
		}
		if s.fault.StallAt > 0 {
			n = min(n, s.fault.StallAt-s.readN)
		}
		if s.fault.ResetAt > 0 {
			n = min(n, s.fault.ResetAt-s.readN)
		}
		stalled := s.fault.StallAt > 0 && s.readN >= s.fault.StallAt
		switch {
		case s.readErr == net.ErrClosed:
			return 0, net.ErrClosed
		case s.readDeadline.passed():
			return 0, os.ErrDeadlineExceeded
		case s.fault.ResetAt > 0 && s.readN >= s.fault.ResetAt:
			return 0, syscall.ECONNRESET
		case n > 0 || len(p) == 0:
			copy(p, s.buf[:n])
			s.buf = s.buf[n:]
			s.readN += n
			s.changed.Broadcast()
			return n, nil
		case s.readErr != nil && (!stalled || s.readErr == syscall.ECONNRESET):
			return 0, s.readErr
		}
		s.changed.Wait()
	}
}

func (s *stream) write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	done := 0
	for {
		switch {
		case s.writeErr != nil:
			return done, s.writeErr
		case s.fault.ResetAt > 0 && s.readN >= s.fault.ResetAt:
			return done, syscall.ECONNRESET
		case s.writeDeadline.passed():
			return done, os.ErrDeadlineExceeded
		}
		n := min(len(p)-done, bufferSize-len(s.buf))
		s.buf = append(s.buf, p[done:done+n]...)
		done += n
		s.changed.Broadcast()
		if done == len(p) {
			return done, nil
		}
		s.changed.Wait()
	}
}

// end sets what reads and writes end with from now on; the first reason stays.
func (s *stream) end(read, write error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readErr == nil || read == net.ErrClosed {
		s.readErr = read
	}
	if s.writeErr == nil || write == net.ErrClosed {
		s.writeErr = write
	}
	s.changed.Broadcast()
}

func (s *stream) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = nil
	if s.readErr == nil {
		s.readErr = syscall.ECONNRESET
	}
	if s.writeErr == nil {
		s.writeErr = syscall.ECONNRESET
	}
	s.changed.Broadcast()
}

// deadline belongs to a stream, whose lock guards it.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) set(s *stream, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if wait := time.Until(t); !t.IsZero() && wait > 0 {
		d.timer = time.AfterFunc(wait, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.changed.Broadcast()
		})
	}
	s.changed.Broadcast()
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }
