package ldapd

import (
	"slices"
	"strconv"
	"strings"

	ber "github.com/go-asn1-ber/asn1-ber"
)

// The kinds of a modification (RFC 4511 section 4.6, RFC 4525).
const (
	modAdd       = 0
	modDelete    = 1
	modReplace   = 2
	modIncrement = 3
)

// update is one add, delete or modify, parsed and ready to be applied, now or at the end of a transaction.
type update struct {
	message   int64
	op        ber.Tag
	dnText    string
	dn        parsedDN
	attrs     []Attribute    // of an add
	mods      []modification // of a modify
	assertion *filter        // must be true for the entry (RFC 4528), or nil
}

// modification is one change of a modify.
type modification struct {
	kind   int64
	name   string
	values []string
}

// parseUpdate reads an add, delete or modify request with its assertion control.
func parseUpdate(m *message) (update, *resultError) {
	u := update{message: m.id, op: m.op.Tag}
	var err *resultError
	switch m.op.Tag {
	case tagDelRequest:
		u.dnText = text(m.op)
	case tagAddRequest:
		u.dnText = text(child(m.op, 0))
		u.attrs, err = parseAttributes(child(m.op, 1))
	case tagModifyRequest:
		u.dnText = text(child(m.op, 0))
		u.mods, err = parseModifications(child(m.op, 1))
	}
	if err != nil {
		return u, err
	}
	dn, dnErr := parseDN(u.dnText)
	if dnErr != nil {
		return u, refuse(InvalidDNSyntax, "%v", dnErr)
	}
	u.dn = dn
	if c, ok := m.control(oidAssertion); ok {
		p, berErr := ber.DecodePacketErr([]byte(c.value))
		if berErr != nil {
			return u, refuse(ProtocolError, "assertion control cannot be parsed")
		}
		if u.assertion, err = parseFilter(p, 0); err != nil {
			return u, err
		}
	}
	return u, nil
}

// parseAttributes reads an AttributeList.
func parseAttributes(p *ber.Packet) ([]Attribute, *resultError) {
	if p == nil || len(p.Children) == 0 {
		return nil, refuse(ProtocolError, "entry has no attributes")
	}
	var out []Attribute
	for _, a := range p.Children {
		name, values := text(child(a, 0)), parseValues(child(a, 1))
		if name == "" || len(values) == 0 {
			return nil, refuse(ProtocolError, "attribute has no name or no values")
		}
		out = append(out, Attribute{Name: name, Values: values})
	}
	return out, nil
}

// parseModifications reads the changes of a modify.
func parseModifications(p *ber.Packet) ([]modification, *resultError) {
	if p == nil {
		return nil, refuse(ProtocolError, "modify has no list of changes")
	}
	var out []modification
	for _, change := range p.Children {
		kind, ok := integer(child(change, 0))
		part := child(change, 1)
		mod := modification{kind: kind, name: text(child(part, 0)), values: parseValues(child(part, 1))}
		if !ok || mod.name == "" {
			return nil, refuse(ProtocolError, "change cannot be parsed")
		}
		out = append(out, mod)
	}
	return out, nil
}

// parseValues reads a set of values.
func parseValues(p *ber.Packet) []string {
	if p == nil {
		return nil
	}
	values := make([]string, 0, len(p.Children))
	for _, v := range p.Children {
		values = append(values, text(v))
	}
	return values
}

// applyLocked does the update, or refuses it and leaves the tree as it was. The undo function takes it back.
func (t *Tree) applyLocked(u *update) (undo func(), err *resultError) {
	n := t.entries[u.dn.key]
	if u.op == tagAddRequest {
		return t.addLocked(u, n)
	}
	if n == nil {
		return nil, &resultError{code: NoSuchObject, matched: t.nearestLocked(u.dn), text: "no such object"}
	}
	if u.assertion != nil && !u.assertion.match(&n.Entry) {
		return nil, refuse(AssertionFailed, "the assertion is not true for this entry")
	}
	if u.op == tagDelRequest {
		if t.children[n.key] > 0 {
			return nil, refuse(NotAllowedOnNonLeaf, "there are entries below")
		}
		t.removeLocked(n)
		return func() { t.insertLocked(n) }, nil
	}
	changed := n.clone()
	for _, mod := range u.mods {
		if err := mod.apply(&changed); err != nil {
			return nil, err
		}
	}
	if err := t.check(&changed, u.dn); err != nil {
		return nil, err
	}
	after := t.replaceLocked(n, changed)
	return func() { t.swapLocked(after, n) }, nil
}

// addLocked puts a new entry below an existing one.
func (t *Tree) addLocked(u *update, existing *node) (undo func(), err *resultError) {
	if existing != nil {
		return nil, refuse(EntryAlreadyExists, "the entry exists")
	}
	parent, ok := u.dn.parent()
	if !ok || t.entries[parent] == nil {
		return nil, &resultError{code: NoSuchObject, matched: t.nearestLocked(u.dn), text: "the parent does not exist"}
	}
	e := Entry{DN: u.dnText}
	for _, a := range u.attrs {
		mod := modification{kind: modAdd, name: a.Name, values: a.Values}
		if err := mod.apply(&e); err != nil {
			return nil, err
		}
	}
	for _, naming := range u.dn.naming {
		if !e.has(naming.name, naming.value) {
			return nil, refuse(NamingViolation, "the entry lacks the value of its name: %s", naming.name)
		}
	}
	if err := t.check(&e, u.dn); err != nil {
		return nil, err
	}
	n := &node{Entry: e, key: u.dn.key, parent: parent}
	t.insertLocked(n)
	return func() { t.removeLocked(n) }, nil
}

// check holds a changed entry to what stands for a schema here.
func (t *Tree) check(e *Entry, dn parsedDN) *resultError {
	if len(e.Values(attrObjectClass)) == 0 {
		return refuse(ObjectClassViolation, "the entry has no objectClass")
	}
	for _, naming := range dn.naming {
		if !e.has(naming.name, naming.value) {
			return refuse(NotAllowedOnRDN, "the value of %s names the entry", naming.name)
		}
	}
	for _, name := range t.rules.SingleValue {
		if len(e.Values(name)) > 1 {
			return refuse(ConstraintViolation, "%s holds one value", name)
		}
	}
	return nil
}

// apply makes one change to an entry that nobody else sees yet.
func (m *modification) apply(e *Entry) *resultError {
	switch m.kind {
	case modAdd:
		if len(m.values) == 0 {
			return refuse(ProtocolError, "nothing to add to %s", m.name)
		}
		for _, v := range m.values {
			if e.has(m.name, v) {
				return refuse(AttributeOrValueExists, "%s has this value", m.name)
			}
			e.add(m.name, v)
		}
	case modDelete:
		return m.applyDelete(e)
	case modReplace:
		e.remove(m.name)
		for _, v := range m.values {
			if e.has(m.name, v) {
				return refuse(AttributeOrValueExists, "%s would have a value twice", m.name)
			}
			e.add(m.name, v)
		}
	case modIncrement:
		return m.applyIncrement(e)
	default:
		return refuse(ProtocolError, "change of unknown kind %d", m.kind)
	}
	return nil
}

// applyDelete takes values out, or the whole attribute when none are named. What is not there cannot be deleted: that is
// what makes a compare-and-set of a modify.
func (m *modification) applyDelete(e *Entry) *resultError {
	a := e.attribute(m.name)
	if a == nil {
		return refuse(NoSuchAttribute, "there is no %s", m.name)
	}
	if len(m.values) == 0 {
		e.remove(m.name)
		return nil
	}
	for _, v := range m.values {
		i := slices.IndexFunc(a.Values, func(have string) bool { return sameValue(m.name, have, v) })
		if i < 0 {
			return refuse(NoSuchAttribute, "%s has no such value", m.name)
		}
		a.Values = slices.Delete(a.Values, i, i+1)
	}
	if len(a.Values) == 0 {
		e.remove(m.name)
	}
	return nil
}

// applyIncrement adds a number to every value (RFC 4525).
func (m *modification) applyIncrement(e *Entry) *resultError {
	a := e.attribute(m.name)
	if a == nil {
		return refuse(NoSuchAttribute, "there is no %s", m.name)
	}
	if len(m.values) != 1 {
		return refuse(ProtocolError, "an increment has one value")
	}
	by, err := strconv.ParseInt(strings.TrimSpace(m.values[0]), 10, 64)
	if err != nil {
		return refuse(ConstraintViolation, "increment is not a number")
	}
	for i, v := range a.Values {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return refuse(ConstraintViolation, "%s is not a number", m.name)
		}
		a.Values[i] = strconv.FormatInt(n+by, 10)
	}
	return nil
}
