package directory

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"
)

// Bounds on what a directory may answer. A directory that is out of its mind must not fill our memory or our logs.
const (
	maxDN     = 8 << 10
	maxHost   = 255 // as for a domain name, which it usually is
	maxStatus = 64
)

// entry is what a source found, reduced to the attributes that were asked for.
type entry struct {
	dn         string
	attributes []attribute
}

type attribute struct {
	name   string
	values []string
}

// values gives an attribute's values. Servers write attribute names in the case they like.
func (e *entry) values(name string) []string {
	for i := range e.attributes {
		if strings.EqualFold(e.attributes[i].name, name) {
			return e.attributes[i].values
		}
	}
	return nil
}

// reader turns entries into accounts.
type reader struct {
	attributes Attributes
	status     map[string]Status
}

func newReader(c Config) reader {
	r := reader{attributes: c.Attributes, status: map[string]Status{}}
	for status, words := range map[Status][]string{
		Active: c.StatusWords.Active, Held: c.StatusWords.Hold, Disabled: c.StatusWords.Disabled,
	} {
		for _, word := range words {
			r.status[strings.ToLower(strings.TrimSpace(word))] = status
		}
	}
	return r
}

// names are the attributes to ask for.
func (r *reader) names() []string {
	return []string{r.attributes.Host, r.attributes.OldHost, r.attributes.Login, r.attributes.Status}
}

// account reads an entry. What it keeps is copied, so that a small account does not hold on to a large answer.
func (r *reader) account(e *entry, name Name) (Account, error) {
	if len(e.dn) > maxDN || !printable(e.dn) {
		return Account{}, fmt.Errorf("%w: the entry of %s has an unusable DN of %d bytes", ErrUnavailable, name, len(e.dn))
	}
	host, err := r.host(e)
	if err != nil {
		return Account{}, err
	}
	a := Account{DN: strings.Clone(e.dn), Host: host, Login: r.login(e, name), Status: r.readStatus(e)}
	if old := e.values(r.attributes.OldHost); len(old) > 0 && validHost(old[0]) {
		a.OldHost = strings.ToLower(strings.Clone(old[0]))
	}
	return a, nil
}

// host is the one home host. Several values that differ are an error, not a choice.
func (r *reader) host(e *entry) (string, error) {
	host := ""
	for _, value := range e.values(r.attributes.Host) {
		value = strings.TrimSpace(value)
		if !validHost(value) {
			return "", fmt.Errorf("%w: %s of %s is not a host's name: %.80q", ErrNoHost, r.attributes.Host, e.dn, value)
		}
		value = strings.ToLower(value)
		if host != "" && host != value {
			return "", fmt.Errorf("%w: %s of %s is both %q and %q", ErrNoHost, r.attributes.Host, e.dn, host, value)
		}
		host = value
	}
	if host == "" {
		return "", fmt.Errorf("%w: %s has no %s", ErrNoHost, e.dn, r.attributes.Host)
	}
	return strings.Clone(host), nil
}

// login is the canonical login name: the value in the entry's own DN, which is the same whichever address the account
// was found by, else the first value.
func (r *reader) login(e *entry, name Name) string {
	values := e.values(r.attributes.Login)
	if len(values) > 1 {
		if dn, err := ldap.ParseDN(e.dn); err == nil && len(dn.RDNs) > 0 {
			for _, rdn := range dn.RDNs[0].Attributes {
				if strings.EqualFold(rdn.Type, r.attributes.Login) {
					values = []string{rdn.Value}
				}
			}
		}
	}
	if len(values) == 0 || values[0] == "" || len(values[0]) > maxLogin || !printable(values[0]) {
		return name.String()
	}
	return strings.Clone(values[0])
}

// readStatus gives the strictest of the values: an account that is held and active at once is held.
func (r *reader) readStatus(e *entry) Status {
	worst := Active
	for _, value := range e.values(r.attributes.Status) {
		status, ok := Unknown, false
		if len(value) <= maxStatus {
			status, ok = r.status[strings.ToLower(strings.TrimSpace(value))]
		}
		if !ok {
			status = Unknown
		}
		if strings.TrimSpace(value) != "" && status != Active && (worst == Active || status == Disabled) {
			worst = status
		}
	}
	return worst
}

// validHost wants a name that is safe to print, to compare and to look up: no spaces, nothing invisible.
func validHost(s string) bool {
	return s != "" && len(s) <= maxHost && printable(s) && !strings.ContainsAny(s, " \t")
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
