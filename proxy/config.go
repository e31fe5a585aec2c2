package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mailmux/proxy/auth"
)

// TLSMode is how TLS comes to a listener.
type TLSMode string

// The modes of a listener. Its zero value offers STARTTLS where there is a certificate.
const (
	TLSStart    TLSMode = "starttls"
	TLSImplicit TLSMode = "implicit"
	TLSOff      TLSMode = "off"
)

// Listener is one listening address.
type Listener struct {
	// Service is the protocol spoken: imap, pop3, submission or sieve for mail programs, lmtp for MTAs that hand over
	// mail, smtp for other sites that send it, outgoing for what the backends themselves send to whomever (section
	// outgoing).
	Service string `yaml:"service"`
	// Address to listen on, host:port; an empty host is every address of the machine.
	Address string `yaml:"address"`
	// TLS is starttls (the default), implicit, or off. Without a certificate there is no STARTTLS.
	TLS TLSMode `yaml:"tls"`
	// AllowPlaintext lets clients log in without TLS. Off by default; for trusted networks and loopback only.
	AllowPlaintext bool `yaml:"allow_plaintext"`
	// ProxyProtocol lists the networks whose connections begin with a PROXY header (v1 or v2): your load balancers.
	// From these a header is required; from all others it is taken for what it is, garbage.
	ProxyProtocol []netip.Prefix `yaml:"proxy_protocol"`
	// IdentityFrom lists the networks that may tell us who their client is (IMAP ID, XCLIENT), judged by the address that
	// connects: other frontends and webmail servers.
	IdentityFrom []netip.Prefix `yaml:"identity_from"`
}

// TakesMail says whether the service brings messages, and has no logins.
func (l *Listener) TakesMail() bool {
	return l.Service == "lmtp" || l.Service == "smtp" || l.Service == "outgoing"
}

// Validate joins all faults of a listener; each begins with the key.
func (l *Listener) Validate() error {
	var faults []error
	if !slices.Contains(services, l.Service) {
		faults = append(faults, fmt.Errorf("service: %q is not one of %s", l.Service, strings.Join(services, ", ")))
	}
	if host, port, err := net.SplitHostPort(l.Address); err != nil {
		faults = append(faults, fmt.Errorf("address: %q is not host:port, such as \":143\" or \"192.0.2.1:143\"", l.Address))
	} else if _, err := net.LookupPort("tcp", port); err != nil {
		faults = append(faults, fmt.Errorf("address: %q has no valid port", l.Address))
	} else if !localHost(host) {
		faults = append(faults, fmt.Errorf("address: %q begins with neither an IP address nor a name; for every address of the machine write \":%s\"", l.Address, port))
	}
	switch l.TLS {
	case "", TLSStart, TLSImplicit, TLSOff:
	default:
		faults = append(faults, fmt.Errorf("tls: %q is not starttls, implicit or off", l.TLS))
	}
	return errors.Join(faults...)
}

// localHost says whether a listener may name its address so: not at all, by an IP address, or by a DNS name, whose last
// part is not digits alone (10.0.0.256 is no name).
func localHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return true
	}
	odd := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	}
	return !strings.ContainsFunc(host, odd) && strings.Trim(host[strings.LastIndexByte(host, '.')+1:], "0123456789") != ""
}

var services = []string{"imap", "pop3", "submission", "sieve", "lmtp", "smtp", "outgoing"}

// TLS is the frontend's own TLS, for clients.
type TLS struct {
	// Certificates are chosen by the server name (SNI) a client asks for; the first one serves those that ask for none
	// or for an unknown one. They are read again on reload.
	Certificates []Certificate `yaml:"certificates"`
	// MinVersion is 1.2 (the default) or 1.3.
	MinVersion string `yaml:"min_version"`
	// ClientCAFile makes the listeners ask for a client certificate, verified against these authorities: for EXTERNAL.
	ClientCAFile string `yaml:"client_ca_file"`
	// ClientName says which part of a client's certificate names its account: email (a subject alternative name, the
	// default) or cn.
	ClientName string `yaml:"client_name"`
	// TicketKeyFile holds the secret that session tickets are sealed with; frontends that share it resume each other's
	// TLS sessions. Any file of at least 32 bytes; several lines are several keys, newest first.
	TicketKeyFile string `yaml:"ticket_key_file"`
}

// Certificate names two PEM files.
type Certificate struct {
	// Cert is the certificate with its chain.
	Cert string `yaml:"cert"`
	// Key is its private key.
	Key string `yaml:"key"`
}

// Validate joins all faults; each begins with the key.
func (t *TLS) Validate() error {
	var faults []error
	for i, c := range t.Certificates {
		if c.Cert == "" {
			faults = append(faults, fmt.Errorf("certificates[%d].cert: missing", i))
		}
		if c.Key == "" {
			faults = append(faults, fmt.Errorf("certificates[%d].key: missing", i))
		}
	}
	if !slices.Contains([]string{"", "1.2", "1.3"}, t.MinVersion) {
		faults = append(faults, fmt.Errorf("min_version: %q is not 1.2 or 1.3 (quote it: it is a word, not a number)", t.MinVersion))
	}
	if !slices.Contains([]string{"", "email", "cn"}, t.ClientName) {
		faults = append(faults, fmt.Errorf("client_name: %q is not email or cn", t.ClientName))
	}
	return errors.Join(faults...)
}

// Limits bound what clients can take. What is absent has the default in brackets; nothing can be unlimited.
type Limits struct {
	// Sessions is how many sessions there are at once, in all [100000]. At the ceiling connections wait in the kernel's
	// queue.
	Sessions int `yaml:"sessions"`
	// PerAddress is how many sessions a client address has at once [100]; an IPv6 address counts as its /64.
	PerAddress int `yaml:"per_address"`
	// PerAccount is how many sessions an account has at once at this frontend, over all protocols [50].
	PerAccount int `yaml:"per_account"`
	// Exempt lists networks that PerAddress and FailureDelay do not apply to, such as the webmail server's.
	Exempt []netip.Prefix `yaml:"exempt"`
	// LoginTimeout is how long a client may take to log in, from its connection on [60s].
	LoginTimeout time.Duration `yaml:"login_timeout"`
	// HandOverTimeout is how long looking up, dialing and logging in on the backend may take, in all [30s].
	HandOverTimeout time.Duration `yaml:"hand_over_timeout"`
	// IdleTimeout ends a logged-in session when no byte has passed in either direction for so long [35m]; at least 30m,
	// since IMAP's IDLE may be silent for 29 minutes (RFC 2177).
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// BadCommands is how many bad commands and failed logins a session may have [5].
	BadCommands int `yaml:"bad_commands"`
	// LineLength is the longest command line in bytes [16384]. OAuth tokens are long.
	LineLength int `yaml:"line_length"`
	// FailureDelay is how long the next login from an address waits after a failed one [1s]; it doubles with each further
	// failure.
	FailureDelay time.Duration `yaml:"failure_delay"`
	// FailureDelayMax is where doubling ends [15s].
	FailureDelayMax time.Duration `yaml:"failure_delay_max"`
	// DrainTimeout is how long logged-in sessions may live on after SIGTERM [10s]. A systemd unit needs a TimeoutStopSec
	// above it.
	DrainTimeout time.Duration `yaml:"drain_timeout"`
	// EvacuationRate is how many accounts a second have to leave a member that is withdrawn with -evacuate [50].
	EvacuationRate int `yaml:"evacuation_rate"`
	// CloseSpread is the time over which clients are let go when a member is lost with many sessions [10s], so that they
	// do not all come back in the same second.
	CloseSpread time.Duration `yaml:"close_spread"`
}

// minIdle is the least idle timeout: IMAP clients in IDLE speak every 29 minutes (RFC 2177).
const minIdle = 30 * time.Minute

// WithDefaults fills in what is absent.
func (l Limits) WithDefaults() Limits {
	l.Sessions = cmp.Or(l.Sessions, 100_000)
	l.PerAddress = cmp.Or(l.PerAddress, 100)
	l.PerAccount = cmp.Or(l.PerAccount, 50)
	l.BadCommands = cmp.Or(l.BadCommands, 5)
	l.LineLength = cmp.Or(l.LineLength, 16384)
	l.EvacuationRate = cmp.Or(l.EvacuationRate, 50)
	l.LoginTimeout = cmp.Or(l.LoginTimeout, time.Minute)
	l.HandOverTimeout = cmp.Or(l.HandOverTimeout, 30*time.Second)
	l.IdleTimeout = cmp.Or(l.IdleTimeout, 35*time.Minute)
	l.FailureDelay = cmp.Or(l.FailureDelay, time.Second)
	l.FailureDelayMax = cmp.Or(l.FailureDelayMax, 15*time.Second)
	l.DrainTimeout = cmp.Or(l.DrainTimeout, 10*time.Second)
	l.CloseSpread = cmp.Or(l.CloseSpread, 10*time.Second)
	return l
}

// Validate joins all faults; each begins with the key.
func (l *Limits) Validate() error {
	var faults []error
	number := func(key string, v, least, most int) {
		if v != 0 && (v < least || v > most) {
			faults = append(faults, fmt.Errorf("%s: %d is not between %d and %d; leave it out for the default", key, v, least, most))
		}
	}
	span := func(key string, v, least, most time.Duration) {
		if v != 0 && (v < least || v > most) {
			faults = append(faults, fmt.Errorf("%s: %s is not between %s and %s; leave it out for the default", key, v, least, most))
		}
	}
	number("sessions", l.Sessions, 1, 10_000_000)
	number("per_address", l.PerAddress, 1, 10_000_000)
	number("per_account", l.PerAccount, 1, 10_000_000)
	number("bad_commands", l.BadCommands, 1, 1000)
	number("line_length", l.LineLength, 1024, 1<<20)
	number("evacuation_rate", l.EvacuationRate, 1, 100_000)
	span("login_timeout", l.LoginTimeout, time.Second, time.Hour)
	span("hand_over_timeout", l.HandOverTimeout, 100*time.Millisecond, 10*time.Minute)
	span("idle_timeout", l.IdleTimeout, minIdle, 30*24*time.Hour)
	span("failure_delay", l.FailureDelay, time.Millisecond, time.Minute)
	span("failure_delay_max", l.FailureDelayMax, time.Millisecond, 5*time.Minute)
	span("drain_timeout", l.DrainTimeout, time.Millisecond, 24*time.Hour)
	span("close_spread", l.CloseSpread, time.Millisecond, 10*time.Minute)
	return errors.Join(faults...)
}

// Auth is what clients may log in with.
type Auth struct {
	// Mechanisms lists the SASL mechanisms offered [plain, login]; also known: oauthbearer, xoauth2, scram-sha-256,
	// scram-sha-1, external. List only what every backend does: scram, oauthbearer and xoauth2 are relayed, external needs
	// backend.login master and tls.client_ca_file.
	Mechanisms []string `yaml:"mechanisms"`
}

// Validate joins all faults; each begins with the key.
func (a *Auth) Validate() error {
	var faults []error
	for i, m := range a.Mechanisms {
		if !slices.ContainsFunc(auth.Known(), func(k string) bool { return strings.EqualFold(k, m) }) {
			faults = append(faults, fmt.Errorf("mechanisms[%d]: %q is not one of %s", i, m, strings.ToLower(strings.Join(auth.Known(), ", "))))
		}
	}
	return errors.Join(faults...)
}

// offered are the mechanisms in our order of preference, with EXTERNAL only where a certificate names the user.
func (a *Auth) offered(external bool) []string {
	configured := a.Mechanisms
	if len(configured) == 0 {
		configured = []string{auth.Plain, auth.Login}
	}
	var list []string
	for _, k := range auth.Known() {
		if k == auth.External && !external {
			continue
		}
		if slices.ContainsFunc(configured, func(m string) bool { return strings.EqualFold(k, m) }) {
			list = append(list, k)
		}
	}
	return list
}

// networks is a list of prefixes that addresses are looked up in.
type networks []netip.Prefix

func (n networks) contains(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(n, func(p netip.Prefix) bool { return p.Contains(a) })
}
