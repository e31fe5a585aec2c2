package mailstore

import (
	"errors"
	"strconv"
	"strings"
)

// errSyntax ends a session whose command cannot be taken apart: where the next one begins is not known.
var errSyntax = errors.New("syntax error")

// readCommand reads a command name in upper case and its arguments.
func (s *sieveSession) readCommand() (name string, args []string, err error) {
	line, err := s.conn.readLine()
	if err != nil {
		return "", nil, err
	}
	name, rest, _ := strings.Cut(line, " ")
	args, err = s.parseStrings(rest)
	return strings.ToUpper(name), args, err
}

// readStrings reads a line of strings: an answer to a challenge.
func (s *sieveSession) readStrings() ([]string, error) {
	line, err := s.conn.readLine()
	if err != nil {
		return nil, err
	}
	return s.parseStrings(line)
}

// parseStrings takes a line of quoted strings, literals and numbers apart, and reads the literals and the lines that go
// on behind them (RFC 5804 section 4).
func (s *sieveSession) parseStrings(line string) ([]string, error) {
	var out []string
	room := maxScript
	for line = strings.TrimLeft(line, " "); line != ""; line = strings.TrimLeft(line, " ") {
		var value string
		switch line[0] {
		case '"':
			var ok bool
			if value, line, ok = cutQuoted(line); !ok {
				return nil, errSyntax
			}
		case '{':
			size, ok := literalSize(line)
			if !ok || size > room {
				return nil, errSyntax
			}
			room -= size
			var err error
			if value, err = s.conn.readN(size); err != nil {
				return nil, err
			}
			if line, err = s.conn.readLine(); err != nil {
				return nil, err
			}
		default:
			value, line, _ = strings.Cut(line, " ")
		}
		out = append(out, value)
	}
	return out, nil
}

// cutQuoted takes a quoted string off the front of a line.
func cutQuoted(line string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(line); i++ {
		switch line[i] {
		case '"':
			return b.String(), line[i+1:], true
		case '\\':
			if i++; i == len(line) {
				return "", "", false
			}
		}
		b.WriteByte(line[i])
	}
	return "", "", false
}

// literalSize reads "{12+}" at the end of a line. Clients send no other kind (RFC 5804 section 4).
func literalSize(line string) (int, bool) {
	digits, ok := strings.CutSuffix(strings.TrimPrefix(line, "{"), "+}")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	return int(n), err == nil
}

// quoteSieve writes a quoted string.
func quoteSieve(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
