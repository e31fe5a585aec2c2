package splice

import (
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGate is the error of bytes that came too late for their gate.
var ErrGate = errors.New("the claim on the account may be over")

// claimedTimeout is the TCP_USER_TIMEOUT of a connection under a gate, in milliseconds. It is as good as the ordinary one,
// and tells such a connection from all others, for a process that looks at it from outside.
const (
	claimedTimeout = 119_873
	plainTimeout   = 120_000
)

// Guarded says whether a descriptor is that of a connection under a gate.
func Guarded(fd int) bool {
	v, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	return err == nil && v == claimedTimeout
}

// Gate lets bytes pass until a moment that its owner moves on again and again. Sockets and pairs that have one ask it
// before each write and at each wake-up, so that a process that was stopped past that moment sends nothing more. Its
// methods may be called from many goroutines; a nil Gate is open.
type Gate struct{ until atomic.Int64 }

// Clock is the time since the machine started, with the time that it slept: CLOCK_BOOTTIME.
func Clock() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 1<<63 - 1 // no clock: every gate is closed
	}
	return time.Duration(ts.Nano())
}

// Extend keeps the gate open until a moment of Clock. A gate that was closed stays so.
func (g *Gate) Extend(until time.Duration) {
	for {
		old := g.until.Load()
		if old < 0 || g.until.CompareAndSwap(old, int64(until)) {
			return
		}
	}
}

// Close closes the gate for good.
func (g *Gate) Close() { g.until.Store(-1) }

// Until is when the gate closes, negative when it was closed.
func (g *Gate) Until() time.Duration { return time.Duration(g.until.Load()) }

// Open says whether bytes may pass now.
func (g *Gate) Open() bool { return g == nil || int64(Clock()) < g.until.Load() }
