package splice

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller waits for its share of the descriptors, and moves the bytes of the pairs among them, one pair at a time.
type poller struct {
	raw  syscall.RawConn // the epoll instance, which Go's own poller waits for
	epfd int

	now     int64 // of clock, once for each batch of events
	later   []*Pair
	turn    []*Pair
	scratch []byte

	pipeMu sync.Mutex
	pipes  []*pipe // not in use
	open   int     // in use or not
}

// spare is how many unused pipes a poller keeps.
const spare = 8

// pollers are those of this process, one for each processor. They run from the first socket on, as long as the process
// does: connections in memory, inside a test's bubble, never need them.
var pollers = sync.OnceValues(func() ([]*poller, error) {
	var list []*poller
	for range runtime.GOMAXPROCS(0) {
		b, err := newPoller()
		if err != nil {
			return nil, fmt.Errorf("start waiting for connections: %w", err)
		}
		list = append(list, b)
	}
	for _, b := range list {
		go b.run()
	}
	return list, nil
})

var nextPoller atomic.Uint32

// somePoller is the next one in turn.
func somePoller() (*poller, error) {
	list, err := pollers()
	if err != nil {
		return nil, err
	}
	return list[nextPoller.Add(1)%uint32(len(list))], nil
}

func newPoller() (*poller, error) {
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
	return &poller{raw: raw, epfd: epfd, scratch: make([]byte, scratchSize)}, nil
}

// run is the poller's goroutine.
//
// All its work is done inside one call of Read, whose function is called when there are events and says each time that
// it wants more. An event that comes while it works is remembered by Go's poller, so that nothing is asked for twice.
func (b *poller) run() {
	events := make([]unix.EpollEvent, 256)
	b.raw.Read(func(fd uintptr) bool {
		for more := true; more; {
			n := wait(int(fd), events)
			b.now = clock()
			for i := range events[:n] {
				fd := int(events[i].Fd)
				if w := watched.get(fd); w != nil {
					w.event(b, fd, events[i].Pad, events[i].Events)
				}
			}
			b.takeTurns()
			if more = n == len(events) || len(b.later) > 0; more {
				runtime.Gosched() // the sessions that were woken have their turn, too
			}
		}
		return false
	})
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

// takeTurns goes on with the pairs that were put off.
func (b *poller) takeTurns() {
	b.turn, b.later = b.later, b.turn[:0]
	for i, p := range b.turn {
		p.turn(b)
		b.turn[i] = nil
	}
}

// register begins to wait for a descriptor, edge-triggered; for room to write as well if out is set, which is an event at
// once where there is room. change asks for something else from then on.
func (b *poller) register(fd int, generation int32, out bool) error {
	return b.control(unix.EPOLL_CTL_ADD, fd, generation, out)
}

func (b *poller) change(fd int, generation int32, out bool) error {
	return b.control(unix.EPOLL_CTL_MOD, fd, generation, out)
}

func (b *poller) control(op, fd int, generation int32, out bool) error {
	ev := unix.EpollEvent{Fd: int32(fd), Pad: generation, Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET}
	if out {
		ev.Events |= unix.EPOLLOUT
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(b.epfd), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("epoll_ctl", errno)
	}
	return nil
}

// forget stops waiting for a descriptor that stays open.
func (b *poller) forget(fd int) { b.control(unix.EPOLL_CTL_DEL, fd, 0, false) }

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

// returnPipe takes a flow's pipe back. One with bytes in it is closed: they are a dead session's, and whoever borrowed it
// next would send them to its own client.
func (b *poller) returnPipe(f *flow) {
	p := f.pipe
	if p == nil {
		return
	}
	f.pipe = nil
	b.pipeMu.Lock()
	defer b.pipeMu.Unlock()
	if p.n == 0 && len(b.pipes) < spare {
		b.pipes = append(b.pipes, p)
		return
	}
	p.close()
	b.open--
}

var began = time.Now()

// clock is the seconds since this process began.
func clock() int64 { return int64(time.Since(began) / time.Second) }
