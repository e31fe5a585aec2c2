package splice

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// recv and send are recv(2) and send(2) without telling the scheduler, which is right for calls that cannot wait: the
// descriptors are non-blocking. What they cost is the copy of at most one scratch buffer. Compared with read(2) and
// write(2) they spare the way through the file system's layer, and the signal where the peer is gone.
func recv(fd int, p []byte) (int, error) { return transfer(unix.SYS_RECVFROM, fd, p, 0) }

func send(fd int, p []byte, flags uintptr) (int, error) {
	return transfer(unix.SYS_SENDTO, fd, p, flags|unix.MSG_NOSIGNAL)
}

func transfer(call uintptr, fd int, p []byte, flags uintptr) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// closeWatched closes a descriptor that pollers wait for, which they stop to do.
func closeWatched(fd int) {
	watched.set(fd, nil)
	closeFD(fd)
}

// closeFD and sendFIN are close(2) and shutdown(2) of a descriptor that does not linger, bare for the same reason.
func closeFD(fd int) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func sendFIN(fd int) { unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0) }

// scratchSize is the poller's buffer, and the most that waits for a slow reader on a leg without a pipe. Four TLS
// records fit.
const scratchSize = 64 << 10

var scratches = sync.Pool{New: func() any { return new([scratchSize]byte) }}

// queueSize holds a scratch buffer's worth of TLS records with their headers and tags.
const queueSize = scratchSize + 4<<10

// maxQueue bounds what TLS adds of its own accord while a queue waits: its answers to a peer that asks for new keys again and
// again (RFC 8446 section 4.6.3) and does not read.
const maxQueue = 2 * queueSize

var queues = sync.Pool{New: func() any { return new([queueSize]byte) }}

func getQueue() []byte { return queues.Get().(*[queueSize]byte)[:0] }

func putQueue(q []byte) {
	if cap(q) >= queueSize {
		queues.Put((*[queueSize]byte)(q[:queueSize]))
	}
}

// pipeSize is what a pipe for splice(2) is asked to hold. The kernel may say no beyond fs.pipe-user-pages-soft; then it
// stays at its 64 KiB, which works as well.
const pipeSize = 512 << 10

// maxPipes bounds the pipes of one poller. Bulk transfers beyond it are copied.
const maxPipes = 256

// pipe is a kernel buffer between two splices.
type pipe struct {
	r, w int
	n    int // bytes in it
}

func newPipe() (*pipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // as much as we may have
	return &pipe{r: fds[0], w: fds[1]}, nil
}

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// move is splice(2) without waiting.
func move(from, to, n int) (int, error) {
	for {
		moved, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n),
			unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch errno {
		case 0:
			return int(moved), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
