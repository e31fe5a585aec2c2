package xclient

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"mailmux/proxy"
	"mailmux/proxy/smtpwire"
)

// Offer is the extension by which trusted peers are told what they may say of their clients. LOGIN is not part of
// it: nobody logs in by being named.
const Offer = "XCLIENT ADDR PORT DESTADDR DESTPORT HELO SESSION TTL CLIENT-TRANSPORT DESTNAME"

// Claim is what a peer says of its client. It may come in several commands, so it is gathered. The zero value is that of a
// peer that has said nothing.
type Claim struct {
	id            proxy.Identity
	client, local netip.Addr
	port, to      uint16
	made          bool
}

var errValue = errors.New("value makes no sense")

// Add adds the attributes of one command, args being what stands behind the verb. Unknown attributes are skipped. The
// error wraps ErrMalformed; the claim is as it was before.
func (c *Claim) Add(args string) error {
	next := *c
	if err := parse(args, next.set); err != nil {
		return err
	}
	next.made = true
	*c = next
	return nil
}

// Made says whether the peer has said anything.
func (c *Claim) Made() bool { return c.made }

// Identity is the client as the peer describes it. What it did not say has the zero value.
func (c *Claim) Identity() proxy.Identity {
	id := c.id
	if c.client.IsValid() {
		id.Client = netip.AddrPortFrom(c.client, c.port)
	}
	if c.local.IsValid() {
		id.Local = netip.AddrPortFrom(c.local, c.to)
	}
	return id
}

// set takes one attribute. An empty value is one that the peer does not know.
func (c *Claim) set(name, value string) (err error) {
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
		var ok bool
		if c.id.Helo, ok = smtpwire.ParseHelo([]byte(value)); !ok {
			err = errValue
		}
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
	if len(s) > smtpwire.MaxHelo {
		return "", errValue
	}
	return s, nil
}

// LMTPTTL is where the time to live of LMTP begins (Dovecot's lmtp-proxy.h).
const LMTPTTL = 5

// Introduction is the XCLIENT commands that tell a member who the client is, none if it advertised nothing that is known.
// Dovecot's LMTP wants IPv6 addresses without the prefix that SMTP has.
func Introduction(advertised string, lmtp bool, id proxy.Identity) []string {
	format, proto := smtpwire.FormatAddress, "ESMTP"
	if lmtp {
		format, proto = plainAddress, "LMTP"
		id.TTL = min(id.TTL, LMTPTTL)
	}
	transport, helo, name := "insecure", "", ""
	if id.TLS {
		transport = "TLS"
	}
	if smtpwire.Forwardable(id.Helo) {
		helo = id.Helo
	}
	if id.Client.Addr().IsValid() {
		name = unavailable // else Postfix would log our own name beside the client's address
	}
	return write(advertised, []attribute{
		{"HELO", helo},
		{"PROTO", proto},
		{"TTL", strconv.Itoa(id.TTL)},
		{"PORT", formatPort(id.Client)},
		{"ADDR", format(id.Client.Addr())},
		{"NAME", name},
		{"DESTPORT", formatPort(id.Local)},
		{"DESTADDR", format(id.Local.Addr())},
		{"SESSION", id.Session},
		{"CLIENT-TRANSPORT", transport},
		{"DESTNAME", id.Name},
	})
}

func plainAddress(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().WithZone("").String()
}

func formatPort(a netip.AddrPort) string {
	if !a.Addr().IsValid() || a.Port() == 0 {
		return ""
	}
	return strconv.Itoa(int(a.Port()))
}
