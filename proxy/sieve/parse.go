package sieve

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"mailmux/proxy/auth"
	"mailmux/proxy/wire"
)

// maxLiterals bounds the literals of one command or response, in bytes, all together. OAuth tokens are long; scripts come
// only after the hand-over.
const maxLiterals = 16384

// maxQuoted is the longest quoted string (RFC 5804 section 4). What is longer is sent as a literal.
const maxQuoted = 1024

// kind is what a token is.
type kind uint8

const (
	atom kind = iota
	quoted
	opening // "("
	closing // ")"
)

// token is an atom, a number, the contents of a string of either form, or a parenthesis.
type token struct {
	kind kind
	text string
}

// readTokens reads one command or response, which is one line if there is no literal in it. With secret the trace does
// not show it. A line that does not follow the grammar is errSyntax, and the next one may be read after it; a literal that
// is too large ends the conversation, since nobody knows whether its bytes follow.
func readTokens(c *wire.Conn, secret bool) ([]token, error) {
	line, err := readLine(c, secret)
	if err != nil {
		return nil, err
	}
	var tokens []token
	var syntax error
	for budget := maxLiterals; ; {
		if syntax == nil {
			tokens, syntax = tokenise(tokens, line)
		}
		size, ok, err := literal(line, budget)
		if err != nil {
			return nil, err
		}
		if !ok {
			return tokens, syntax
		}
		budget -= size
		content, err := c.ReadN(size)
		if err != nil {
			return nil, err
		}
		if syntax == nil {
			tokens = append(tokens, token{quoted, string(content)})
		}
		if line, err = readLine(c, true); err != nil {
			return nil, err
		}
	}
}

func readLine(c *wire.Conn, secret bool) ([]byte, error) {
	if secret {
		return c.ReadSecret()
	}
	return c.ReadLine()
}

// literal finds the announcement of a literal, {n+} or {n}, at the end of a line.
func literal(line []byte, budget int) (size int, ok bool, err error) {
	start := announcement(line)
	if start < 0 {
		return 0, false, nil
	}
	digits := strings.TrimSuffix(string(line[start+1:len(line)-1]), "+")
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || int(n) > budget {
		return 0, false, fmt.Errorf("%w: literal of %.12s bytes", wire.ErrLineTooLong, digits)
	}
	return int(n), true, nil
}

// announcement is where {n+} begins at the end of a line, -1 if the line does not end so.
func announcement(line []byte) int {
	if len(line) == 0 || line[len(line)-1] != '}' {
		return -1
	}
	start := bytes.LastIndexByte(line, '{')
	if start < 0 || start > 0 && line[start-1] != ' ' && line[start-1] != '(' {
		return -1
	}
	digits := bytes.TrimSuffix(line[start+1:len(line)-1], []byte{'+'})
	if len(digits) == 0 {
		return -1
	}
	for _, d := range digits {
		if d < '0' || d > '9' {
			return -1
		}
	}
	return start
}

// tokenise takes a line apart, up to the announcement of a literal.
func tokenise(tokens []token, line []byte) ([]token, error) {
	if start := announcement(line); start >= 0 {
		line = line[:start]
	}
	for len(line) > 0 {
		switch c := line[0]; {
		case c == ' ':
			line = line[1:]
		case c == '(':
			tokens, line = append(tokens, token{opening, "("}), line[1:]
		case c == ')':
			tokens, line = append(tokens, token{closing, ")"}), line[1:]
		case c == '"':
			text, rest, ok := unquote(line[1:])
			if !ok {
				return nil, errSyntax
			}
			tokens, line = append(tokens, token{quoted, text}), rest
		default:
			end := 0
			for end < len(line) && line[end] > ' ' && line[end] < 0x7f && strings.IndexByte(`"()`, line[end]) < 0 {
				end++
			}
			if end == 0 || end < len(line) && strings.IndexByte(" ()", line[end]) < 0 {
				return nil, errSyntax
			}
			tokens, line = append(tokens, token{atom, string(line[:end])}), line[end:]
		}
	}
	return tokens, nil
}

// unquote reads a quoted string behind its opening quote (RFC 5804 section 4). A NUL is not allowed in it.
func unquote(line []byte) (text string, rest []byte, ok bool) {
	end := bytes.IndexAny(line, "\"\\\x00")
	if end >= 0 && line[end] == '"' { // nothing escaped: the usual case
		return string(line[:end]), line[end+1:], true
	}
	b := make([]byte, 0, len(line))
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '"':
			return string(b), line[i+1:], true
		case 0:
			return "", nil, false
		case '\\':
			if i++; i == len(line) || line[i] == 0 {
				return "", nil, false
			}
		}
		b = append(b, line[i])
	}
	return "", nil, false
}

// lookup finds a verb, which is known in any case.
func lookup(verb string) (command, bool) {
	var upper [len("UNAUTHENTICATE")]byte
	if len(verb) > len(upper) {
		return command{}, false
	}
	for i := range len(verb) {
		c := verb[i]
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		upper[i] = c
	}
	found, ok := commands[string(upper[:len(verb)])]
	return found, ok
}

// decode reads a SASL message: base64, or "=" for an empty initial response. It is never nil, as that would mean that
// there is none.
func decode(text string) ([]byte, error) {
	if text == "=" {
		return []byte{}, nil
	}
	if strings.ContainsAny(text, "\r\n") { // the decoder would skip them
		return nil, auth.ErrMalformed
	}
	message, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, auth.ErrMalformed
	}
	return message, nil
}

// quote makes a quoted string of a text that comes from elsewhere: valid UTF-8 without control characters, and no longer
// than a quoted string may be.
func quote(text string) string {
	b := make([]byte, 0, len(text)+2)
	b = append(b, '"')
	for i, r := range text {
		size := utf8.RuneLen(r)
		if i+size > maxQuoted {
			break
		}
		switch {
		case r == '"', r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ', r >= 0x7f && r < 0xa0:
			b = append(b, ' ')
		case r == utf8.RuneError:
			b = append(b, '?')
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return string(append(b, '"'))
}

// base64Line gathers words and a string of base64 behind them, in the form that its length asks for. A client's literal
// is announced as {n+}, a server's as {n} (RFC 5804 section 4).
func base64Line(c *wire.Conn, words string, message []byte, plus string) {
	text := base64.StdEncoding.EncodeToString(message)
	if len(text) <= maxQuoted {
		c.Secret(words+"[redacted]", words, `"`, text, `"`)
		return
	}
	c.Line(words, "{", strconv.Itoa(len(text)), plus, "}")
	c.Secret("[redacted]", text)
}
