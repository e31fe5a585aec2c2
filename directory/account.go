package directory

import (
	"context"
	"errors"
	"time"
)

// The outcomes of a lookup or of a password check that callers tell apart with errors.Is. Everything else is an outage
// and wraps ErrUnavailable.
var (
	// ErrNoUser: the directory answered, and no entry matches.
	ErrNoUser = errors.New("no such user")
	// ErrBadPassword: the directory refused the bind with this password.
	ErrBadPassword = errors.New("wrong password")
	// ErrUnavailable: no server of the directory gave an answer in time. Temporary.
	ErrUnavailable = errors.New("directory unavailable")
	// ErrAmbiguous: two or more entries match. Temporary: an administrator has to mend the entries.
	ErrAmbiguous = errors.New("more than one entry matches")
	// ErrNoHost: the entry has no home host, or several. Temporary.
	ErrNoHost = errors.New("account has no single home host")
	// ErrBadName: the login name or address cannot be one of ours (empty, control characters, two @, too long).
	ErrBadName = errors.New("not a valid account name")
)

// Status says whether an account may be served.
type Status uint8

const (
	Active   Status = iota // serve
	Held                   // temporary refusal: on hold, deferred
	Disabled               // permanent refusal: disabled, inactive, deleted
	Unknown                // a status word that nobody configured: temporary refusal, and a warning in the log
)

// Account is what a login name or a recipient address resolves to. It is a value: callers may keep it.
type Account struct {
	DN      string // of the entry, as the directory wrote it
	Login   string // the canonical login name: attribute attributes.login, or else the normalised name
	Host    string // the home host: a name in the host table, in lower case
	OldHost string // the home host before a failover, "" when there was none; in lower case
	Status  Status

	Cached bool          // answered from memory
	Stale  bool          // answered from memory beyond its time, because the directory is away
	Age    time.Duration // how long ago the directory said so
}

// Lookup is the part of a Directory that routing needs. Its methods may be called from many goroutines.
type Lookup interface {
	// Lookup finds the account of a normalised name, from memory if it is fresh there.
	Lookup(ctx context.Context, name Name) (Account, error)
	// Refresh asks the directory past the cache, and remembers the answer.
	Refresh(ctx context.Context, name Name) (Account, error)
	// CheckPassword verifies a password by a bind as the account's entry, on a connection kept for that purpose. An
	// empty password is ErrBadPassword and reaches no server (RFC 4513 section 5.1.2: it would be an unauthenticated
	// bind, and succeed).
	CheckPassword(ctx context.Context, account Account, password string) error
}
