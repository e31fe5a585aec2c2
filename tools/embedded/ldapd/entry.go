package ldapd

import (
	"slices"
	"strings"
)

// Attribute is a type with its values, in the spelling they were written in.
type Attribute struct {
	Name   string
	Values []string
}

// Entry is one entry of the directory.
type Entry struct {
	DN         string
	Attributes []Attribute
}

// Values are the values of an attribute, whose name is compared without case. They belong to the entry: do not change
// them.
func (e *Entry) Values(name string) []string {
	if a := e.attribute(name); a != nil {
		return a.Values
	}
	return nil
}

// Value is the first value of an attribute, or "".
func (e *Entry) Value(name string) string {
	if values := e.Values(name); len(values) > 0 {
		return values[0]
	}
	return ""
}

// attribute finds an attribute by name, or nil.
func (e *Entry) attribute(name string) *Attribute {
	for i := range e.Attributes {
		if strings.EqualFold(e.Attributes[i].Name, name) {
			return &e.Attributes[i]
		}
	}
	return nil
}

// add appends values to an attribute, which it makes if need be. It does not look for duplicates.
func (e *Entry) add(name string, values ...string) {
	if a := e.attribute(name); a != nil {
		a.Values = append(a.Values, values...)
		return
	}
	e.Attributes = append(e.Attributes, Attribute{Name: name, Values: slices.Clone(values)})
}

// remove takes an attribute out.
func (e *Entry) remove(name string) {
	e.Attributes = slices.DeleteFunc(e.Attributes, func(a Attribute) bool { return strings.EqualFold(a.Name, name) })
}

// clone copies an entry deep enough to be changed while others read the original.
func (e *Entry) clone() Entry {
	c := Entry{DN: e.DN, Attributes: make([]Attribute, len(e.Attributes))}
	for i, a := range e.Attributes {
		c.Attributes[i] = Attribute{Name: a.Name, Values: slices.Clone(a.Values)}
	}
	return c
}

// has reports whether an attribute has a value, by the attribute's matching rule.
func (e *Entry) has(name, value string) bool {
	for _, v := range e.Values(name) {
		if sameValue(name, v, value) {
			return true
		}
	}
	return false
}

// sameValue compares two values of an attribute: octets for passwords, text without case for all others.
func sameValue(name, a, b string) bool {
	if a == b {
		return true
	}
	return !strings.EqualFold(name, attrUserPassword) && fold(a) == fold(b)
}
