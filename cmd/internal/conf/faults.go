package conf

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong with the file, or, as a warning, that deserves a look.
type Fault struct {
	File string
	Line int    // 0 if it concerns no line, such as a section that is missing
	Key  string // the path of the key, "" for the file as a whole
	Text string // what is wrong, and what to do
}

// Error is "file:line: key: text", as far as known.
func (f Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	b.WriteString(": ")
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	b.WriteString(f.Text)
	return b.String()
}

// Faults is every fault of a file, in the order of its lines. As an error it is one line a fault.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.Error()
	}
	return strings.Join(lines, "\n")
}

// sort puts the faults into the order of lines; those without a line go last.
func (f Faults) sort() {
	slices.SortStableFunc(f, func(a, b Fault) int {
		switch {
		case a.Line == b.Line:
			return 0
		case a.Line == 0:
			return 1
		case b.Line == 0:
			return -1
		}
		return cmp.Compare(a.Line, b.Line)
	})
}

// flatten takes joined errors apart.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

// split takes the key off the front of a fault's text. A text without one is all text.
func split(text string) (key, rest string) {
	key, rest, ok := strings.Cut(text, ": ")
	if !ok || key == "" || strings.ContainsAny(key, " \t\n\"") {
		return "", text
	}
	return key, rest
}

// below says whether key is path or lies under it.
func below(key, path string) bool {
	rest, ok := strings.CutPrefix(key, path)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}
