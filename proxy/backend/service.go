package backend

import (
	"crypto/tls"
	"fmt"
	"strings"
)

// The services that members offer. Their numbers are bits in a member's state; the order ranks those that open a
// mailbox, from deliveries, which wait in a queue, to the one that people watch.
const (
	smtp = iota
	lmtp
	sieve
	pop3
	imap
	submission

	numServices
)

// mailbox are the services that open an account's mailbox. They move to another member together, because two members
// at once can corrupt a mailbox on shared storage; submission may go elsewhere.
const mailbox = 1<<smtp | 1<<lmtp | 1<<sieve | 1<<pop3 | 1<<imap

// services names the services, with their standard ports in the clear and with implicit TLS, their label in SRV records
// (RFC 6186, 5804, 8314), and what their greeting begins with.
var services = [numServices]struct {
	name      string
	port      int
	tlsPort   int
	label     string
	tlsLabel  string
	greetings []string
	bye       string
}{
	smtp:       {"smtp", 25, 25, "_smtp", "_smtp", []string{"220"}, "QUIT\r\n"},
	lmtp:       {"lmtp", 24, 24, "_lmtp", "_lmtp", []string{"220"}, "QUIT\r\n"},
	sieve:      {"sieve", 4190, 4190, "_sieve", "_sieve", []string{`"`, "OK"}, "LOGOUT\r\n"},
	pop3:       {"pop3", 110, 995, "_pop3", "_pop3s", []string{"+OK"}, "QUIT\r\n"},
	imap:       {"imap", 143, 993, "_imap", "_imaps", []string{"* OK", "* PREAUTH"}, "a LOGOUT\r\n"},
	submission: {"submission", 587, 465, "_submission", "_submissions", []string{"220"}, "QUIT\r\n"},
}

// serviceIndex is the number of a service, and whether it is one.
func serviceIndex(name string) (int, bool) {
	switch name {
	case "imap":
		return imap, true
	case "pop3":
		return pop3, true
	case "submission":
		return submission, true
	case "sieve":
		return sieve, true
	case "lmtp":
		return lmtp, true
	case "smtp":
		return smtp, true
	}
	return 0, false
}

// serviceNames lists the services for error texts.
func serviceNames() string {
	var names []string
	for i := range services {
		names = append(names, services[len(services)-1-i].name)
	}
	return strings.Join(names, ", ")
}

// group is the mask of the services whose failures move a session of service away from a member.
func group(service int) uint64 {
	if service == submission {
		return 1 << submission
	}
	return mailbox
}

// Mode says when TLS begins on the leg to a member.
type Mode uint8

const (
	Off      Mode = iota // never
	StartTLS             // by the protocol's command
	Implicit             // at once
)

// String is the word of the configuration file.
func (m Mode) String() string { return [...]string{"off", "starttls", "implicit"}[m] }

func parseMode(word string) (Mode, error) {
	switch word {
	case "off":
		return Off, nil
	case "starttls":
		return StartTLS, nil
	case "implicit":
		return Implicit, nil
	}
	return Off, fmt.Errorf("must be off, starttls or implicit, got %q", word)
}

// LoginMode says how sessions log in to a member.
type LoginMode uint8

const (
	Forward LoginMode = iota // with the client's credentials
	Master                   // as a master user, for the account
)

// String is the word of the configuration file.
func (m LoginMode) String() string { return [...]string{"forward", "master"}[m] }

// MasterFormat says how a master login names the account.
type MasterFormat uint8

const (
	Authzid   MasterFormat = iota // SASL PLAIN: the account is the authorization identity
	Separator                     // the login name is account, separator, master user
)

// Credentials of the master user.
type Credentials struct {
	User      string
	Password  string
	Format    MasterFormat
	Separator string // for the format Separator
}

// String hides the password from logs.
func (c Credentials) String() string { return c.User + " [redacted]" }

// GoString hides the password from %#v.
func (c Credentials) GoString() string { return c.String() }

// tlsVersion is the least version spoken with members.
const tlsVersion = tls.VersionTLS12
