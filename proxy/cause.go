package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"mailmux/directory"
	"mailmux/proxy/auth"
	"mailmux/proxy/wire"
)

// Why a login or a session ends, beside the errors of directory, auth and wire.
var (
	// ErrRejected: the backend refused the credentials, without a reason of its own.
	ErrRejected = errors.New("backend refused the credentials")
	// ErrHeld: the account is on hold. Temporary.
	ErrHeld = errors.New("account is on hold")
	// ErrDisabled: the account is disabled. Permanent.
	ErrDisabled = errors.New("account is disabled")
	// ErrPlaintext: a login in the clear where TLS is required.
	ErrPlaintext = errors.New("login in the clear, TLS is required")
	// ErrLimit: one of our own limits is reached.
	ErrLimit = errors.New("limit reached")
	// ErrLoginTimeout: the client did not log in within limits.login_timeout.
	ErrLoginTimeout = errors.New("login timeout")
	// ErrBadCommands: the client sent too many lines that make no sense, or a first one of another protocol.
	ErrBadCommands = errors.New("too many bad commands")
	// ErrShutdown: the server is stopping, and the session has not logged in yet.
	ErrShutdown = errors.New("shutting down")
	// ErrKicked: an operator ended the session, or the account's member has changed.
	ErrKicked = errors.New("closed by the operator")
	// ErrLoop: the way to the home host leads back to this or another frontend.
	ErrLoop = errors.New("loop between frontends")
	// ErrProtocol: the backend's words make no sense.
	ErrProtocol = errors.New("backend answers nonsense")
	// ErrLoggedOut: the client ended the session by the protocol's own command before it logged in.
	ErrLoggedOut = errors.New("client logged out")
)

// Reply is a refusal by the backend with a code of its own, which the client is to read as it is: [LIMIT], [IN-USE],
// 4xx. Text is in the protocol's grammar, without a tag and without the line end.
type Reply struct {
	Text string
}

func (r *Reply) Error() string { return "backend refused the login: " + r.Text }

// Cause is what went wrong, as far as a client is to know. Each protocol has one table from causes to words
// (design: what a client is told).
type Cause uint8

const (
	// CauseTemporary: the directory is away, an entry is faulty, the home host unknown, a loop, an error of ours.
	CauseTemporary Cause = iota
	// CauseAuth: unknown user or wrong password; nobody is told which.
	CauseAuth
	// CauseHeld: the account is on hold.
	CauseHeld
	// CauseDisabled: the account is disabled.
	CauseDisabled
	// CauseUnreachable: no member is reachable, its TLS fails, it answers nonsense, the deadline passed.
	CauseUnreachable
	// CauseReply: the backend refused with a code of its own; the error is a *Reply.
	CauseReply
	// CausePlaintext: TLS is required first.
	CausePlaintext
	// CauseLimit: a limit of ours.
	CauseLimit
	// CauseShutdown: shutting down.
	CauseShutdown
	// CauseTimeout: the client took too long to log in.
	CauseTimeout
	// CauseGarbage: too many bad commands, an overlong line, a foreign protocol.
	CauseGarbage
	// CauseGone: the client went away or logged out; nobody is left to be told.
	CauseGone

	numCauses
)

// Causes lists every cause, for tables that have to be complete.
func Causes() []Cause {
	all := make([]Cause, numCauses)
	for i := range all {
		all[i] = Cause(i)
	}
	return all
}

// String is the value of the label "outcome" and of the event's key outcome.
func (c Cause) String() string {
	return [numCauses]string{"temporary", "auth_failed", "held", "disabled", "unreachable", "backend_refused", "plaintext",
		"limit", "shutdown", "timeout", "garbage", "gone"}[c]
}

// EndedByEngine says whether the engine ends the session for this cause, and has the last word, by Handler.Bye.
func (c Cause) EndedByEngine() bool {
	return c == CauseLimit || c == CauseShutdown || c == CauseTimeout || c == CauseGarbage
}

// CauseOf sorts an error. In doubt it is temporary: an outage must never look like a wrong password.
func CauseOf(err error) Cause {
	var reply *Reply
	switch {
	case errors.As(err, &reply):
		return CauseReply
	case errors.Is(err, errBackend):
		return CauseUnreachable
	case errors.Is(err, directory.ErrNoUser), errors.Is(err, directory.ErrBadPassword), errors.Is(err, ErrRejected),
		errors.Is(err, directory.ErrBadName), errors.Is(err, auth.ErrCredentials):
		return CauseAuth
	case errors.Is(err, ErrHeld):
		return CauseHeld
	case errors.Is(err, ErrDisabled):
		return CauseDisabled
	case errors.Is(err, ErrPlaintext):
		return CausePlaintext
	case errors.Is(err, ErrShutdown):
		return CauseShutdown
	case errors.Is(err, ErrLimit), errors.Is(err, ErrKicked):
		return CauseLimit
	case errors.Is(err, ErrLoginTimeout):
		return CauseTimeout
	case errors.Is(err, wire.ErrLineTooLong), errors.Is(err, wire.ErrInjected), errors.Is(err, ErrBadCommands):
		return CauseGarbage
	case errors.Is(err, ErrLoggedOut), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), gone(err):
		return CauseGone
	case errors.Is(err, directory.ErrUnavailable), errors.Is(err, directory.ErrAmbiguous), errors.Is(err, directory.ErrNoHost):
		return CauseTemporary
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return CauseUnreachable
	}
	return CauseTemporary
}

// gone says whether an error is how a peer's connection ends when it does not end in order.
func gone(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.ErrClosedPipe)
}
