package imap

import (
	"bytes"
	"fmt"
	"strings"

	"mailmux/proxy"
	"mailmux/proxy/wire"
)

// maxLiterals bounds the literals of one command in bytes: thirty values of ID are the most that a client has to say.
const maxLiterals = 32 << 10

// errSyntax is a command that does not follow the grammar. Its text is for the client.
type errSyntax string

func (e errSyntax) Error() string { return string(e) }

// errLiteral: a literal beyond maxLiterals. One that its sender does not wait with would have to be read to be skipped, so
// it ends the session (RFC 7888 section 4).
var errLiteral = fmt.Errorf("literal too large: %w", proxy.ErrBadCommands)

// parser takes one command apart. Literals are asked for and read when it comes to them. What it returns are copies.
type parser struct {
	conn     *wire.Conn
	rest     []byte // what is left of the current line
	literals int    // bytes of literals so far
	secret   bool   // lines behind a literal hold a secret
}

// begin starts with a new line. It is valid until the parser reads the next one.
func (p *parser) begin(line []byte) {
	p.rest, p.literals, p.secret = line, 0, false
}

// tag reads the tag and the space behind it: any character of an astring except "+" (RFC 3501 section 9).
func (p *parser) tag() (string, error) {
	n := 0
	for n < len(p.rest) && tagChar(p.rest[n]) {
		n++
	}
	if n == 0 || n == len(p.rest) || p.rest[n] != ' ' {
		return "", errSyntax("A command is a tag, a space and a verb.")
	}
	tag := string(p.rest[:n])
	p.rest = p.rest[n+1:]
	return tag, nil
}

func tagChar(c byte) bool {
	return c > ' ' && c < 0x7f && strings.IndexByte(`(){%*"\+`, c) < 0
}

// word reads a verb or the name of a mechanism into upper case. The array is the caller's, so that a word costs nothing;
// a word that does not fit is "".
func (p *parser) word(into *[24]byte) []byte {
	n := 0
	for n < len(p.rest) && p.rest[n] != ' ' {
		n++
	}
	word := p.rest[:n]
	p.rest = p.rest[n:]
	if n > len(into) {
		return nil
	}
	for i, c := range word {
		switch {
		case 'a' <= c && c <= 'z':
			c -= 'a' - 'A'
		case c < ' ' || c >= 0x7f:
			return nil
		}
		into[i] = c
	}
	return into[:n]
}

// space reads one space.
func (p *parser) space() error {
	if len(p.rest) == 0 || p.rest[0] != ' ' {
		return errSyntax("Missing argument.")
	}
	p.rest = p.rest[1:]
	return nil
}

// end wants the end of the command. Spaces in front of it are let pass: people type them.
func (p *parser) end() error {
	if p.rest = bytes.TrimRight(p.rest, " "); len(p.rest) > 0 {
		return errSyntax("Too many arguments.")
	}
	return nil
}

// astring reads an atom, a quoted string or a literal.
func (p *parser) astring() (string, error) {
	if len(p.rest) == 0 {
		return "", errSyntax("Missing argument.")
	}
	switch p.rest[0] {
	case '"':
		return p.quoted()
	case '{':
		return p.literal()
	}
	n := 0
	for n < len(p.rest) && p.rest[n] > ' ' && p.rest[n] != 0x7f {
		n++
	}
	if n == 0 {
		return "", errSyntax("Missing argument.")
	}
	s := string(p.rest[:n])
	p.rest = p.rest[n:]
	return s, nil
}

// quoted reads a quoted string. Only the quote and the backslash are escaped (RFC 3501 section 9: quoted-specials).
func (p *parser) quoted() (string, error) {
	s := p.rest[1:]
	if i := bytes.IndexAny(s, "\"\\\x00\r"); i >= 0 && s[i] == '"' { // the ordinary case
		p.rest = s[i+1:]
		return string(s[:i]), nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			p.rest = s[i+1:]
			return b.String(), nil
		case 0, '\r':
			return "", errSyntax("Bad character in a quoted string.")
		case '\\':
			if i++; i == len(s) || s[i] != '"' && s[i] != '\\' {
				return "", errSyntax("Bad escape in a quoted string.")
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", errSyntax("Quoted string without its end.")
}

// literal reads a literal, which ends the line, and goes on with the line behind it.
func (p *parser) literal() (string, error) {
	size, waits, ok := literalAt(p.rest)
	if !ok || p.rest[0] != '{' || bytes.IndexByte(p.rest[1:], '{') >= 0 {
		return "", errSyntax("Bad literal.")
	}
	if size > maxLiterals-p.literals {
		return "", errLiteral
	}
	if waits {
		p.conn.Line("+ OK")
	}
	p.charge(size)
	b, err := p.conn.ReadN(size)
	if err != nil {
		return "", err
	}
	s := string(b)
	p.rest = nil
	return s, p.nextLine()
}

// charge counts a literal. Small ones are not free: their number has to be bounded as well.
func (p *parser) charge(size int) { p.literals += max(size, 64) }

func (p *parser) nextLine() (err error) {
	if p.secret {
		p.rest, err = p.conn.ReadSecret()
	} else {
		p.rest, err = p.conn.ReadLine()
	}
	return err
}

// literalAt says whether a line ends with the head of a literal, "{5}" or "{5+}", how large that is, and whether its
// sender waits to be asked for it.
func literalAt(line []byte) (size int, waits, ok bool) {
	n := len(line)
	if n < 3 || line[n-1] != '}' {
		return 0, false, false
	}
	i := bytes.LastIndexByte(line, '{')
	if i < 0 {
		return 0, false, false
	}
	digits := line[i+1 : n-1]
	waits = true
	if len(digits) > 0 && digits[len(digits)-1] == '+' {
		waits, digits = false, digits[:len(digits)-1]
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false, false
		}
		size = min(size*10+int(c-'0'), maxLiterals+1) // all that are larger are alike
	}
	return size, waits, len(digits) > 0
}

// skip reads over what is left of a command that was refused: literals that its sender does not wait with are on their
// way already, and their bytes must not be taken for commands.
func (p *parser) skip() error {
	for {
		size, waits, ok := literalAt(p.rest)
		if !ok || waits {
			return nil
		}
		if size > maxLiterals-p.literals {
			return errLiteral
		}
		p.charge(size)
		if _, err := p.conn.ReadN(size); err != nil {
			return err
		}
		p.secret = true // nobody knows what it was
		if err := p.nextLine(); err != nil {
			return err
		}
	}
}

// pair is one field of ID.
type pair struct {
	key, value string
	null       bool // the value is NIL
}

// The bounds of ID: RFC 2971 section 3.3.
const (
	maxPairs = 30
	maxKey   = 30
	maxValue = 1024
)

// id reads the argument of ID: NIL, or a list of strings in pairs.
func (p *parser) id() ([]pair, error) {
	if p.null() {
		return nil, p.end()
	}
	if len(p.rest) == 0 || p.rest[0] != '(' {
		return nil, errSyntax("ID wants a list or NIL.")
	}
	p.rest = p.rest[1:]
	var pairs []pair
	for {
		p.rest = bytes.TrimLeft(p.rest, " ")
		if len(p.rest) > 0 && p.rest[0] == ')' {
			p.rest = p.rest[1:]
			return pairs, p.end()
		}
		key, err := p.str()
		if err != nil {
			return nil, err
		}
		if err := p.space(); err != nil {
			return nil, err
		}
		f := pair{key: key, null: p.null()}
		if !f.null {
			if f.value, err = p.str(); err != nil {
				return nil, err
			}
		}
		if len(pairs) == maxPairs || len(f.key) > maxKey || len(f.value) > maxValue {
			return nil, errSyntax("ID is too long.")
		}
		pairs = append(pairs, f)
	}
}

// null reads NIL, if that is next.
func (p *parser) null() bool {
	if len(p.rest) < 3 || !bytes.EqualFold(p.rest[:3], []byte("NIL")) || len(p.rest) > 3 && p.rest[3] != ' ' && p.rest[3] != ')' {
		return false
	}
	p.rest = p.rest[3:]
	return true
}

// str reads a quoted string or a literal.
func (p *parser) str() (string, error) {
	if len(p.rest) > 0 {
		switch p.rest[0] {
		case '"':
			return p.quoted()
		case '{':
			return p.literal()
		}
	}
	return "", errSyntax("ID wants strings.")
}
