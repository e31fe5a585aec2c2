package smtpwire

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Unavailable is the value of an XCLIENT attribute that is not known (XCLIENT_README).
const Unavailable = "[UNAVAILABLE]"

// maxCommand is the longest command line without its CRLF (RFC 5321 section 4.5.3.1.4).
const maxCommand = 510

// ErrXClient: an XCLIENT command that does not follow the grammar.
var ErrXClient = errors.New("malformed XCLIENT attribute")

// Attribute is one attribute of an XCLIENT command; the value is plain, not xtext.
type Attribute struct{ Name, Value string }

// XClient writes the attributes that the other side advertised as XCLIENT commands of at most 512 bytes with CRLF, which
// is not included. Attributes with an empty value are left out, and so is one that alone is too long for a line.
func XClient(advertised string, attributes []Attribute) []string {
	const verb = "XCLIENT"
	var commands []string
	line := append(make([]byte, 0, maxCommand), verb...)
	for _, a := range attributes {
		if a.Value == "" || !lists(advertised, a.Name) {
			continue
		}
		before := len(line)
		line = append(append(append(line, ' '), a.Name...), '=')
		line = AppendXtext(line, a.Value)
		size := len(line) - before
		switch {
		case len(line) <= maxCommand:
		case len(verb)+size > maxCommand:
			line = line[:before]
		default:
			commands = append(commands, string(line[:before]))
			line = line[:len(verb)+copy(line[len(verb):], line[before:])]
		}
	}
	if len(line) > len(verb) {
		commands = append(commands, string(line))
	}
	return commands
}

// lists says whether name is one of the words, without case.
func lists(words, name string) bool {
	for word := range strings.FieldsSeq(words) {
		if strings.EqualFold(word, name) {
			return true
		}
	}
	return false
}

// ParseXClient calls each with every attribute of an XCLIENT command, args being what stands behind the verb: its name in
// upper case, and the value decoded, "" for one that is not known. The error wraps ErrXClient; each has not been called
// for the faulty attribute then, nor for those behind it.
func ParseXClient(args string, each func(name, value string) error) error {
	count := 0
	for field := range strings.FieldsSeq(args) {
		name, encoded, ok := strings.Cut(field, "=")
		if !ok || !validKeyword(name) {
			return fmt.Errorf("%w: %.40q", ErrXClient, field)
		}
		value, err := ParseXtext(encoded)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrXClient, name, err)
		}
		if strings.EqualFold(value, Unavailable) || strings.EqualFold(value, "[TEMPUNAVAIL]") {
			value = ""
		}
		if err := each(strings.ToUpper(name), value); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrXClient, name, err)
		}
		count++
	}
	if count == 0 {
		return fmt.Errorf("%w: there is none", ErrXClient)
	}
	return nil
}

// FormatAddress is an address as XCLIENT's ADDR and DESTADDR write it in SMTP: IPv6 behind "IPV6:". It is "" for an
// invalid one.
func FormatAddress(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	switch {
	case !a.IsValid():
		return ""
	case a.Is6():
		return "IPV6:" + a.String()
	}
	return a.String()
}

// ParseAddress reads an address with or without the prefix "IPV6:", which LMTP leaves out.
func ParseAddress(s string) (netip.Addr, error) {
	const prefix = "IPV6:"
	if len(s) > len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) {
		s = s[len(prefix):]
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%.60q is no IP address", s)
	}
	return a.Unmap(), nil
}
