package auth

import (
	"bytes"
	"strings"

	"github.com/emersion/go-sasl"
)

// Offer is what Begin needs to know of the session.
type Offer struct {
	Mechanisms  []string // what the session offers now
	Certificate string   // the user named by the client's verified certificate, "" without one
}

// Begin runs the client's part of a mechanism until the account is known. initial is the initial response: nil when the
// client sent none, empty but not nil when it sent an empty one ("=" on the wire).
func Begin(offer Offer, mechanism string, initial []byte, client Channel) (*Credentials, error) {
	name, ok := offered(offer.Mechanisms, mechanism)
	if !ok {
		return nil, ErrUnknownMechanism
	}
	if name == Login {
		return beginLogin(initial, client)
	}
	if initial == nil {
		var err error
		if initial, err = client.Challenge(nil); err != nil {
			return nil, err
		}
	}
	c := &Credentials{Mechanism: name}
	var err error
	switch name {
	case Plain:
		err = c.parsePlain(initial)
	case External:
		err = c.parseExternal(initial, offer.Certificate)
	default:
		err = c.parseRelayed(initial, client)
	}
	if err != nil {
		return nil, err
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	return c, nil
}

func offered(mechanisms []string, name string) (string, bool) {
	for _, m := range mechanisms {
		if strings.EqualFold(m, name) {
			return m, true
		}
	}
	return "", false
}

// beginLogin asks for the two answers of the LOGIN mechanism. Clients send the user name as an initial response, too.
func beginLogin(initial []byte, client Channel) (*Credentials, error) {
	user := initial
	if len(user) == 0 {
		var err error
		if user, err = client.Challenge([]byte("Username:")); err != nil {
			return nil, err
		}
	}
	c := &Credentials{Mechanism: Login, User: string(user)}
	password, err := client.Challenge([]byte("Password:"))
	if err != nil {
		return nil, err
	}
	c.Password = string(password)
	if err := c.validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// parsePlain takes the one message of PLAIN apart. An authorization identity that equals the user is the same as none.
func (c *Credentials) parsePlain(message []byte) error {
	server := sasl.NewPlainServer(func(identity, user, password string) error {
		c.User, c.Password = user, password
		if identity != user {
			c.Authzid = identity
		}
		return nil
	})
	if _, done, err := server.Next(message); err != nil || !done {
		return ErrMalformed
	}
	return nil
}

// parseExternal believes the certificate, and nothing else. The message may repeat the name, in any case.
func (c *Credentials) parseExternal(message []byte, certificate string) error {
	if certificate == "" {
		return ErrUnknownMechanism
	}
	if len(message) > 0 && !strings.EqualFold(string(message), certificate) {
		return ErrCredentials
	}
	c.User = certificate
	return nil
}

// parseRelayed finds the user in the first message and keeps the message for the backend.
func (c *Credentials) parseRelayed(message []byte, client Channel) error {
	var err error
	switch c.Mechanism {
	case OAuthBearer:
		c.User, err = bearerUser(message)
	case XOAuth2:
		c.User, err = xoauth2User(message)
	default:
		c.User, c.Authzid, err = scramUser(message)
	}
	c.initial, c.client = bytes.Clone(message), client
	return err
}
