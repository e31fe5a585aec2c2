package sieve

import (
	"fmt"
	"strings"

	"mailmux/proxy"
	"mailmux/proxy/wire"
)

// Bounds of what a member may say in one answer.
const (
	maxCapabilities = 64
	maxTokens       = 64
	maxCapability   = 4096 // bytes of one; what is longer is nothing that a client could be shown
)

// response is a member's OK, NO or BYE (RFC 5804 section 1.2).
type response struct {
	status string // OK, NO or BYE
	code   string // the response code's name in upper case, "" if there is none
	data   string // the response code as a client may see it, in parentheses; "" if there is none
	text   string // for people
}

// line is the response as a client may see it.
func (r *response) line() string {
	line := r.status
	if r.data != "" {
		line += " " + r.data
	}
	if r.text != "" {
		line += " " + quote(r.text)
	}
	return line
}

// brief is the response for an error's text.
func (r *response) brief() string { return fmt.Sprintf("%.120q", r.line()) }

// readTokensOf reads a line of the member. One that does not follow the grammar is nonsense.
func readTokensOf(c *wire.Conn) ([]token, error) {
	tokens, err := readTokens(c, false)
	switch {
	case err == errSyntax:
		return nil, fmt.Errorf("%w: a line outside the grammar", proxy.ErrProtocol)
	case err == nil && (len(tokens) == 0 || len(tokens) > maxTokens):
		return nil, fmt.Errorf("%w: a line of %d words", proxy.ErrProtocol, len(tokens))
	}
	return tokens, err
}

// readResponse reads a line that has to be a response.
func readResponse(c *wire.Conn) (*response, error) {
	tokens, err := readTokensOf(c)
	if err != nil {
		return nil, err
	}
	return responseOf(tokens)
}

// responseOf takes a response apart: status, code in parentheses, text.
func responseOf(tokens []token) (*response, error) {
	r := &response{status: strings.ToUpper(tokens[0].text)}
	if tokens[0].kind != atom || r.status != "OK" && r.status != "NO" && r.status != "BYE" {
		return nil, fmt.Errorf("%w: %.80q is no response", proxy.ErrProtocol, tokens[0].text)
	}
	tokens = tokens[1:]
	if len(tokens) > 0 && tokens[0].kind == opening {
		end := closingOf(tokens)
		if end < 2 || tokens[1].kind != atom {
			return nil, fmt.Errorf("%w: malformed response code", proxy.ErrProtocol)
		}
		r.code = strings.ToUpper(tokens[1].text)
		r.data = render(tokens[:end+1])
		tokens = tokens[end+1:]
	}
	switch {
	case len(tokens) == 0:
	case len(tokens) == 1 && tokens[0].kind == quoted:
		r.text = tokens[0].text
	default:
		return nil, fmt.Errorf("%w: malformed response", proxy.ErrProtocol)
	}
	return r, nil
}

// closingOf is where the parenthesis that tokens begin with is closed, -1 if it is not.
func closingOf(tokens []token) int {
	depth := 0
	for i, t := range tokens {
		switch t.kind {
		case opening:
			depth++
		case closing:
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// render writes a response code again, strings of either form as quoted ones.
func render(tokens []token) string {
	var b strings.Builder
	for i, t := range tokens {
		if i > 0 && t.kind != closing && tokens[i-1].kind != opening {
			b.WriteByte(' ')
		}
		if t.kind == quoted {
			b.WriteString(quote(t.text))
		} else {
			b.WriteString(t.text)
		}
	}
	return b.String()
}

// listing is what a member showed of its capabilities.
type listing struct {
	lines    []string // NAME, or NAME value
	starttls bool
	xclient  bool
	sasl     []string // nil if it did not say
}

// readListing reads a capability listing and the OK behind it (RFC 5804 section 1.7).
func readListing(c *wire.Conn) (*listing, error) {
	l := &listing{lines: make([]string, 0, 10)}
	for range maxCapabilities {
		tokens, err := readTokensOf(c)
		if err != nil {
			return nil, err
		}
		if tokens[0].kind == quoted {
			l.add(tokens)
			continue
		}
		r, err := responseOf(tokens)
		if err != nil {
			return nil, err
		}
		if r.status != "OK" {
			return nil, fmt.Errorf("%w: %s", proxy.ErrProtocol, r.brief())
		}
		return l, nil
	}
	return nil, fmt.Errorf("%w: more than %d capabilities", proxy.ErrProtocol, maxCapabilities)
}

func (l *listing) add(tokens []token) {
	name, value := tokens[0].text, ""
	if len(tokens) > 1 {
		value = tokens[1].text
	}
	switch {
	case strings.EqualFold(name, "STARTTLS"):
		l.starttls = true
	case strings.EqualFold(name, "XCLIENT"):
		l.xclient = true
	case strings.EqualFold(name, "SASL"):
		l.sasl = append([]string{}, strings.Fields(value)...)
	}
	if value != "" {
		name += " " + value
	}
	if len(name) <= maxCapability {
		l.lines = append(l.lines, name)
	}
}
