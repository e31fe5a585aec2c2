package splice

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"
)

// end is one leg of a pair.
type end struct {
	fd         int
	generation int32
	tls        *tls.Conn // nil on a plain leg
	sock       *Sock     // nil on a plain leg
	readable   bool      // as far as is known; a read tells
	hup        bool      // the peer has sent its FIN, or a reset: a short read is not the end
	fin        bool      // it was a FIN
	blocked    bool      // a write came back short; epoll will say when there is room
	watchOut   bool      // epoll is asked for room
	gone       bool      // closed
}

// flow is one direction of a pair.
type flow struct {
	pending []byte             // read, not yet written
	store   *[scratchSize]byte // what pending lies in
	pipe    *pipe
	bytes   int64
	eof     bool // nothing more will be read
	shut    bool // and the other leg knows
	bulk    bool // the last read filled the buffer
}

// Pair is two legs whose bytes are relayed. Its methods may be called at any time, from any goroutine.
type Pair struct {
	mu              sync.Mutex
	self            watcher // this Pair
	pump            *Pump
	poller          *poller // which both descriptors are registered with
	gate            *Gate   // nil without one
	client, backend end
	up, down        flow  // client to backend, backend to client
	last            int64 // when a byte moved, in the pump's seconds
	lastUp          int64 // when the client last sent one
	queued          bool  // in the poller's list of those put off
	lost            bool  // the backend is lost and the client is kept for a while
	ended           bool
	told            bool // and reported
	reason          Reason
	panic           string // and its stack, if one ended the pair
	done            Ended
	closeCopy       func() // set where goroutines relay, and end the pair
}

// event takes an event for what it is, a hint: only reading and writing tells. A stale one does no harm.
func (p *Pair) event(b *poller, fd int, generation int32, what uint32) {
	p.mu.Lock()
	defer p.unlock()
	defer p.survive()
	e := &p.backend
	if fd == p.client.fd {
		e = &p.client
	}
	if p.ended || e.generation != generation {
		return
	}
	if what&^unix.EPOLLOUT != 0 {
		e.readable = true
		e.hup = e.hup || what&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
		e.fin = what&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) == unix.EPOLLRDHUP
		if e.sock != nil {
			e.sock.drained, e.sock.hup = false, e.hup
		}
	}
	if what&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		e.blocked = false
	}
	if p.lost && e.hup {
		p.end(ClientClosed)
		return
	}
	p.run(b)
}

// watch asks for an event when there is room to write, which is at once where there is.
func (p *Pair) watch(e *end) {
	if e.watchOut {
		return
	}
	e.watchOut = true
	if err := p.poller.change(e.fd, e.generation, true); err != nil && !p.ended {
		p.end(Failed)
	}
}

// turn goes on with a pair that was put off.
func (p *Pair) turn(b *poller) {
	p.mu.Lock()
	defer p.unlock()
	defer p.survive()
	p.queued = false
	p.run(b)
}

// survive is deferred where a poller works for the pair: a panic ends this pair, and none else. It says no goodbye by a
// TLS connection of which nobody knows what state it is in.
func (p *Pair) survive() {
	v := recover()
	if v == nil {
		return
	}
	p.panic = fmt.Sprintf("%v\n%s", v, debug.Stack())
	p.reason = Failed
	p.client.tls, p.backend.tls = nil, nil
	p.end(Failed)
}

// budget is how many buffers a pair may move before others have their turn.
const budget = 16

// run moves what can be moved. It is called with the pair locked, and ends the pair when both directions are done.
func (p *Pair) run(b *poller) {
	if p.ended {
		return
	}
	again := p.moveUp(b)
	if !p.ended {
		again = p.moveDown(b) || again
	}
	if p.ended {
		return
	}
	if p.up.eof && p.up.shut && p.down.eof && p.down.shut {
		p.end(p.reason)
		return
	}
	if again && !p.queued {
		p.queued = true
		b.later = append(b.later, p)
	}
}

func (p *Pair) moveUp(b *poller) bool {
	before := p.up.bytes
	again := p.move(b, &p.up, &p.client, &p.backend, ClientClosed, ClientReset)
	if p.up.bytes != before {
		p.last, p.lastUp = b.now, b.now
	}
	return again
}

func (p *Pair) moveDown(b *poller) bool {
	before := p.down.bytes
	again := p.move(b, &p.down, &p.backend, &p.client, BackendClosed, BackendReset)
	if p.down.bytes != before {
		p.last = b.now
	}
	return again
}

// move carries one direction on until a side would wait, its end, or the budget is used up; then it returns true.
func (p *Pair) move(b *poller, f *flow, src, dst *end, closed, reset Reason) bool {
	for range budget {
		if !p.gate.Open() {
			p.end(Closed)
			return false
		}
		if !p.drain(f, dst) {
			return f.shut && !p.ended // given up: see what the other direction has to say
		}
		if f.eof {
			p.finish(b, f, dst)
			return false
		}
		if !src.readable || src.gone {
			p.poller.returnPipe(f)
			return false
		}
		var err error
		if f.bulk && src.tls == nil && dst.tls == nil && p.poller.borrowPipe(f) {
			err = p.splice(f, src, dst)
		} else {
			err = p.copy(b, f, src, dst)
		}
		switch {
		case err == nil:
		case errors.Is(err, errWrite):
			p.deadEnd(f, reasonOf(dst == &p.client))
			return !p.ended
		case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
			f.eof = true
			p.because(closed)
		default:
			f.eof = true
			p.because(reset)
		}
	}
	return true
}

func reasonOf(client bool) Reason {
	if client {
		return ClientReset
	}
	return BackendReset
}

// errWrite marks that a leg does not take bytes any more.
var errWrite = errors.New("write side is gone")

// copy moves one buffer through the poller's scratch. What the other leg does not take waits in a buffer of the flow.
func (p *Pair) copy(b *poller, f *flow, src, dst *end) error {
	n, end := src.read(b.scratch)
	if n == 0 {
		if _, ok := end.(wouldBlock); ok {
			src.readable, f.bulk = false, false
			return nil
		}
		return end
	}
	f.bulk = n == len(b.scratch)
	f.bytes += int64(n)
	last := end == io.EOF && (f == &p.up || p.solicited(b))
	rest, err := dst.write(b.scratch[:n], last)
	if len(rest) > 0 && err == nil {
		f.store = scratches.Get().(*[scratchSize]byte)
		f.pending = f.store[:copy(f.store[:], rest)]
	}
	if err != nil {
		return err
	}
	return end
}

// splice fills the flow's pipe from the source; drain empties it.
func (p *Pair) splice(f *flow, src, dst *end) error {
	n, err := move(src.fd, f.pipe.w, pipeSize)
	switch {
	case err == unix.EAGAIN:
		src.readable, f.bulk = false, false
		return nil
	case err != nil:
		return err
	case n == 0:
		return io.EOF
	}
	f.pipe.n += n
	f.bytes += int64(n)
	return nil
}

// drain writes what waits for dst: TLS records, a rest in a buffer, bytes in a pipe. It returns false while some is
// left, or when the leg is dead.
func (p *Pair) drain(f *flow, dst *end) bool {
	if dst.gone {
		f.drop(p.poller)
		return true
	}
	if !dst.idleOut() || len(f.pending) > 0 || f.pipe != nil && f.pipe.n > 0 {
		if dst.blocked {
			p.watch(dst)
			return false
		}
		if err := p.push(f, dst); err != nil {
			p.deadEnd(f, reasonOf(dst == &p.client))
			return false
		}
		if dst.blocked {
			p.watch(dst)
			return false
		}
	}
	if f.store != nil && len(f.pending) == 0 {
		scratches.Put(f.store)
		f.store, f.pending = nil, nil
	}
	return true
}

// push writes once to each thing that waits, in order: records first, then the rest, then the pipe.
func (p *Pair) push(f *flow, dst *end) error {
	if err := dst.flush(0); err != nil || dst.blocked {
		return err
	}
	if len(f.pending) > 0 {
		rest, err := dst.write(f.pending, false)
		f.pending = rest
		if err != nil || dst.blocked {
			return err
		}
	}
	for f.pipe != nil && f.pipe.n > 0 {
		n, err := move(f.pipe.r, dst.fd, f.pipe.n)
		if err == unix.EAGAIN {
			dst.blocked = true
			return nil
		}
		if err != nil {
			return err
		}
		f.pipe.n -= n
	}
	return nil
}

// finish tells dst that its direction has ended, once.
func (p *Pair) finish(b *poller, f *flow, dst *end) {
	if f.shut || p.lost || f == &p.down && p.keepClient(b) {
		return
	}
	f.shut = true
	p.last = b.now // a half-closed pair has its own time limit, from here on
	if dst.gone || p.up.shut && p.down.shut {
		return // the close that follows says it
	}
	dst.sayGoodbye()
	sendFIN(dst.fd)
}

// sayGoodbye sends TLS's close_notify, in one packet with the FIN that follows. If it does not fit now, the FIN says it
// too.
func (e *end) sayGoodbye() {
	if e.tls != nil {
		e.tls.CloseWrite()
		e.flush(unix.MSG_MORE)
	}
}

// deadEnd gives a direction up whose receiver is gone. The other direction may still have something to say, and ends by
// itself.
func (p *Pair) deadEnd(f *flow, why Reason) {
	f.eof, f.shut = true, true
	f.pending = nil
	p.because(why)
	other, src := &p.down, &p.backend
	if f == &p.down {
		other, src = &p.up, &p.client
	}
	if other.eof {
		p.end(p.reason)
		return
	}
	src.readable = true
}

// because keeps the first reason.
func (p *Pair) because(r Reason) {
	if p.reason == Unknown {
		p.reason = r
	}
}

// read fills buf from the leg without waiting. Where it knows that the end is behind these bytes it returns both.
func (e *end) read(buf []byte) (int, error) {
	if e.tls != nil {
		n, err := e.tls.Read(buf)
		if n > 0 {
			return n, nil
		}
		return 0, err
	}
	n, err := recv(e.fd, buf)
	switch {
	case err == unix.EAGAIN:
		return 0, wouldBlock{}
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	case n == len(buf):
		return n, nil
	case e.fin: // emptied, and nothing comes behind a FIN
		return n, io.EOF
	}
	if !e.hup {
		e.readable = false // emptied; the next byte is a new event
	}
	return n, nil
}

// write sends what the leg takes and returns the rest. On a TLS leg there is no rest: it waits as records in the Sock's
// queue, and the flow is blocked by them as well. The last bytes wait for the FIN, or what is sent otherwise, which has to
// follow at once, so that all goes in one packet.
func (e *end) write(b []byte, last bool) (rest []byte, err error) {
	var flags uintptr
	if last {
		flags = unix.MSG_MORE
	}
	if e.tls != nil {
		if _, err := e.tls.Write(b); err != nil {
			return nil, errWrite
		}
		if last {
			e.tls.CloseWrite()
		}
		return nil, e.flush(flags)
	}
	n, err := send(e.fd, b, flags)
	if err == unix.EAGAIN {
		n, err = 0, nil
	}
	if err != nil {
		return nil, errWrite
	}
	e.blocked = n < len(b)
	return b[n:], nil
}

// idleOut says that no record waits in the leg itself.
func (e *end) idleOut() bool { return e.sock == nil || len(e.sock.queue) == 0 }

// flush sends the records that wait.
func (e *end) flush(flags uintptr) error {
	if e.idleOut() {
		return nil
	}
	n, err := send(e.fd, e.sock.queue, flags)
	if err == unix.EAGAIN {
		n, err = 0, nil
	}
	if err != nil {
		return errWrite
	}
	if n < len(e.sock.queue) {
		e.blocked = true
		e.sock.queue = e.sock.queue[:copy(e.sock.queue, e.sock.queue[n:])]
		return nil
	}
	putQueue(e.sock.queue)
	e.sock.queue = nil
	return nil
}

// drop forgets what a flow holds.
func (f *flow) drop(b *poller) {
	f.pending = nil
	if f.store != nil {
		scratches.Put(f.store)
		f.store = nil
	}
	b.returnPipe(f)
}
