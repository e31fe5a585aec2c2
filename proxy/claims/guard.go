package claims

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"mailmux/proxy/splice"
)

// guard is the second process, which closes the sessions of this one when it is stopped. It shares one word of memory with
// it: when it has to act, in nanoseconds of splice.Clock, 0 when there is nothing to guard.
type guard struct {
	argv   []string
	delay  time.Duration // behind the deadline
	log    *slog.Logger
	memory *os.File
	shared []byte
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// startGuard starts it, and starts it again when it ends.
func startGuard(argv []string, delay time.Duration, log *slog.Logger) (*guard, error) {
	fd, err := unix.MemfdCreate("mailmux-guard", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("share memory with the guard: %w", err)
	}
	g := &guard{argv: argv, delay: delay, log: log, memory: os.NewFile(uintptr(fd), "mailmux-guard")}
	if err = g.memory.Truncate(int64(os.Getpagesize())); err == nil {
		g.shared, err = unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		g.memory.Close()
		return nil, fmt.Errorf("share memory with the guard: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	g.work.Go(func() { g.keep(ctx) })
	return g, nil
}

// arm says when the sessions have to be closed.
func (g *guard) arm(until time.Duration) {
	if until > 0 {
		word(g.shared).Store(int64(until + g.delay))
	}
}

// disarm says that they are closed.
func (g *guard) disarm() { word(g.shared).Store(0) }

func (g *guard) close() {
	g.cancel()
	g.work.Wait()
	g.disarm()
	unix.Munmap(g.shared)
	g.memory.Close()
}

// word is the shared one.
func word(shared []byte) *atomic.Int64 { return (*atomic.Int64)(unsafe.Pointer(&shared[0])) }

// keep runs the guard, again and again, until ctx ends.
func (g *guard) keep(ctx context.Context) {
	for {
		if err := g.run(ctx); err != nil && ctx.Err() == nil {
			g.log.Warn("claims: the guard has ended; while it is away, sessions of this process outlive it being stopped", "error", err)
		}
		if pause(ctx, time.Second) != nil {
			return
		}
	}
}

// run runs the guard once. It says on its standard output how it will act.
func (g *guard) run(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, g.argv[0], append(g.argv[1:len(g.argv):len(g.argv)], strconv.Itoa(os.Getpid()))...)
	cmd.ExtraFiles = []*os.File{g.memory}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // who stops our process group does not stop it
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	// The Yama security module lets nobody look into a process but who may trace it. Without Yama this fails.
	_ = unix.Prctl(unix.PR_SET_PTRACER, uintptr(cmd.Process.Pid), 0, 0, 0)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		g.log.Info("claims: guard", "pid", cmd.Process.Pid, "says", lines.Text())
	}
	return cmd.Wait()
}

// lookEvery is how long the guard sleeps at most.
const lookEvery = 200 * time.Millisecond

// getfd is pidfd_getfd(2), or in a test one that is not allowed.
type getfd func(process, fd, flags int) (int, error)

// Guard is the second process: it returns when the process that it guards has ended. The memory is its descriptor 3.
func Guard(pid int) error { return guardBy(pid, unix.PidfdGetfd) }

func guardBy(pid int, reach getfd) error {
	if os.Getppid() != pid {
		return fmt.Errorf("guard: %d is not the process that has started this one", pid)
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("guard: watch the process: %w", err)
	}
	defer unix.Close(process)
	shared, err := unix.Mmap(3, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("guard: share memory: %w", err)
	}
	fmt.Println(ability(process, reach))
	for {
		left := lookEvery
		if at := word(shared).Load(); at != 0 {
			left = time.Duration(at) - splice.Clock()
		}
		if left <= 0 {
			shut(process, pid, reach)
			left = lookEvery / 4
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, int(min(left, lookEvery)/time.Millisecond)+1)
		if n > 0 || err != nil && err != unix.EINTR {
			return nil
		}
	}
}

// ability says what the guard may do. The output of the process it guards is a descriptor that is there.
func ability(process int, reach getfd) string {
	fd, err := reach(process, 2, 0)
	if err == nil {
		unix.Close(fd)
	}
	if err != nil && err != unix.EBADF {
		return "shutting sockets down is not allowed here (" + err.Error() + "), so a process that is stopped too long is killed"
	}
	return "sessions are shut down when the process is stopped too long"
}

// shut shuts the connections to members down that are under a claim. If it may not, it kills the process.
func shut(process, pid int, reach getfd) {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	for _, entry := range list {
		n, notOne := strconv.Atoi(entry.Name())
		if notOne != nil {
			continue
		}
		fd, failed := reach(process, n, 0)
		switch failed {
		case nil:
			if splice.Guarded(fd) {
				unix.Shutdown(fd, unix.SHUT_RDWR)
			}
			unix.Close(fd)
		case unix.EBADF: // closed meanwhile
		default:
			err = failed
		}
	}
	if err != nil {
		unix.PidfdSendSignal(process, unix.SIGKILL, nil, 0)
	}
}
