package directory

import "net/netip"

// Name is a normalised account name: the key of the cache and of every limit by account. Two names that mean the same
// account are equal.
type Name struct {
	Local  string // in lower case, without the detail
	Domain string // in lower case, aliases resolved; IDNA A-labels become U-labels or stay as they came
	Detail string // what followed the recipient delimiter, kept for the backend; always "" for logins
}

// String is local@domain, or local alone for a site without a default domain.
func (n Name) String() string {
	if n.Domain == "" {
		return n.Local
	}
	return n.Local + "@" + n.Domain
}

// Domains is the configuration of normalisation.
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
	// Delimiter separates a recipient's detail from its local part: "+" when absent, "none" for no detail.
	Delimiter string `yaml:"delimiter"`
	// KeepCase leaves the case of local parts alone. Domains are always compared without case.
	KeepCase bool `yaml:"keep_case"`
}
