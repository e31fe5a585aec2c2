package directory

import (
	"slices"
	"strings"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// index finds entries by the values of their attributes, as a directory server would: without regard to case and to
// spaces that mean nothing.
type index struct {
	entries []*entry
	values  map[string][]int
}

func newIndex(entries []*entry) *index {
	x := &index{entries: entries, values: map[string][]int{}}
	for i, e := range entries {
		for _, a := range e.attributes {
			for _, value := range a.values {
				key := indexKey(a.name, value)
				if at := x.values[key]; len(at) == 0 || at[len(at)-1] != i {
					x.values[key] = append(at, i)
				}
			}
		}
	}
	return x
}

func indexKey(name, value string) string { return strings.ToLower(name) + "=" + fold(value) }

// fold is what a directory's caseIgnoreMatch compares.
func fold(value string) string { return strings.ToLower(strings.Join(strings.Fields(value), " ")) }

// search gives the entries that a filter matches, at most limit; 0 means all.
func (x *index) search(filter *ber.Packet, limit int) []*entry {
	var found []*entry
	check := func(i int) bool {
		if matches(filter, x.entries[i]) {
			found = append(found, x.entries[i])
		}
		return limit == 0 || len(found) < limit
	}
	if candidates, ok := x.candidates(filter); ok {
		for _, i := range candidates {
			if !check(i) {
				break
			}
		}
		return found
	}
	for i := range x.entries {
		if !check(i) {
			break
		}
	}
	return found
}

// candidates narrows the entries down by the equalities in a filter; false when they say nothing.
func (x *index) candidates(filter *ber.Packet) ([]int, bool) {
	switch filter.Tag {
	case ldap.FilterEqualityMatch:
		return x.values[indexKey(operands(filter))], true
	case ldap.FilterAnd:
		var best []int
		narrowed := false
		for _, child := range filter.Children {
			if c, ok := x.candidates(child); ok && (!narrowed || len(c) < len(best)) {
				best, narrowed = c, true
			}
		}
		return best, narrowed
	case ldap.FilterOr:
		var all []int
		for _, child := range filter.Children {
			c, ok := x.candidates(child)
			if !ok {
				return nil, false
			}
			all = append(all, c...)
		}
		slices.Sort(all)
		return slices.Compact(all), true
	}
	return nil, false
}

func operands(filter *ber.Packet) (name, value string) {
	return packetText(filter.Children[0]), packetText(filter.Children[1])
}

func packetText(p *ber.Packet) string {
	if s, ok := p.Value.(string); ok {
		return s
	}
	return p.Data.String()
}

// matches evaluates a filter (RFC 4511 section 4.5.1.7). What this evaluator does not know matches nothing.
func matches(filter *ber.Packet, e *entry) bool {
	switch filter.Tag {
	case ldap.FilterAnd:
		return !slices.ContainsFunc(filter.Children, func(f *ber.Packet) bool { return !matches(f, e) })
	case ldap.FilterOr:
		return slices.ContainsFunc(filter.Children, func(f *ber.Packet) bool { return matches(f, e) })
	case ldap.FilterNot:
		return !matches(filter.Children[0], e)
	case ldap.FilterPresent:
		return len(e.values(packetText(filter))) > 0
	case ldap.FilterEqualityMatch, ldap.FilterApproxMatch, ldap.FilterGreaterOrEqual, ldap.FilterLessOrEqual:
		name, value := operands(filter)
		want := fold(value)
		return slices.ContainsFunc(e.values(name), func(have string) bool {
			order := strings.Compare(fold(have), want)
			return order == 0 || order > 0 && filter.Tag == ldap.FilterGreaterOrEqual || order < 0 && filter.Tag == ldap.FilterLessOrEqual
		})
	case ldap.FilterSubstrings:
		return slices.ContainsFunc(e.values(packetText(filter.Children[0])), func(have string) bool {
			return matchesParts(filter.Children[1].Children, fold(have))
		})
	}
	return false
}

// matchesParts compares a value with the initial, any and final parts of a substring filter.
func matchesParts(parts []*ber.Packet, have string) bool {
	for _, p := range parts {
		want := strings.ToLower(packetText(p))
		switch p.Tag {
		case ldap.FilterSubstringsInitial:
			if !strings.HasPrefix(have, want) {
				return false
			}
			have = have[len(want):]
		case ldap.FilterSubstringsFinal:
			return strings.HasSuffix(have, want)
		default:
			at := strings.Index(have, want)
			if at < 0 {
				return false
			}
			have = have[at+len(want):]
		}
	}
	return true
}
