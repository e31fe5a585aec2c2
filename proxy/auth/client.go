package auth

import (
	"encoding/base64"
	"errors"
	"strings"

	"github.com/emersion/go-sasl"
)

// Master is a backend's master user, who may log in as anybody.
type Master struct {
	User     string
	Password string
	// Separator joins account and master into one user name, as in account*master. Empty: SASL PLAIN with the account as
	// the authorization identity.
	Separator string
}

// String hides the password from logs.
func (m Master) String() string { return m.User + " [redacted]" }

// GoString hides the password from %#v.
func (m Master) GoString() string { return m.String() }

// Exchange is the client's half of a SASL exchange with a backend (the shape of go-sasl's Client).
type Exchange interface {
	// Start names the mechanism and gives the initial response; nil means there is none.
	Start() (mechanism string, initial []byte, err error)
	// Next answers a challenge.
	Next(challenge []byte) (response []byte, err error)
}

// Told is a login whose words are known: what a protocol's own LOGIN or USER/PASS command needs.
type Told struct{ Authzid, User, Password string }

// String hides the password from logs.
func (t Told) String() string { return t.User + " [redacted]" }

// GoString hides the password from %#v.
func (t Told) GoString() string { return t.String() }

// Backend says how to state the credentials to a backend: under the account's canonical name there, by a master user if
// master is not nil. ok is false for a relayed mechanism, which goes by Exchange alone.
func (c *Credentials) Backend(account string, master *Master) (told Told, ok bool) {
	switch {
	case master != nil && master.Separator != "":
		return Told{User: account + master.Separator + master.User, Password: master.Password}, true
	case master != nil:
		return Told{Authzid: account, User: master.User, Password: master.Password}, true
	case !c.Told():
		return Told{}, false
	case c.Authzid != "":
		return Told{Authzid: account, User: c.User, Password: c.Password}, true
	}
	return Told{User: account, Password: c.Password}, true
}

// Exchange states the credentials by SASL: a relayed mechanism passes the client's own messages on; told credentials go
// by PLAIN, or by LOGIN if that is all the backend offers. offered lists the backend's mechanisms, nil if it did not say.
func (c *Credentials) Exchange(account string, master *Master, offered []string) Exchange {
	told, ok := c.Backend(account, master)
	if !ok {
		return &relay{c}
	}
	if told.Authzid == "" && offered != nil && !has(offered, Plain) && has(offered, Login) {
		return &toldExchange{sasl.NewLoginClient(told.User, told.Password)}
	}
	return &toldExchange{sasl.NewPlainClient(told.Authzid, told.User, told.Password)}
}

// Secrets are the words of the login that no log may show, in the forms in which a backend may say them back: as they are,
// quoted, and in the base64 of the messages that carry them. SCRAM has none: its messages do not hold the password.
func (c *Credentials) Secrets(account string, master *Master) []string {
	told, ok := c.Backend(account, master)
	if !ok {
		return c.tokens()
	}
	if told.Password == "" {
		return nil
	}
	plain := told.Authzid + "\x00" + told.User + "\x00" + told.Password
	secrets := []string{told.Password, encode(told.Password), encode(plain)}
	if strings.ContainsAny(told.Password, `"\`) {
		secrets = append(secrets, strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(told.Password))
	}
	return secrets
}

// tokens are the secrets of OAUTHBEARER and XOAUTH2.
func (c *Credentials) tokens() []string {
	message := string(c.initial)
	_, value, found := strings.Cut(message, "\x01auth=")
	if !found {
		return nil
	}
	value, _, _ = strings.Cut(value, "\x01")
	token := value[strings.LastIndexByte(value, ' ')+1:]
	if token == "" {
		return nil
	}
	return []string{token, encode(message)}
}

func encode(message string) string { return base64.StdEncoding.EncodeToString([]byte(message)) }

func has(mechanisms []string, name string) bool {
	_, ok := offered(mechanisms, name)
	return ok
}

// toldExchange runs one of go-sasl's clients.
type toldExchange struct{ client sasl.Client }

func (t *toldExchange) Start() (string, []byte, error) { return t.client.Start() }

func (t *toldExchange) Next(challenge []byte) ([]byte, error) {
	return t.client.Next(challenge)
}

// relay passes the client's messages to the backend and the backend's challenges to the client, as they are: SCRAM's
// messages, and the error JSON of OAUTHBEARER and XOAUTH2 with the client's dummy answer (RFC 7628 section 3.2.3).
type relay struct{ c *Credentials }

func (r *relay) Start() (string, []byte, error) {
	if r.c.initial == nil {
		return "", nil, errors.New("credentials were dropped already")
	}
	return r.c.Mechanism, r.c.initial, nil
}

func (r *relay) Next(challenge []byte) ([]byte, error) {
	r.c.relayed = true
	return r.c.client.Challenge(challenge)
}
