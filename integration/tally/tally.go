// Package tally has fake members of a cluster that keep one book together: which account is connected to which of them,
// over which connections. It counts every moment at which an account logs in to one member while another one still has a
// connection of it.
//
// A connection counts until the member has been sent its end, that is until its TCP state is not ESTABLISHED any more: so
// the count depends on no timing of the test's own.
package tally

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Tally is the book. Its methods may be called from many goroutines.
type Tally struct {
	mu         sync.Mutex
	open       map[string][]*entry // by account
	violations []string
	logins     int
	moves      int
	last       map[string]string // the member of the account's last login
}

// entry is one connection of an account to a member.
type entry struct {
	account, member, service string
	conn                     *net.TCPConn
	since                    time.Time
}

// New is an empty book.
func New() *Tally {
	return &Tally{open: map[string][]*entry{}, last: map[string]string{}}
}

// enter notes a login, and a violation if another member has the account.
func (l *Tally) enter(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logins++
	if last := l.last[e.account]; last != "" && last != e.member {
		l.moves++
	}
	l.last[e.account] = e.member
	for _, other := range l.open[e.account] {
		if other.member != e.member && established(other.conn) {
			l.violations = append(l.violations, fmt.Sprintf("%s %s logs in to %s by %s from %s while %s has it by %s from %s since %s",
				time.Now().Format("15:04:05.000"), e.account, e.member, e.service, e.conn.RemoteAddr(), other.member, other.service,
				other.conn.RemoteAddr(), time.Since(other.since).Round(time.Millisecond)))
		}
	}
	l.open[e.account] = append(l.open[e.account], e)
}

func (l *Tally) leave(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.open[e.account], e); i >= 0 {
		l.open[e.account] = slices.Delete(l.open[e.account], i, i+1)
	}
}

// established says whether neither side has ended the connection, as this side's kernel knows.
func established(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	const stateEstablished = 1 // TCP_ESTABLISHED, include/net/tcp_states.h
	up := false
	if err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		up = err == nil && info.State == stateEstablished
	}); err != nil {
		return false // we have closed it
	}
	return up
}

// Summary is what the book says.
type Summary struct {
	Logins     int
	Moves      int // logins to another member than the account's last one
	Violations []string
}

// Summary is the state of now.
func (l *Tally) Summary() Summary {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Summary{l.logins, l.moves, slices.Clone(l.violations)}
}

// Where lists the members that an account has connections to.
func (l *Tally) Where(account string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []string
	for _, e := range l.open[account] {
		if established(e.conn) {
			list = append(list, e.member)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
