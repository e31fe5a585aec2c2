package ldapd

import (
	"strconv"
	"strings"

	ber "github.com/go-asn1-ber/asn1-ber"
)

// maxFilterDepth bounds how deep filters may nest, so that a request cannot exhaust the stack.
const maxFilterDepth = 50

// The choices of a filter (RFC 4511 section 4.5.1.7): tags of the context class.
const (
	filterAnd        ber.Tag = 0
	filterOr         ber.Tag = 1
	filterNot        ber.Tag = 2
	filterEqual      ber.Tag = 3
	filterSubstrings ber.Tag = 4
	filterGreater    ber.Tag = 5
	filterLess       ber.Tag = 6
	filterPresent    ber.Tag = 7
	filterApprox     ber.Tag = 8
	filterExtensible ber.Tag = 9
)

// filter is a parsed search filter. Undefined counts as false: a search returns an entry only if the filter is true.
type filter struct {
	kind  ber.Tag
	kids  []*filter
	name  string
	value string
	parts substrings
}

// substrings is the value of a substring filter, folded.
type substrings struct {
	initial, final string
	any            []string
}

// parseFilter reads a filter, or fails with a protocol error.
func parseFilter(p *ber.Packet, depth int) (*filter, *resultError) {
	if p == nil || p.ClassType != ber.ClassContext {
		return nil, refuse(ProtocolError, "filter cannot be parsed")
	}
	if depth > maxFilterDepth {
		return nil, refuse(AdminLimitExceeded, "filter nests deeper than %d", maxFilterDepth)
	}
	f := &filter{kind: p.Tag}
	switch p.Tag {
	case filterAnd, filterOr, filterNot:
		if p.Tag == filterNot && len(p.Children) != 1 {
			return nil, refuse(ProtocolError, "a NOT filter has one part")
		}
		for _, c := range p.Children {
			kid, err := parseFilter(c, depth+1)
			if err != nil {
				return nil, err
			}
			f.kids = append(f.kids, kid)
		}
	case filterEqual, filterGreater, filterLess, filterApprox:
		if len(p.Children) != 2 {
			return nil, refuse(ProtocolError, "an assertion has a type and a value")
		}
		f.name, f.value = text(child(p, 0)), text(child(p, 1))
	case filterPresent:
		f.name = text(p)
	case filterSubstrings:
		f.name = text(child(p, 0))
		if !f.parts.parse(child(p, 1)) {
			return nil, refuse(ProtocolError, "substrings cannot be parsed")
		}
	case filterExtensible:
		f.parseExtensible(p)
	default:
		return nil, refuse(ProtocolError, "filter of unknown kind %d", p.Tag)
	}
	return f, nil
}

// parse reads the pieces of a substring filter.
func (s *substrings) parse(p *ber.Packet) bool {
	if p == nil || len(p.Children) == 0 {
		return false
	}
	for _, piece := range p.Children {
		v := fold(text(piece))
		switch piece.Tag {
		case 0:
			s.initial = v
		case 1:
			s.any = append(s.any, v)
		case 2:
			s.final = v
		default:
			return false
		}
	}
	return true
}

// match applies the pieces in order.
func (s *substrings) match(v string) bool {
	rest, ok := strings.CutPrefix(fold(v), s.initial)
	if !ok {
		return false
	}
	for _, piece := range s.any {
		i := strings.Index(rest, piece)
		if i < 0 {
			return false
		}
		rest = rest[i+len(piece):]
	}
	return strings.HasSuffix(rest, s.final)
}

// parseExtensible keeps type and value: the rules of all attributes are the same here, so a matching rule does not
// matter. Without a type the filter is undefined.
func (f *filter) parseExtensible(p *ber.Packet) {
	for _, part := range p.Children {
		switch part.Tag {
		case 2:
			f.name = text(part)
		case 3:
			f.value = text(part)
		}
	}
}

// match reports whether the filter is true for an entry.
func (f *filter) match(e *Entry) bool {
	switch f.kind {
	case filterAnd:
		for _, kid := range f.kids {
			if !kid.match(e) {
				return false
			}
		}
		return true
	case filterOr:
		for _, kid := range f.kids {
			if kid.match(e) {
				return true
			}
		}
		return false
	case filterNot:
		return !f.kids[0].match(e)
	case filterPresent:
		return len(e.Values(f.name)) > 0
	}
	if strings.EqualFold(f.name, attrUserPassword) {
		return false // nobody guesses passwords by filters
	}
	for _, v := range e.Values(f.name) {
		if f.matchValue(v) {
			return true
		}
	}
	return false
}

// matchValue compares one value.
func (f *filter) matchValue(v string) bool {
	switch f.kind {
	case filterEqual, filterApprox, filterExtensible:
		return sameValue(f.name, v, f.value)
	case filterGreater:
		return compareOrdered(v, f.value) >= 0
	case filterLess:
		return compareOrdered(v, f.value) <= 0
	case filterSubstrings:
		return f.parts.match(v)
	}
	return false
}

// compareOrdered compares two values as numbers if both are, else as text.
func compareOrdered(a, b string) int {
	m, errA := strconv.ParseInt(a, 10, 64)
	n, errB := strconv.ParseInt(b, 10, 64)
	if errA != nil || errB != nil {
		return strings.Compare(fold(a), fold(b))
	}
	switch {
	case m < n:
		return -1
	case m > n:
		return 1
	}
	return 0
}

// candidatesLocked narrows a search down by the tree's indices. It returns false when no index helps and every entry has
// to be looked at.
func (f *filter) candidatesLocked(t *Tree) (map[*node]struct{}, bool) {
	switch f.kind {
	case filterEqual:
		values, ok := t.index[strings.ToLower(f.name)]
		return values[fold(f.value)], ok
	case filterAnd:
		var best map[*node]struct{}
		found := false
		for _, kid := range f.kids {
			if nodes, ok := kid.candidatesLocked(t); ok && (!found || len(nodes) < len(best)) {
				best, found = nodes, true
			}
		}
		return best, found
	case filterOr:
		all := make(map[*node]struct{})
		for _, kid := range f.kids {
			nodes, ok := kid.candidatesLocked(t)
			if !ok {
				return nil, false
			}
			for n := range nodes {
				all[n] = struct{}{}
			}
		}
		return all, true
	}
	return nil, false
}
