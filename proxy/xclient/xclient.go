package xclient

import (
	"errors"
	"fmt"
	"strings"

	"mailmux/proxy/smtpwire"
)

// unavailable is the value of an XCLIENT attribute that is not known (XCLIENT_README).
const unavailable = "[UNAVAILABLE]"

// maxCommand is the longest command line without its CRLF (RFC 5321 section 4.5.3.1.4).
const maxCommand = 510

// ErrMalformed is an XCLIENT command that does not follow the grammar.
var ErrMalformed = errors.New("malformed XCLIENT attribute")

// attribute is one attribute of an XCLIENT command; the value is plain, not xtext.
type attribute struct{ name, value string }

// write writes the attributes that the other side advertised as XCLIENT commands of at most 512 bytes with CRLF, which
// is not included. Attributes with an empty value are left out, and so is one that alone is too long for a line.
func write(advertised string, attributes []attribute) []string {
	const verb = "XCLIENT"
	var commands []string
	line := append(make([]byte, 0, maxCommand), verb...)
	for _, a := range attributes {
		if a.value == "" || !lists(advertised, a.name) {
			continue
		}
		before := len(line)
		line = append(append(append(line, ' '), a.name...), '=')
		line = smtpwire.AppendXtext(line, a.value)
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

// parse calls each with every attribute of an XCLIENT command, args being what stands behind the verb: its name in
// upper case, and the value decoded, "" for one that is not known. The error wraps ErrMalformed; each has not been called
// for the faulty attribute then, nor for those behind it.
func parse(args string, each func(name, value string) error) error {
	count := 0
	for field := range strings.FieldsSeq(args) {
		name, encoded, ok := strings.Cut(field, "=")
		if !ok || !smtpwire.IsKeyword(name) {
			return fmt.Errorf("%w: %.40q", ErrMalformed, field)
		}
		value, err := smtpwire.ParseXtext(encoded)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrMalformed, name, err)
		}
		if strings.EqualFold(value, unavailable) || strings.EqualFold(value, "[TEMPUNAVAIL]") {
			value = ""
		}
		if err := each(strings.ToUpper(name), value); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrMalformed, name, err)
		}
		count++
	}
	if count == 0 {
		return fmt.Errorf("%w: there is none", ErrMalformed)
	}
	return nil
}
