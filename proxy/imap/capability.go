package imap

import (
	"bytes"
	"slices"
	"strings"

	"mailmux/proxy/auth"
)

// maxWords is how many parts a line of capabilities is made of, at most: two for each mechanism, and the rest.
const maxWords = 24

// capability appends the capabilities before the login, in parts.
func (s *session) capability(words []string) []string {
	words = append(words, s.h.common.Of(s.Learnt(), intersect))
	if s.CanStartTLS() {
		words = append(words, " STARTTLS")
	}
	if !s.PlainLogin() {
		return append(words, " LOGINDISABLED")
	}
	for _, m := range s.Mechanisms() {
		words = append(words, " AUTH=", m)
	}
	return words
}

// maxCapability bounds what a member can make us say before the login, in bytes.
const maxCapability = 2048

// intersect is what every member can do, and what the frontend does itself. Without knowledge of members it is a safe
// set. LITERAL+ is what the frontend itself understands, but a client may hold on to it after the login: then its
// member has to understand it as well.
func intersect(lists [][]string) string {
	var b strings.Builder
	b.WriteString("IMAP4rev1")
	if in(lists, "IMAP4rev2") && len(lists) > 0 {
		b.WriteString(" IMAP4rev2")
	}
	switch {
	case in(lists, "LITERAL+"):
		b.WriteString(" LITERAL+")
	case !slices.ContainsFunc(lists, func(l []string) bool { return !has(l, "LITERAL+") && !has(l, "LITERAL-") }):
		b.WriteString(" LITERAL-")
	}
	b.WriteString(" SASL-IR ID")
	if len(lists) == 0 {
		return b.String()
	}
	for _, name := range lists[0] {
		if !ours([]byte(name)) && atom(name) && in(lists, name) && b.Len()+len(name) < maxCapability {
			b.WriteByte(' ')
			b.WriteString(name)
		}
	}
	return b.String()
}

// in says whether all lists have a capability.
func in(lists [][]string, name string) bool {
	return !slices.ContainsFunc(lists, func(l []string) bool { return !has(l, name) })
}

func has(list []string, name string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, name) })
}

// ours says whether a capability is for the frontend to announce before the login, whatever members show.
func ours(name []byte) bool {
	for _, own := range [...]string{"IMAP4rev1", "IMAP4rev2", "LITERAL+", "LITERAL-", "ID"} {
		if strings.EqualFold(string(name), own) {
			return true
		}
	}
	return beforeLogin(name)
}

// beforeLogin says whether a capability concerns a login, so that it means nothing once that is done, or leads away from
// the home backend. A client never gets it from a member.
func beforeLogin(name []byte) bool {
	if len(name) >= len("AUTH=") && strings.EqualFold(string(name[:len("AUTH=")]), "AUTH=") {
		return true
	}
	for _, own := range [...]string{"STARTTLS", "LOGINDISABLED", "SASL-IR", "LOGIN-REFERRALS", "UNAUTHENTICATE"} {
		if strings.EqualFold(string(name), own) {
			return true
		}
	}
	return false
}

// atom says whether a capability is one by the grammar. A bracket would end the response code it stands in.
func atom(s string) bool {
	for i := range len(s) {
		if !tagChar(s[i]) && s[i] != '+' || s[i] == ']' {
			return false
		}
	}
	return s != ""
}

// afterLogin is a member's list of capabilities as its client gets it.
func afterLogin(list []byte) string {
	leaves := func(name []byte) bool { return len(name) > 0 && !beforeLogin(name) && bytes.IndexByte(name, ']') < 0 }
	whole := true
	for name := range bytes.SplitSeq(list, []byte(" ")) {
		whole = whole && leaves(name)
	}
	if whole {
		return clean(list)
	}
	var b strings.Builder
	b.Grow(len(list))
	for name := range bytes.SplitSeq(list, []byte(" ")) {
		if leaves(name) {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.Write(name)
		}
	}
	return clean([]byte(b.String()))
}

// clean is a text of a backend without its control characters, which would end or garble a line.
func clean(text []byte) string {
	if bytes.IndexFunc(text, control) < 0 {
		return string(text)
	}
	cleaned := bytes.Clone(text)
	for i, c := range cleaned {
		if control(rune(c)) {
			cleaned[i] = '?'
		}
	}
	return string(cleaned)
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

// abilities are what a backend's list of capabilities says about logging in there.
type abilities struct {
	known         bool
	startTLS      bool
	loginDisabled bool
	initial       bool // SASL-IR
	literals      bool // LITERAL+ or LITERAL-: ours are short enough for both
	id            bool
	mechanisms    uint // of auth.Known, by bit
}

// read takes a list of capabilities apart. It replaces what was known.
func (a *abilities) read(list []byte) {
	*a = abilities{known: true}
	for name := range bytes.SplitSeq(list, []byte(" ")) {
		switch {
		case is(name, "STARTTLS"):
			a.startTLS = true
		case is(name, "LOGINDISABLED"):
			a.loginDisabled = true
		case is(name, "SASL-IR"):
			a.initial = true
		case is(name, "LITERAL+"), is(name, "LITERAL-"):
			a.literals = true
		case is(name, "ID"):
			a.id = true
		case len(name) > len("AUTH=") && is(name[:len("AUTH=")], "AUTH="):
			for i, m := range auth.Known() {
				if is(name[len("AUTH="):], m) {
					a.mechanisms |= 1 << i
				}
			}
		}
	}
}

// is compares without case.
func is(word []byte, name string) bool {
	return len(word) == len(name) && strings.EqualFold(string(word), name)
}

// offers lists the mechanisms that the backend showed; it is not nil.
func (a *abilities) offers() []string {
	list := []string{}
	for i, m := range auth.Known() {
		if a.mechanisms&(1<<i) != 0 {
			list = append(list, m)
		}
	}
	return list
}
