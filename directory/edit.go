package directory

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// The outcomes of a change that callers tell apart with errors.Is. Everything else means that the directory refuses
// this change: another attempt will not help.
var (
	// ErrConflict: the entry does not hold the value any more that the change was to replace.
	ErrConflict = errors.New("changed by somebody else meanwhile")
	// ErrGone: there is no such entry any more.
	ErrGone = errors.New("the entry is gone")
	// ErrLost: the connection broke, or no answer came in time. Whether the change was made is not known.
	ErrLost = errors.New("connection to the directory lost")
	// ErrBusy: the server cannot do it now. Nothing was changed; another attempt may help.
	ErrBusy = errors.New("the directory is busy")
	// ErrReadOnly: the server refers to another one for changes, or is a replica that takes none. Nothing was changed.
	ErrReadOnly = errors.New("the server takes no changes")
	// ErrNoBase: there is nothing to search under.
	ErrNoBase = errors.New("the base is not in the directory, or the bind DN may not see it")
	// ErrAborted: a transaction failed as a whole, because of one of its changes. Nothing was changed.
	ErrAborted = errors.New("transaction aborted")
)

// Record is what a bulk change needs of an account's entry, as the directory wrote it.
type Record struct {
	DN      string
	Host    string   // "" when there is none
	OldHost string   // "" when there is none
	Logins  []string // the values of the login attribute
	Several bool     // more than one home host: nothing that can be changed safely
	// Referral is set in what is no entry, but the URL of a server that holds a part of the base. It is not followed.
	Referral string
}

// Change is one compare-and-set of one entry: it is made if the entry holds exactly From and OldFrom, and else fails with
// ErrConflict. "" stands for no value.
type Change struct {
	DN      string
	From    string // home host before
	To      string // home host after
	OldFrom string // original home host before
	OldTo   string // original home host after
}

// Query says which records are wanted; what is empty does not matter. All that is given must hold.
type Query struct {
	Base    string // instead of the configured one
	Host    string // the home host
	OldHost string // the original home host
	Filter  string // a filter besides (RFC 4515)
	Domain  string // of the login attribute
}

// Capabilities are what a server can do.
type Capabilities struct {
	Vendor       string // as it calls itself, "" if it does not
	Paging       bool   // RFC 2696
	Assertions   bool   // RFC 4528
	Transactions bool   // RFC 5805
}

// Editor reads and changes accounts in bulk, on one server or in one LDIF file. It is made for one run of a tool, not
// for the way of a session. Search, Get, Modify and Transact may be called from several goroutines at once.
type Editor interface {
	// Server is the configured URL.
	Server() string
	// Capabilities are what the server said of itself.
	Capabilities() Capabilities
	// Search gives each record that matches to each, in the order the server finds them, and stops at the first error of
	// each. It holds one page in memory. A server that limits how many entries it gives is asked piece by piece. A part of
	// the base that another server holds is one record, with Referral.
	Search(ctx context.Context, q Query, each func(Record) error) error
	// Find gives the records of an account's name; more than one if the name is ambiguous.
	Find(ctx context.Context, name Name) ([]Record, error)
	// Get reads one entry; its error is ErrGone if there is none.
	Get(ctx context.Context, dn string) (Record, error)
	// GetAll reads many entries, with many requests in flight. The errors belong to the DNs; ErrGone as with Get.
	GetAll(ctx context.Context, dns []string) ([]Record, []error)
	// Modify makes the changes one by one, many at the same time. The errors belong to the changes; nil is made.
	Modify(ctx context.Context, changes []Change) []error
	// Transact makes all the changes or, with an error, none (except for ErrLost, which leaves it open).
	Transact(ctx context.Context, changes []Change) error
	// Close ends the connections.
	Close()
}

// OpenEditor connects to one of the configured servers, or opens the LDIF file. Its error is ErrBadPassword when the
// server refuses the bind, and else ErrUnavailable when it is not there.
func OpenEditor(ctx context.Context, cfg Config, server string) (Editor, error) {
	cfg.Servers = []string{server}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	if path, ok := ldifFile(server); ok {
		return newFileEditor(path, cfg)
	}
	return newLDAPEditor(ctx, cfg, server)
}

// filter builds the filter of a query.
func (q *Query) filter(a Attributes) (string, error) {
	var b strings.Builder
	equals := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "(%s=%s)", name, ldap.EscapeFilter(value))
		}
	}
	equals(a.Host, q.Host)
	equals(a.OldHost, q.OldHost)
	if q.Host == "" && q.OldHost == "" {
		fmt.Fprintf(&b, "(|(%s=*)(%s=*))", a.Host, a.OldHost)
	}
	if q.Domain != "" {
		fmt.Fprintf(&b, "(%s=*@%s)", a.Login, ldap.EscapeFilter(q.Domain))
	}
	if q.Filter != "" {
		if err := CheckFilter(q.Filter); err != nil {
			return "", err
		}
		b.WriteString(q.Filter)
	}
	return "(&" + b.String() + ")", nil
}

// CheckFilter says what is wrong with a filter.
func CheckFilter(text string) error {
	if _, err := ldap.CompileFilter(text); err != nil {
		return fmt.Errorf("%q is not an LDAP filter (RFC 4515): %w", text, err)
	}
	return nil
}

// record reads an entry.
func (a *Attributes) record(e *entry) Record {
	r := Record{DN: e.dn, Logins: e.values(a.Login)}
	hosts := e.values(a.Host)
	if len(hosts) > 0 {
		r.Host = hosts[0]
	}
	old := e.values(a.OldHost)
	if len(old) > 0 {
		r.OldHost = old[0]
	}
	r.Several = len(hosts) > 1 || len(old) > 1
	return r
}

func fromLDAP(e *ldap.Entry) *entry {
	converted := &entry{dn: e.DN}
	for _, a := range e.Attributes {
		converted.attributes = append(converted.attributes, attribute{a.Name, a.Values})
	}
	return converted
}

// CanonicalDN is the same for all ways to write a DN.
func CanonicalDN(dn string) string { return foldDN(dn) }

// IsDN says whether s reads as a distinguished name.
func IsDN(s string) bool { return strings.Contains(s, "=") && validDN(s) }
