package ldapd

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// errDN is the fault of every DN that cannot be parsed.
var errDN = errors.New("invalid DN syntax")

// ava is one attribute type and value of a relative distinguished name.
type ava struct{ name, value string }

// parsedDN is a DN in canonical form: types and values in lower case, spaces folded, separators escaped one way. Two
// DNs that name the same entry have the same key.
type parsedDN struct {
	key    string   // all RDNs, "" for the root DSE
	rdns   []string // canonical RDNs, the leaf first
	naming []ava    // types and values of the leaf's RDN, not escaped
}

// parent is the key of the entry above, and whether there is one.
func (d parsedDN) parent() (string, bool) {
	if len(d.rdns) < 2 {
		return "", false
	}
	return strings.Join(d.rdns[1:], ","), true
}

// parseDN reads the string form of RFC 4514. Every canonical RDN has its commas escaped, so that a comma in a key is
// always a separator, and "below X" is a suffix comparison.
func parseDN(s string) (parsedDN, error) {
	var dn parsedDN
	if strings.TrimSpace(s) == "" {
		return dn, nil
	}
	for rest := s; ; {
		raw, after, more := cutUnescaped(rest, ",;")
		avas, err := parseRDN(raw)
		if err != nil {
			return parsedDN{}, fmt.Errorf("%w: %q", err, s)
		}
		if dn.naming == nil {
			dn.naming = avas
		}
		dn.rdns = append(dn.rdns, canonicalRDN(avas))
		if !more {
			break
		}
		rest = after
	}
	dn.key = strings.Join(dn.rdns, ",")
	return dn, nil
}

// parseRDN splits one RDN at its plus signs and takes the escapes out of the values.
func parseRDN(raw string) ([]ava, error) {
	var avas []ava
	for rest := raw; ; {
		part, after, more := cutUnescaped(rest, "+")
		name, value, ok := strings.Cut(part, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if !ok || name == "" || strings.ContainsAny(name, "\\\"#<> ") {
			return nil, errDN
		}
		value, err := unescapeValue(value)
		if err != nil {
			return nil, err
		}
		avas = append(avas, ava{name, value})
		if !more {
			return avas, nil
		}
		rest = after
	}
}

// canonicalRDN writes the values in one order, one case and one way of escaping.
func canonicalRDN(avas []ava) string {
	parts := make([]string, len(avas))
	for i, a := range avas {
		parts[i] = a.name + "=" + escapeValue(fold(a.value))
	}
	slices.Sort(parts)
	return strings.Join(parts, "+")
}

// cutUnescaped cuts s at the first separator that no backslash protects.
func cutUnescaped(s, separators string) (before, after string, found bool) {
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			i++
			continue
		}
		if strings.IndexByte(separators, s[i]) >= 0 {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// unescapeValue undoes \, and \2c (RFC 4514 section 2.4) and trims the spaces that nothing protects.
func unescapeValue(s string) (string, error) {
	s = strings.TrimLeft(s, " ")
	var out []byte
	kept := 0 // length up to which trailing spaces are protected
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		if i+1 >= len(s) {
			return "", errDN
		}
		if i+2 < len(s) {
			if b, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				out = append(out, b...)
				kept = len(out)
				i += 2
				continue
			}
		}
		i++
		out = append(out, s[i])
		kept = len(out)
	}
	for len(out) > kept && out[len(out)-1] == ' ' {
		out = out[:len(out)-1]
	}
	return string(out), nil
}

// escapeValue protects the characters that have a meaning in a canonical key.
func escapeValue(s string) string {
	if !strings.ContainsAny(s, "\\,;+=") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if strings.IndexByte("\\,;+=", s[i]) >= 0 {
			fmt.Fprintf(&b, "\\%02x", s[i])
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// fold is caseIgnoreMatch (RFC 4517 section 4.2.11) without the Unicode preparation: lower case, outer spaces off, inner
// runs of spaces as one.
func fold(s string) string {
	s = strings.ToLower(s)
	if !strings.Contains(s, "  ") && !strings.HasPrefix(s, " ") && !strings.HasSuffix(s, " ") {
		return s
	}
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == ' ' }), " ")
}
