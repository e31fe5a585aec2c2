package talk

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// Mechanism is the client's part of a SASL exchange (RFC 4422).
type Mechanism interface {
	// Start returns the client's first message.
	Start() []byte
	// Next answers a challenge.
	Next(challenge []byte) ([]byte, error)
}

func newMechanism(name, user, secret string) (Mechanism, error) {
	switch name {
	case "PLAIN":
		return Said("\x00" + user + "\x00" + secret), nil
	case "LOGIN":
		return Steps{user, secret}, nil
	case "OAUTHBEARER":
		return &bearer{first: "n,a=" + user + ",\x01auth=Bearer " + secret + "\x01\x01", answer: "\x01"}, nil
	case "XOAUTH2":
		return &bearer{first: "user=" + user + "\x01auth=Bearer " + secret + "\x01\x01"}, nil
	case "SCRAM-SHA-256":
		return &Scram{User: user, Password: secret, Hash: sha256.New}, nil
	case "SCRAM-SHA-1":
		return &Scram{User: user, Password: secret, Hash: sha1.New}, nil
	case "EXTERNAL":
		return Said(user), nil
	}
	return nil, fmt.Errorf("talk knows no mechanism %s", name)
}

// Said is a mechanism of one message.
type Said string

// Start returns the message.
func (s Said) Start() []byte { return []byte(s) }

// Next refuses: nothing is left to be said.
func (s Said) Next(challenge []byte) ([]byte, error) {
	return nil, fmt.Errorf("unexpected challenge %q", challenge)
}

// Steps is a mechanism in which the server asks for one thing after the other, as LOGIN does.
type Steps []string

// Start returns the first thing.
func (s Steps) Start() []byte { return []byte(s[0]) }

// Next answers the prompts, whatever they look like: a prompt that names the password gets the second thing.
func (s Steps) Next(challenge []byte) ([]byte, error) {
	if bytes.Contains(bytes.ToLower(challenge), []byte("pass")) {
		return []byte(s[1]), nil
	}
	return []byte(s[0]), nil
}

// bearer is OAUTHBEARER (RFC 7628) or XOAUTH2: a refused token brings a challenge with the reason, which the client
// answers before the server may say no.
type bearer struct {
	first, answer string
	told          string // the reason
}

func (b *bearer) Start() []byte { return []byte(b.first) }

func (b *bearer) Next(challenge []byte) ([]byte, error) {
	if len(challenge) == 0 {
		return []byte(b.first), nil
	}
	b.told = string(challenge)
	return []byte(b.answer), nil
}

// Bearer logs in with OAUTHBEARER or XOAUTH2 and also returns the reason that the server gave for a refusal, in JSON.
func (c *Conn) Bearer(name, user, token string, initial bool) (Reply, string, error) {
	m, err := newMechanism(name, user, token)
	if err != nil {
		return Reply{}, "", err
	}
	b, ok := m.(*bearer)
	if !ok {
		return Reply{}, "", fmt.Errorf("%s takes no bearer token", name)
	}
	r, err := c.Authenticate(name, b, initial)
	return r, b.told, err
}

// Scram is a SCRAM client (RFC 5802, RFC 7677). It verifies the server's signature.
type Scram struct {
	User, Password string
	Hash           func() hash.Hash
	GS2            string // the header: "n,," when absent

	nonce, bare, auth string
	salted            []byte
	Verified          bool // the server has proved that it knows the password
}

func (s *Scram) header() string {
	if s.GS2 == "" {
		return "n,,"
	}
	return s.GS2
}

// Start returns the client-first-message.
func (s *Scram) Start() []byte {
	s.nonce = rand.Text()
	s.bare = "n=" + strings.NewReplacer("=", "=3D", ",", "=2C").Replace(s.User) + ",r=" + s.nonce
	return []byte(s.header() + s.bare)
}

// Next answers the server-first-message with the proof, and the server-final-message with nothing once it is verified.
func (s *Scram) Next(challenge []byte) ([]byte, error) {
	if s.salted == nil {
		return s.proof(string(challenge))
	}
	fields := attributes(string(challenge))
	want := s.mac(s.mac(s.salted, "Server Key"), s.auth)
	got, err := base64.StdEncoding.DecodeString(fields["v"])
	if err != nil || !hmac.Equal(want, got) {
		return nil, fmt.Errorf("the server's signature is wrong: %q", challenge)
	}
	s.Verified = true
	return nil, nil
}

func (s *Scram) proof(first string) ([]byte, error) {
	fields := attributes(first)
	salt, err := base64.StdEncoding.DecodeString(fields["s"])
	if err != nil {
		return nil, fmt.Errorf("salt in %q: %w", first, err)
	}
	rounds, err := strconv.Atoi(fields["i"])
	if err != nil {
		return nil, fmt.Errorf("iteration count in %q: %w", first, err)
	}
	if !strings.HasPrefix(fields["r"], s.nonce) || fields["r"] == s.nonce {
		return nil, errors.New("the server's nonce does not go on from ours")
	}
	if s.salted, err = pbkdf2.Key(s.Hash, s.Password, salt, rounds, s.Hash().Size()); err != nil {
		return nil, err
	}
	final := "c=" + base64.StdEncoding.EncodeToString([]byte(s.header())) + ",r=" + fields["r"]
	s.auth = s.bare + "," + first + "," + final
	key := s.mac(s.salted, "Client Key")
	h := s.Hash()
	h.Write(key)
	signature := s.mac(h.Sum(nil), s.auth)
	for i := range key {
		key[i] ^= signature[i]
	}
	return []byte(final + ",p=" + base64.StdEncoding.EncodeToString(key)), nil
}

func (s *Scram) mac(key []byte, text string) []byte {
	h := hmac.New(s.Hash, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func attributes(message string) map[string]string {
	m := make(map[string]string)
	for part := range strings.SplitSeq(message, ",") {
		if k, v, ok := strings.Cut(part, "="); ok {
			m[k] = v
		}
	}
	return m
}
