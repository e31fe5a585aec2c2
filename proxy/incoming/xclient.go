package incoming

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"mailmux/proxy"
	"mailmux/proxy/smtpwire"
)

// xclientOffer is what trusted peers may tell.
const xclientOffer = "XCLIENT ADDR PORT DESTADDR DESTPORT HELO SESSION TTL CLIENT-TRANSPORT DESTNAME"

// claim is what a trusted peer says of its client. It may come in several commands, so it is gathered until MAIL.
type claim struct {
	id            proxy.Identity
	client, local netip.Addr
	port, to      uint16
	made, applied bool
}

var errValue = errors.New("value makes no sense")

// xclient keeps what a trusted peer says of its client. The session begins anew.
func (s *Session) xclient(_ context.Context, args []byte) error {
	if !s.ForwardsIdentity() {
		return errUntrusted
	}
	next := s.claim
	if err := smtpwire.ParseXClient(string(args), next.set); err != nil {
		return errAttributes
	}
	next.made = true
	s.claim = next
	s.state, s.helo = connected, ""
	s.greet()
	return nil
}

// set takes one attribute. An empty value is one that the peer does not know; unknown attributes are skipped.
func (c *claim) set(name, value string) (err error) {
	if value == "" {
		return nil
	}
	switch name {
	case "ADDR":
		c.client, err = smtpwire.ParseAddress(value)
	case "PORT":
		c.port, err = parsePort(value)
	case "DESTADDR":
		c.local, err = smtpwire.ParseAddress(value)
	case "DESTPORT":
		c.to, err = parsePort(value)
	case "HELO":
		c.id.Helo, err = parseWord(value)
	case "SESSION":
		c.id.Session, err = parseWord(value)
	case "DESTNAME":
		c.id.Name, err = parseWord(value)
	case "TTL":
		// 0 would mean that the peer did not say: it is read as 1, the last hop.
		var ttl uint64
		ttl, err = strconv.ParseUint(value, 10, 8)
		c.id.TTL = max(int(ttl), 1)
	case "CLIENT-TRANSPORT":
		c.id.TLS = strings.EqualFold(value, "TLS")
	}
	return err
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

// parseWord takes printable ASCII without spaces, of at most 255 bytes.
func parseWord(s string) (string, error) {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return "", errValue
		}
	}
	if len(s) > maxName {
		return "", errValue
	}
	return s, nil
}

// applyClaim hands the claim to the engine, which believes the first one.
func (s *Session) applyClaim() {
	c := &s.claim
	c.applied = true
	id := c.id
	if c.client.IsValid() {
		id.Client = netip.AddrPortFrom(c.client, c.port)
	}
	if c.local.IsValid() {
		id.Local = netip.AddrPortFrom(c.local, c.to)
	}
	if s.Believe(id) && id.Helo != "" {
		s.helo = id.Helo
		s.SetHelo(id.Helo)
	}
}
