package ldapd

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxLDIFLine bounds one line of an LDIF file before continuation lines are joined, in bytes.
const maxLDIFLine = 1 << 20

// LoadLDIF stores every entry of an LDIF file (RFC 2849): base64 values, continuation lines, comments and
// "changetype: add" are understood; other changes and values by URL are errors. Entries before the error stay.
func (t *Tree) LoadLDIF(r io.Reader) error {
	return ReadLDIF(r, t.Put)
}

// ReadLDIF calls each for every entry of an LDIF file, in order, and stops at the first error, which names the line.
func ReadLDIF(r io.Reader, each func(Entry) error) error {
	p := ldifParser{each: each}
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxLDIFLine)
	for scanner.Scan() {
		p.line++
		if err := p.physical(strings.TrimSuffix(scanner.Text(), "\r")); err != nil {
			return err
		}
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("read LDIF after line %d: %w", p.line, err)
	}
	return p.endRecord()
}

// ldifParser joins continuation lines and collects one entry at a time.
type ldifParser struct {
	each    func(Entry) error
	line    int
	logical strings.Builder
	started int // line on which the logical line began, 0 when there is none
	entry   *Entry
}

// physical takes one line of the file.
func (p *ldifParser) physical(line string) error {
	if strings.HasPrefix(line, " ") {
		if p.started == 0 {
			return fmt.Errorf("LDIF line %d: a continuation of nothing", p.line)
		}
		p.logical.WriteString(line[1:])
		return nil
	}
	if err := p.endLine(); err != nil {
		return err
	}
	if line == "" {
		return p.endRecord()
	}
	p.started = p.line
	p.logical.WriteString(line)
	return nil
}

// endLine takes the logical line that is complete now.
func (p *ldifParser) endLine() error {
	if p.started == 0 {
		return nil
	}
	line, started := p.logical.String(), p.started
	p.logical.Reset()
	p.started = 0
	if strings.HasPrefix(line, "#") {
		return nil
	}
	if err := p.attribute(line); err != nil {
		return fmt.Errorf("LDIF line %d: %w", started, err)
	}
	return nil
}

// attribute takes "name: value" or "name:: base64".
func (p *ldifParser) attribute(line string) error {
	name, rest, ok := strings.Cut(line, ":")
	if !ok || name == "" {
		return fmt.Errorf("not an attribute: %q", line)
	}
	value := strings.TrimLeft(rest, " ")
	if encoded, isBase64 := strings.CutPrefix(rest, ":"); isBase64 {
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
		if err != nil {
			return fmt.Errorf("decode value of %s: %w", name, err)
		}
		value = string(raw)
	} else if strings.HasPrefix(rest, "<") {
		return fmt.Errorf("value of %s by URL is not supported: put it in the file", name)
	}
	switch lower := strings.ToLower(name); {
	case p.entry == nil && lower == "version":
		return nil
	case p.entry == nil && lower == "dn":
		p.entry = &Entry{DN: value}
		return nil
	case p.entry == nil:
		return fmt.Errorf("%s: outside of an entry, whose first line is its dn", name)
	case lower == "changetype" && value == "add":
		return nil
	case lower == "changetype":
		return errors.New("only entries and changetype: add can be loaded")
	}
	p.entry.add(name, value)
	return nil
}

// endRecord hands over the entry that is complete now.
func (p *ldifParser) endRecord() error {
	if err := p.endLine(); err != nil {
		return err
	}
	if p.entry == nil {
		return nil
	}
	e := *p.entry
	p.entry = nil
	if err := p.each(e); err != nil {
		return fmt.Errorf("LDIF entry that ends on line %d: %w", p.line, err)
	}
	return nil
}

// WriteLDIF writes all entries in the order in which they came. Values that LDIF cannot carry as they are go as base64.
func (t *Tree) WriteLDIF(w io.Writer) error {
	bw := bufio.NewWriter(w)
	for _, n := range t.snapshot() {
		writeLDIFLine(bw, "dn", n.DN)
		for _, a := range n.Attributes {
			for _, v := range a.Values {
				writeLDIFLine(bw, a.Name, v)
			}
		}
		bw.WriteByte('\n')
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("write LDIF: %w", err)
	}
	return nil
}

// writeLDIFLine writes one value. A failed write shows at the caller's Flush.
func writeLDIFLine(w *bufio.Writer, name, value string) {
	if isSafeString(value) {
		fmt.Fprintf(w, "%s: %s\n", name, value)
		return
	}
	fmt.Fprintf(w, "%s:: %s\n", name, base64.StdEncoding.EncodeToString([]byte(value)))
}

// isSafeString is SAFE-STRING of RFC 2849, without a trailing space.
func isSafeString(s string) bool {
	if s == "" {
		return true
	}
	if strings.IndexByte(" :<", s[0]) >= 0 || s[len(s)-1] == ' ' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] == 0 || s[i] == '\n' || s[i] == '\r' || s[i] >= 0x80 {
			return false
		}
	}
	return true
}
