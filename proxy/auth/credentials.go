package auth

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// The ways a client's part of an exchange fails.
var (
	// ErrUnknownMechanism: not offered here.
	ErrUnknownMechanism = errors.New("authentication mechanism not offered")
	// ErrCancelled: the client gave up with "*".
	ErrCancelled = errors.New("authentication cancelled by the client")
	// ErrMalformed: a message that does not follow the mechanism's grammar, or is not base64.
	ErrMalformed = errors.New("malformed authentication message")
	// ErrChannelBinding: the client insists on a channel binding, which does not go through a relay.
	ErrChannelBinding = errors.New("channel binding is not possible through mailmux")
	// ErrCredentials: a user name or password that must not reach a backend (control characters, no user name).
	ErrCredentials = errors.New("user name or password with illegal characters")
)

// Mistake puts an error that is the client's own into words for it, for protocols that have no codes for these; "" is any
// other error.
func Mistake(err error) string {
	switch {
	case errors.Is(err, ErrUnknownMechanism):
		return "Unknown authentication mechanism"
	case errors.Is(err, ErrCancelled):
		return "Authentication cancelled"
	case errors.Is(err, ErrMalformed):
		return "Malformed authentication message"
	case errors.Is(err, ErrChannelBinding):
		return "Channel binding is not possible here"
	}
	return ""
}

// The mechanisms, by their registered names.
const (
	Plain       = "PLAIN"         // RFC 4616
	Login       = "LOGIN"         // draft-murchison-sasl-login
	OAuthBearer = "OAUTHBEARER"   // RFC 7628
	XOAuth2     = "XOAUTH2"       // Google's and Microsoft's protocol documents
	External    = "EXTERNAL"      // RFC 4422 appendix A
	ScramSHA1   = "SCRAM-SHA-1"   // RFC 5802
	ScramSHA256 = "SCRAM-SHA-256" // RFC 7677
)

// Known are all mechanisms of this package, in the order in which they are offered.
func Known() []string {
	return []string{ScramSHA256, ScramSHA1, OAuthBearer, XOAuth2, External, Plain, Login}
}

// Limits on what a client may claim, in bytes. Longer names reach no directory.
const (
	maxUser     = 320
	maxPassword = 1024
)

// Channel carries one challenge to the client and its response back, in the protocol's words. Both are the decoded
// bytes. A Channel returns ErrCancelled for "*" and ErrMalformed for what is not base64.
type Channel interface {
	Challenge(challenge []byte) (response []byte, err error)
}

// Credentials is what a client claims. It belongs to one session and one goroutine.
type Credentials struct {
	Mechanism string // "" for the protocol's own LOGIN or USER/PASS
	User      string // the name that proves itself (authentication identity), as the client wrote it
	Authzid   string // the account to act as, "" when it is the user's own
	Password  string // told mechanisms only

	initial []byte  // relayed mechanisms: the client's first message, as it came
	client  Channel // relayed mechanisms: the way back to the client
	relayed bool
}

// String hides the secrets from logs.
func (c *Credentials) String() string { return c.User + " [redacted]" }

// GoString hides the secrets from %#v.
func (c *Credentials) GoString() string { return c.String() }

// Password builds the credentials of a protocol's own login command.
func Password(user, password string) (*Credentials, error) {
	c := &Credentials{User: user, Password: password}
	return c, c.validate()
}

// Account is the name to find the home host by.
func (c *Credentials) Account() string {
	if c.Authzid != "" {
		return c.Authzid
	}
	return c.User
}

// Told says whether the password is known here, so that the login can be stated in the backend's own way.
func (c *Credentials) Told() bool {
	return c.Mechanism == "" || c.Mechanism == Plain || c.Mechanism == Login
}

// Relayed says whether a challenge of the backend has gone to the client already. From then on the exchange cannot be
// begun again with another member.
func (c *Credentials) Relayed() bool { return c.relayed }

// Forget drops the password, which is of no use after the login.
func (c *Credentials) Forget() { c.Password, c.initial = "", nil }

// validate refuses what could change the meaning of a line on its way to a backend (RFC 4616 section 2 forbids NUL;
// CR and LF would end a POP3 or XCLIENT line).
func (c *Credentials) validate() error {
	if c.User == "" || len(c.User) > maxUser || len(c.Authzid) > maxUser || len(c.Password) > maxPassword {
		return ErrCredentials
	}
	if !printable(c.User) || !printable(c.Authzid) || strings.ContainsAny(c.Password, "\x00\r\n") {
		return ErrCredentials
	}
	return nil
}

func printable(s string) bool {
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return false
		}
	}
	return true
}
