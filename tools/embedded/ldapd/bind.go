package ldapd

import (
	"crypto/sha1" //nolint:gosec // see passwordHash
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"hash"
	"strings"

	ber "github.com/go-asn1-ber/asn1-ber"
)

// bind answers a simple bind. An empty password is an unauthenticated bind and succeeds as anonymous whatever the DN
// (RFC 4513 section 5.1.2): the trap that clients checking passwords have to avoid.
func (c *conn) bind(m *message) *resultError {
	c.identity = "" // RFC 4511 section 4.2.1: a bind under way or refused leaves the connection anonymous
	c.txn = transaction{}
	version, ok := integer(child(m.op, 0))
	auth := child(m.op, 2)
	if !ok || auth == nil || auth.ClassType != ber.ClassContext {
		return refuse(ProtocolError, "bind request cannot be parsed")
	}
	if version != 3 {
		return refuse(ProtocolError, "LDAP version 3 only")
	}
	if auth.Tag != tagSimpleAuth {
		return refuse(AuthMethodNotSupported, "simple binds only")
	}
	name, password := text(child(m.op, 1)), text(auth)
	if password == "" {
		return nil
	}
	dn, err := parseDN(name)
	if err != nil {
		return refuse(InvalidDNSyntax, "%v", err)
	}
	if !c.server.checkPassword(dn, password) {
		return refuse(InvalidCredentials, "invalid credentials")
	}
	c.identity = dn.key
	return nil
}

// checkPassword compares with the root password or with the userPassword values of the entry.
func (s *Server) checkPassword(dn parsedDN, password string) bool {
	if root, err := parseDN(s.config.RootDN); err == nil && root.key != "" && root.key == dn.key {
		return constantEqual(s.config.RootPassword, password)
	}
	n := s.tree.get(dn.key)
	if n == nil {
		return false
	}
	for _, stored := range n.Values(attrUserPassword) {
		if matchPassword(stored, password) {
			return true
		}
	}
	return false
}

// matchPassword checks a password against a stored value: {SHA}, {SSHA}, {SHA256}, {SSHA256}, {SHA512}, {SSHA512}, or
// the password itself.
func matchPassword(stored, password string) bool {
	scheme, encoded, found := strings.Cut(strings.TrimPrefix(stored, "{"), "}")
	if !found || !strings.HasPrefix(stored, "{") {
		return constantEqual(stored, password)
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return false
	}
	h := passwordHash(scheme)
	if h == nil || len(raw) < h.Size() {
		return false
	}
	digest, salt := raw[:h.Size()], raw[h.Size():]
	h.Write([]byte(password))
	h.Write(salt)
	return subtle.ConstantTimeCompare(digest, h.Sum(nil)) == 1
}

// passwordHash is the hash of a scheme, whether salted or not, or nil for a scheme that is not known.
func passwordHash(scheme string) hash.Hash {
	switch strings.ToUpper(scheme) {
	case "SHA", "SSHA":
		return sha1.New() //nolint:gosec // the scheme's name says SHA-1; nothing is chosen here
	case "SHA256", "SSHA256":
		return sha256.New()
	case "SHA512", "SSHA512":
		return sha512.New()
	}
	return nil
}

// constantEqual compares secrets. An empty one never matches.
func constantEqual(stored, given string) bool {
	return stored != "" && subtle.ConstantTimeCompare([]byte(stored), []byte(given)) == 1
}
