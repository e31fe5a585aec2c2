package splice

import (
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller moves the bytes of its share of the pairs, one at a time.
type poller struct {
	pump  *Pump
	begin sync.Once // of run
	file  *os.File  // the epoll instance, which Go's own poller waits for
	raw   syscall.RawConn
	epfd  int

	mu    sync.Mutex
	table map[int]*Pair // by descriptor, two entries for each pair

	now     int64 // the pump's clock, once for each batch of events
	later   []*Pair
	turn    []*Pair
	scratch []byte

	pipeMu sync.Mutex
	pipes  []*pipe // not in use
	open   int     // in use or not
}

// spare is how many unused pipes a poller keeps.
const spare = 8

func newPoller(p *Pump) (*poller, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(epfd, true); err != nil { // so that os.File registers it
		unix.Close(epfd)
		return nil, err
	}
	file := os.NewFile(uintptr(epfd), "epoll")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &poller{pump: p, file: file, raw: raw, epfd: epfd, table: map[int]*Pair{}, scratch: make([]byte, scratchSize)}, nil
}

// run is the poller's goroutine. It ends when the epoll instance is closed.
//
// All its work is done inside one call of Read, whose function is called when there are events and says each time that
// it wants more. An event that comes while it works is remembered by Go's poller, so that nothing is asked for twice.
func (b *poller) run() {
	events := make([]unix.EpollEvent, 256)
	b.raw.Read(func(fd uintptr) bool {
		for more := true; more; {
			n := wait(int(fd), events)
			b.now = b.pump.now()
			for i := range events[:n] {
				b.handle(&events[i])
			}
			b.takeTurns()
			more = n == len(events) || len(b.later) > 0
		}
		return false
	})
	for _, p := range b.pairs() {
		p.Close()
	}
	b.pipeMu.Lock()
	defer b.pipeMu.Unlock()
	for _, p := range b.pipes {
		p.close()
	}
	b.pipes = nil
}

// wait asks for events without waiting for them.
func wait(epfd int, events []unix.EpollEvent) int {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
		switch errno {
		case 0:
			return int(n)
		case unix.EINTR:
		default:
			return 0
		}
	}
}

// handle takes an event for what it is, a hint: only reading and writing tells. A stale one does no harm.
func (b *poller) handle(ev *unix.EpollEvent) {
	b.mu.Lock()
	p := b.table[int(ev.Fd)]
	b.mu.Unlock()
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	e := &p.backend
	if int(ev.Fd) == p.client.fd {
		e = &p.client
	}
	if ev.Events&^unix.EPOLLOUT != 0 {
		e.readable = true
		e.hup = e.hup || ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
		if e.sock != nil {
			e.sock.drained, e.sock.hup = false, e.hup
		}
	}
	if ev.Events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		e.blocked = false
	}
	if p.lost && e.hup {
		p.end(ClientClosed)
		return
	}
	p.run(b)
}

// takeTurns goes on with the pairs that were put off.
func (b *poller) takeTurns() {
	b.turn, b.later = b.later, b.turn[:0]
	for i, p := range b.turn {
		p.mu.Lock()
		p.queued = false
		p.run(b)
		p.mu.Unlock()
		b.turn[i] = nil
	}
}

// add begins to watch a pair, which is locked. Where something is to be done already (bytes read ahead, or lying in
// TLS), it asks for room to write as well, which is an event at once.
func (b *poller) add(p *Pair) {
	b.mu.Lock()
	b.table[p.client.fd], b.table[p.backend.fd] = p, p
	b.mu.Unlock()
	for _, e := range [...]*end{&p.client, &p.backend} {
		p.watchOn(b, e, unix.EPOLL_CTL_ADD, len(p.up.pending)+len(p.down.pending) > 0 || e.tls != nil)
	}
}

// watch asks for an event when there is room to write again.
func (p *Pair) watch(b *poller, e *end) {
	if !e.watchOut {
		p.watchOn(b, e, unix.EPOLL_CTL_MOD, true)
	}
}

func (p *Pair) watchOn(b *poller, e *end, op int, out bool) {
	ev := unix.EpollEvent{Fd: int32(e.fd), Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET}
	if out {
		ev.Events |= unix.EPOLLOUT
		e.watchOut = true
	}
	if err := unix.EpollCtl(b.epfd, op, e.fd, &ev); err != nil && !p.ended {
		p.end(Failed)
	}
}

// remove stops watching both legs; closing them takes them out of the epoll instance.
func (b *poller) remove(p *Pair) {
	b.forget(p.client.fd)
	b.forget(p.backend.fd)
}

func (b *poller) forget(fd int) {
	b.mu.Lock()
	delete(b.table, fd)
	b.mu.Unlock()
}

// pairs lists the pairs there are.
func (b *poller) pairs() []*Pair {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]*Pair, 0, len(b.table)/2)
	for fd, p := range b.table {
		if fd == p.client.fd {
			list = append(list, p)
		}
	}
	return list
}

func (b *poller) stop() { b.file.Close() }

// borrowPipe gives a flow a pipe, unless all are in use.
func (b *poller) borrowPipe(f *flow) bool {
	if f.pipe != nil {
		return true
	}
	b.pipeMu.Lock()
	defer b.pipeMu.Unlock()
	if n := len(b.pipes); n > 0 {
		f.pipe = b.pipes[n-1]
		b.pipes = b.pipes[:n-1]
		return true
	}
	if b.open >= maxPipes {
		return false
	}
	p, err := newPipe()
	if err != nil {
		return false
	}
	b.open++
	f.pipe = p
	return true
}

// returnPipe takes an empty pipe back. One with bytes in it is closed: they belong to a dead leg.
func (b *poller) returnPipe(f *flow) {
	p := f.pipe
	if p == nil || p.n > 0 {
		return
	}
	f.pipe = nil
	b.pipeMu.Lock()
	defer b.pipeMu.Unlock()
	if len(b.pipes) < spare {
		b.pipes = append(b.pipes, p)
		return
	}
	p.close()
	b.open--
}
