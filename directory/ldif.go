package directory

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"
)

// document is an LDIF file (RFC 2849): entries, and between them comments and blank lines that are kept as they are.
type document struct {
	parts []part
}

// part is an entry, or text that is none.
type part struct {
	text  string     // as it stands in the file
	entry *ldifEntry // nil for comments, blank lines and the version
}

// ldifEntry is an entry of the file. Its lines keep their text, so that only what changes is written anew.
type ldifEntry struct {
	entry
	lines []ldifLine
}

type ldifLine struct {
	text  string // with its folds and its line end
	name  string // "" for a comment
	value string
}

// parseLDIF reads entries. Change records and values that are in other files are errors.
func parseLDIF(data []byte) (*document, error) {
	d := &document{}
	number := 0
	var current *ldifEntry
	for len(data) > 0 {
		line, lines, rest := logicalLine(data)
		first := number + 1
		number += lines
		text := string(data[:len(data)-len(rest)])
		data = rest
		switch {
		case line == "":
			current = nil
			d.parts = append(d.parts, part{text: text})
		case strings.HasPrefix(line, "#") && current == nil:
			d.parts = append(d.parts, part{text: text})
		case strings.HasPrefix(line, "#"):
			current.lines = append(current.lines, ldifLine{text: text})
		default:
			name, value, err := parseLDIFLine(line)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", first, err)
			}
			if current == nil && strings.EqualFold(name, "version") {
				d.parts = append(d.parts, part{text: text})
				continue
			}
			if current, err = d.take(current, name, value, text); err != nil {
				return nil, fmt.Errorf("line %d: %w", first, err)
			}
		}
	}
	return d, nil
}

// take puts a line into the current entry, or begins one.
func (d *document) take(current *ldifEntry, name, value, text string) (*ldifEntry, error) {
	if current == nil {
		if !strings.EqualFold(name, "dn") {
			return nil, fmt.Errorf("an entry begins with dn:, not with %.40q", name)
		}
		if value == "" || !validDN(value) {
			return nil, fmt.Errorf("%.80q is not a distinguished name", value)
		}
		current = &ldifEntry{entry: entry{dn: value}, lines: []ldifLine{{text, "dn", value}}}
		d.parts = append(d.parts, part{entry: current})
		return current, nil
	}
	if strings.EqualFold(name, "changetype") || strings.EqualFold(name, "control") {
		return nil, fmt.Errorf("%s: this is a file of changes, not of entries", name)
	}
	current.lines = append(current.lines, ldifLine{text, name, value})
	current.add(name, value)
	return current, nil
}

func (e *entry) add(name, value string) {
	for i := range e.attributes {
		if strings.EqualFold(e.attributes[i].name, name) {
			e.attributes[i].values = append(e.attributes[i].values, value)
			return
		}
	}
	e.attributes = append(e.attributes, attribute{name, []string{value}})
}

// logicalLine gives the first line with the lines folded into it, how many they are, and what follows.
func logicalLine(data []byte) (line string, lines int, rest []byte) {
	var b strings.Builder
	for {
		physical, after, found := bytes.Cut(data, []byte("\n"))
		b.Write(bytes.TrimSuffix(physical, []byte("\r")))
		lines++
		data = after
		if !found || len(data) == 0 || data[0] != ' ' {
			return b.String(), lines, data
		}
		data = data[1:]
	}
}

func parseLDIFLine(line string) (name, value string, err error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || name == "" {
		return "", "", fmt.Errorf("%.80q is not of the form name: value", line)
	}
	switch {
	case strings.HasPrefix(value, ":"):
		decoded, err := base64.StdEncoding.DecodeString(strings.Trim(value[1:], " "))
		if err != nil {
			return "", "", fmt.Errorf("value of %.40s: %w", name, err)
		}
		return name, string(decoded), nil
	case strings.HasPrefix(value, "<"):
		return "", "", fmt.Errorf("value of %.40s is in another file: write it here", name)
	}
	return name, strings.TrimLeft(value, " "), nil
}

// set gives an attribute the values, in the place where it was; none removes it.
func (e *ldifEntry) set(name string, values []string) {
	var lines []ldifLine
	at := -1
	for _, l := range e.lines {
		if strings.EqualFold(l.name, name) {
			if at < 0 {
				at = len(lines)
			}
			continue
		}
		lines = append(lines, l)
	}
	if at < 0 {
		at = len(lines)
	}
	var fresh []ldifLine
	for _, value := range values {
		fresh = append(fresh, ldifLine{formatLDIFLine(name, value), name, value})
	}
	e.lines = append(lines[:at:at], append(fresh, lines[at:]...)...)
	e.attributes = nil
	for _, l := range e.lines[1:] {
		if l.name != "" {
			e.add(l.name, l.value)
		}
	}
}

func formatLDIFLine(name, value string) string {
	if safeLDIF(value) {
		return name + ": " + value + "\n"
	}
	return name + ":: " + base64.StdEncoding.EncodeToString([]byte(value)) + "\n"
}

// safeLDIF is RFC 2849's SAFE-STRING, without a space at the end.
func safeLDIF(value string) bool {
	if value == "" {
		return true
	}
	if strings.ContainsAny(value[:1], " :<") || strings.HasSuffix(value, " ") {
		return false
	}
	return !strings.ContainsFunc(value, func(r rune) bool { return r == 0 || r == '\n' || r == '\r' || r >= utf8.RuneSelf })
}

// bytes is the file's text: as it was read, except for what was set.
func (d *document) bytes() []byte {
	var b bytes.Buffer
	for _, p := range d.parts {
		if p.entry == nil {
			b.WriteString(p.text)
			continue
		}
		for _, l := range p.entry.lines {
			if b.Len() > 0 && b.Bytes()[b.Len()-1] != '\n' {
				b.WriteByte('\n')
			}
			b.WriteString(l.text)
		}
	}
	return b.Bytes()
}
