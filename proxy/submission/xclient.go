package submission

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"mailmux/proxy"
	"mailmux/proxy/smtpwire"
)

// xclientOffer is what trusted peers may tell. LOGIN is not part of it: nobody logs in here by being named.
const xclientOffer = "XCLIENT ADDR PORT DESTADDR DESTPORT HELO SESSION TTL CLIENT-TRANSPORT DESTNAME"

// claim is what a trusted peer says of its client. It may come in several commands, so it is gathered, and counts from
// the login on.
type claim struct {
	client, local         netip.Addr
	clientPort, localPort uint16
	helo, session, name   string
	ttl                   int
	tls, made             bool
}

var errValue = errors.New("value makes no sense")

// parse adds the attributes of one command. Unknown ones are skipped. After an error the claim is as it was before.
func (c *claim) parse(args string) error {
	next := *c
	if err := smtpwire.ParseXClient(args, next.set); err != nil {
		return err
	}
	next.made = true
	*c = next
	return nil
}

// set takes one attribute. An empty value is one that the peer does not know.
func (c *claim) set(name, value string) (err error) {
	if value == "" {
		return nil
	}
	switch name {
	case "ADDR":
		c.client, err = smtpwire.ParseAddress(value)
	case "PORT":
		c.clientPort, err = parsePort(value)
	case "DESTADDR":
		c.local, err = smtpwire.ParseAddress(value)
	case "DESTPORT":
		c.localPort, err = parsePort(value)
	case "HELO":
		c.helo, err = parseHelo([]byte(value))
	case "SESSION":
		c.session, err = parseWord(value)
	case "DESTNAME":
		c.name, err = parseWord(value)
	case "TTL":
		// 0 would mean that the peer did not say: it is read as 1, the last hop.
		var ttl uint64
		ttl, err = strconv.ParseUint(value, 10, 8)
		c.ttl = max(int(ttl), 1)
	case "CLIENT-TRANSPORT":
		c.tls = strings.EqualFold(value, "TLS")
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
	if len(s) > 255 {
		return "", errValue
	}
	return s, nil
}

// applyClaim hands the claim to the engine, which believes it or not.
func (s *session) applyClaim() {
	c := s.claim
	if !c.made {
		return
	}
	id := proxy.Identity{Session: c.session, TTL: c.ttl, TLS: c.tls, Name: c.name}
	if c.client.IsValid() {
		id.Client = netip.AddrPortFrom(c.client, c.clientPort)
	}
	if c.local.IsValid() {
		id.Local = netip.AddrPortFrom(c.local, c.localPort)
	}
	if s.Believe(id) && c.helo != "" {
		s.SetHelo(c.helo)
	}
}

// introduction is the XCLIENT commands for a member that advertised these attributes, none if there is nothing to tell.
func introduction(advertised string, id proxy.Identity) []string {
	transport := "insecure"
	if id.TLS {
		transport = "TLS"
	}
	helo := id.Helo
	if !forwardable(helo) {
		helo = ""
	}
	name := ""
	if id.Client.Addr().IsValid() {
		name = smtpwire.Unavailable // else Postfix would log our own name beside the client's address
	}
	return smtpwire.XClient(advertised, []smtpwire.Attribute{
		{Name: "HELO", Value: helo},
		{Name: "PROTO", Value: "ESMTP"},
		{Name: "TTL", Value: strconv.Itoa(id.TTL)},
		{Name: "PORT", Value: port(id.Client)},
		{Name: "ADDR", Value: smtpwire.FormatAddress(id.Client.Addr())},
		{Name: "NAME", Value: name},
		{Name: "DESTPORT", Value: port(id.Local)},
		{Name: "DESTADDR", Value: smtpwire.FormatAddress(id.Local.Addr())},
		{Name: "SESSION", Value: id.Session},
		{Name: "CLIENT-TRANSPORT", Value: transport},
		{Name: "DESTNAME", Value: id.Name},
	})
}

func port(a netip.AddrPort) string {
	if !a.Addr().IsValid() || a.Port() == 0 {
		return ""
	}
	return strconv.Itoa(int(a.Port()))
}
