package backend

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
)

// Why there is no way to a member, told apart with errors.Is. All of them are temporary for the client.
var (
	// ErrUnknownHost: the account's home host is not in the host table. The error is an *UnknownHostError.
	ErrUnknownHost = errors.New("home host is not in the host table")
	// ErrNoMember: no member of the host takes a session now. The text says why of each.
	ErrNoMember = errors.New("no member takes sessions")
	// ErrBusy: too many sessions wait for a connect to this member.
	ErrBusy = errors.New("too many connects are under way")
	// ErrLoop: the address of the member is that of a listener of this process.
	ErrLoop = errors.New("member is this frontend itself")
	// ErrDown: the member went down while the session waited for its turn to connect.
	ErrDown = errors.New("member went down meanwhile")
	// ErrService: no such service.
	ErrService = errors.New("no such service")
	// ErrNoSuch: the operator named a host or member that is not there, or one that is not unique.
	ErrNoSuch = errors.New("no such host or member")
)

// UnknownHostError names a home host that is not in the table, and the known name that is most like it. It is an
// ErrUnknownHost.
type UnknownHostError struct {
	Name    string
	Nearest string // "" if none is like it
}

func (e *UnknownHostError) Error() string {
	if e.Nearest == "" {
		return fmt.Sprintf("home host %q is not in the host table: add it to hosts, or mend the account", e.Name)
	}
	return fmt.Sprintf("home host %q is not in the host table (%s is): add it to hosts, or mend the account", e.Name, e.Nearest)
}

// Is makes the error an ErrUnknownHost.
func (e *UnknownHostError) Is(target error) bool { return target == ErrUnknownHost }

// DialError is what Dial fails with: the member did not answer, and its health knows already. Failed ignores it, so that
// nothing is counted twice.
type DialError struct {
	Member string
	Err    error
}

func (e *DialError) Error() string { return fmt.Sprintf("connect to %s: %v", e.Member, e.Err) }
func (e *DialError) Unwrap() error { return e.Err }

// SilentError is that a member accepted a session's connection and did not greet. A check would find the same, so Failed
// counts it as a failed check, too, and checks that succeed bring the member back.
type SilentError struct{ Err error }

func (e *SilentError) Error() string { return fmt.Sprintf("greeting of the member: %v", e.Err) }
func (e *SilentError) Unwrap() error { return e.Err }

// lookupError is a name that could not be looked up.
type lookupError struct {
	name string
	err  error
}

func (e *lookupError) Error() string { return fmt.Sprintf("look up %s: %v", e.name, e.err) }
func (e *lookupError) Unwrap() error { return e.err }

// away says whether the DNS gave no answer. That there is no such name is one.
func (e *lookupError) away() bool {
	var dns *net.DNSError
	return !errors.As(e.err, &dns) || !dns.IsNotFound
}

// ours says whether an error is a shortage of this process or machine, or of its DNS. It says nothing about the member:
// counting it would take every backend down when descriptors run out.
func ours(err error) bool {
	if lookup := (*lookupError)(nil); errors.As(err, &lookup) && lookup.away() {
		return true
	}
	for _, errno := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EADDRNOTAVAIL,
		syscall.EADDRINUSE} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// nearest finds the name that is most like the one asked for: at most a third of it differs.
func nearest(name string, names func(yield func(string) bool)) string {
	best, bound := "", len(name)/3+1
	for other := range names {
		if name != "" && (strings.HasPrefix(other, name+".") || strings.HasPrefix(name, other+".")) {
			return other // the domain was left out or added
		}
		if d := len(other) - len(name); d > bound || -d > bound {
			continue
		}
		if d := distance(name, other, bound); d <= bound && (d < bound || best == "" || other < best) {
			best, bound = other, d
		}
	}
	return best
}

// distance is the number of letters to change, add or drop between two names; more than bound is bound+1.
func distance(a, b string, bound int) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal, least := row[0], i
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
			least = min(least, row[j])
		}
		if least > bound {
			return bound + 1
		}
	}
	return row[len(b)]
}
