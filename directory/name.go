package directory

import (
	"net/netip"
	"strings"
)

// Name is a normalised account name: the key of the cache and of every limit by account. Two names that mean the same
// account have the same Local and the same Domain.
type Name struct {
	Local  string // in lower case, without the detail; the content of a quoted local part, without its quotes
	Domain string // in lower case, aliases resolved; IDNA A-labels and U-labels stay as they came
	Detail string // what followed the recipient delimiter, kept for the backend; always "" for logins
}

// String is local@domain, or local alone for a site without a default domain. A local part that is not a dot-string of
// RFC 5321 section 4.1.2 is quoted, so that the result is an address again and can mean nothing else.
func (n Name) String() string {
	local := n.Local
	if n.needsQuotes() {
		local = quote(local)
	}
	if n.Domain == "" {
		return local
	}
	return local + "@" + n.Domain
}

// Address is String with the detail put back: what a delivery to a backend is addressed to.
func (n Name) Address(delimiter string) string {
	if n.Detail == "" {
		return n.String()
	}
	return Name{Local: n.Local + delimiter + n.Detail, Domain: n.Domain}.String()
}

// needsQuotes says whether the local part holds something that would read differently, or not at all, outside quotes.
func (n Name) needsQuotes() bool {
	for i := range len(n.Local) {
		c := n.Local[i]
		if !atext(c) && c != '.' || c == '%' && n.Domain == "" {
			return true
		}
	}
	return n.Local == ""
}

// quote writes a quoted-string of RFC 5321 section 4.1.2.
func quote(content string) string {
	var b strings.Builder
	b.Grow(len(content) + 2)
	b.WriteByte('"')
	for i := range len(content) {
		if c := content[i]; c == '"' || c == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(content[i])
	}
	b.WriteByte('"')
	return b.String()
}

// Domains is the configuration of normalisation. Domain names in it are written in lower case without a trailing dot.
// A Domains may be used from many goroutines as long as nobody changes it.
type Domains struct {
	// Default completes a login name without a domain when neither the address nor the TLS server name connected to
	// says which domain is meant. Empty: such names are looked up as they are.
	Default string `yaml:"default"`
	// Addresses gives domains their dedicated addresses: local address connected to, and the domain of names without one.
	Addresses map[netip.Addr]string `yaml:"addresses"`
	// ServerNames does the same by the TLS server name (SNI) the client asked for.
	ServerNames map[string]string `yaml:"server_names"`
	// Aliases maps an alias domain to the domain it stands for. One step: an alias of an alias is a fault.
	Aliases map[string]string `yaml:"aliases"`
	// Delimiter separates a recipient's detail from its local part: "+" when absent, "none" for no detail. Several
	// characters mean any of them.
	Delimiter string `yaml:"delimiter"`
	// KeepCase leaves the case of local parts alone. Domains are always compared without case.
	KeepCase bool `yaml:"keep_case"`
}
