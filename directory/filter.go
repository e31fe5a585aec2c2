package directory

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// template is a filter with placeholders, cut at them once.
type template struct {
	text string
	cuts []cut
}

// cut is literal text, and the part of a name that follows it.
type cut struct {
	literal string
	part    func(Name) string // nil behind the last placeholder
}

var placeholder = regexp.MustCompile(`\{[^{}()=]*\}`)

func newTemplate(text string) (template, error) {
	t := template{text: text}
	identifies := false
	rest := text
	for {
		at := placeholder.FindStringIndex(rest)
		if at == nil {
			t.cuts = append(t.cuts, cut{literal: rest})
			break
		}
		var part func(Name) string
		switch word := rest[at[0]:at[1]]; word {
		case "{address}":
			part, identifies = Name.String, true
		case "{local}":
			part, identifies = func(n Name) string { return n.Local }, true
		case "{domain}":
			part = func(n Name) string { return n.Domain }
		default:
			return template{}, fmt.Errorf("%s is none of {address}, {local}, {domain}", word)
		}
		t.cuts = append(t.cuts, cut{rest[:at[0]], part})
		rest = rest[at[1]:]
	}
	if !identifies {
		return template{}, errors.New("has neither {address} nor {local}: it would find the same entry for everybody")
	}
	if _, err := ldap.CompileFilter(t.fill(Name{Local: "x", Domain: "x"})); err != nil {
		var fault *ldap.Error
		if errors.As(err, &fault) {
			err = fault.Err // the result code says the same
		}
		return template{}, fmt.Errorf("%q is not an LDAP filter (RFC 4515), such as (mail={address}): %s", text, strings.TrimPrefix(err.Error(), "ldap: "))
	}
	return t, nil
}

// fill puts a name in, escaped: nothing in a name is ever a wildcard, a parenthesis or the end of a string.
func (t template) fill(n Name) string {
	var b strings.Builder
	for _, c := range t.cuts {
		b.WriteString(c.literal)
		if c.part != nil {
			b.WriteString(ldap.EscapeFilter(c.part(n)))
		}
	}
	return b.String()
}

var attributeName = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9-]*|[0-9]+(\.[0-9]+)+)$`)

func isAttribute(name string) bool { return attributeName.MatchString(name) }

func validDN(dn string) bool {
	_, err := ldap.ParseDN(dn)
	return err == nil
}
