package proxy

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

// ErrAttributes: an identity's attributes do not follow their grammar.
var ErrAttributes = errors.New("malformed identity attributes")

// maxAttribute bounds one value of the attributes, in bytes: a session id, a server name.
const maxAttribute = 255

// Attributes states the identity the way Dovecot's POP3 and ManageSieve servers take it behind XCLIENT, as words of the
// form NAME=value between spaces. What is unknown is left out, and so is a value that is no such word: a client chooses
// its TLS server name and could end the line with it.
func (id Identity) Attributes() string {
	b := make([]byte, 0, 192)
	b = appendAddr(b, "ADDR=", " PORT=", id.Client)
	if id.Local.Addr().IsValid() {
		b = appendAddr(b, " DESTADDR=", " DESTPORT=", id.Local)
	}
	if attributeValue(id.Session) {
		b = append(append(b, " SESSION="...), id.Session...)
	}
	if id.TTL > 0 {
		b = strconv.AppendInt(append(b, " TTL="...), int64(id.TTL), 10)
	}
	if id.TLS {
		b = append(b, " CLIENT-TRANSPORT=TLS"...)
	} else {
		b = append(b, " CLIENT-TRANSPORT=insecure"...)
	}
	if attributeValue(id.Name) {
		b = append(append(b, " DESTNAME="...), id.Name...)
	}
	if b[0] == ' ' {
		b = b[1:]
	}
	return string(b)
}

func appendAddr(b []byte, addr, port string, ap netip.AddrPort) []byte {
	if !ap.Addr().IsValid() {
		return b
	}
	b = ap.Addr().Unmap().WithZone("").AppendTo(append(b, addr...))
	return strconv.AppendUint(append(b, port...), uint64(ap.Port()), 10)
}

// ParseAttributes reads what Attributes writes. Names are known in any case, unknown ones are skipped (FORWARD, and
// what is to come); a known one with a value that makes no sense is ErrAttributes. A time to live of 0 is read as 1, the
// last one: 0 would mean that the other side did not say.
func ParseAttributes(attributes string) (Identity, error) {
	var id Identity
	var client, local netip.Addr
	var clientPort, localPort uint16
	for word := range strings.SplitSeq(attributes, " ") {
		if word == "" {
			continue
		}
		name, value, ok := strings.Cut(word, "=")
		if !ok {
			return Identity{}, ErrAttributes
		}
		var err error
		switch strings.ToUpper(name) {
		case "ADDR":
			client, err = netip.ParseAddr(value)
		case "PORT":
			clientPort, err = parsePort(value)
		case "DESTADDR":
			local, err = netip.ParseAddr(value)
		case "DESTPORT":
			localPort, err = parsePort(value)
		case "SESSION":
			id.Session, err = parseValue(value)
		case "TTL":
			id.TTL, err = parseTTL(value)
		case "CLIENT-TRANSPORT":
			id.TLS = strings.EqualFold(value, "TLS")
		case "DESTNAME":
			id.Name, err = parseValue(value)
		}
		if err != nil {
			return Identity{}, ErrAttributes
		}
	}
	if client.IsValid() {
		id.Client = netip.AddrPortFrom(client.Unmap().WithZone(""), clientPort)
	}
	if local.IsValid() {
		id.Local = netip.AddrPortFrom(local.Unmap().WithZone(""), localPort)
	}
	return id, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

func parseTTL(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 8)
	return max(int(n), lastTTL), err
}

func parseValue(s string) (string, error) {
	if !attributeValue(s) {
		return "", ErrAttributes
	}
	return s, nil
}

// attributeValue says whether s can stand as a value: printable ASCII without a space.
func attributeValue(s string) bool {
	if s == "" || len(s) > maxAttribute {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
