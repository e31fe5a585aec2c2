package smtpwire

import (
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ErrReply: what came is not a reply, or one that does not end within bounds.
var ErrReply = errors.New("not an SMTP reply")

// Bounds on one reply. Dovecot's proxy stops at the same number of lines.
const (
	maxReplyLines = 128
	maxReplyBytes = 32 << 10
	maxTextLine   = 506 // RFC 5321 section 4.5.3.1.5: 512 bytes with the code and CRLF
	maxLogged     = 200
)

// LineReader hands out lines without their ends, each valid until the next one (wire.Conn is one).
type LineReader interface {
	ReadLine() ([]byte, error)
}

// Reply is an answer to a command, as it came.
type Reply struct {
	// Code is the three digits, 200 to 599.
	Code int
	// Text is what stands behind the code, the lines joined by "\n". It may hold any other byte.
	Text string
}

// ReadReply reads one reply of one or more lines. The error wraps ErrReply, or is the reader's own.
func ReadReply(r LineReader) (Reply, error) {
	line, err := r.ReadLine()
	if err != nil {
		return Reply{}, err
	}
	code, text, more, err := parseLine(line)
	if err != nil {
		return Reply{}, err
	}
	if !more {
		return Reply{code, string(text)}, nil
	}
	joined := append(make([]byte, 0, 512), text...)
	for n := 2; more; n++ {
		if line, err = r.ReadLine(); err != nil {
			return Reply{}, err
		}
		var next int
		if next, text, more, err = parseLine(line); err != nil {
			return Reply{}, err
		}
		if next != code {
			return Reply{}, fmt.Errorf("%w: code changes from %d to %d", ErrReply, code, next)
		}
		joined = append(append(joined, '\n'), text...)
		if n > maxReplyLines || len(joined) > maxReplyBytes {
			return Reply{}, fmt.Errorf("%w: it does not end", ErrReply)
		}
	}
	return Reply{code, string(joined)}, nil
}

// parseLine takes "250-text", "250 text" and "250" apart (RFC 5321 section 4.2).
func parseLine(line []byte) (code int, text []byte, more bool, err error) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' || !digit(line[1]) || !digit(line[2]) {
		return 0, nil, false, malformed(line)
	}
	code = 100*int(line[0]-'0') + 10*int(line[1]-'0') + int(line[2]-'0')
	if len(line) == 3 {
		return code, nil, false, nil
	}
	if line[3] != ' ' && line[3] != '-' {
		return 0, nil, false, malformed(line)
	}
	return code, line[4:], line[3] == '-', nil
}

func malformed(line []byte) error {
	return fmt.Errorf("%w: %q", ErrReply, line[:min(len(line), maxLogged)])
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// Lines are the lines of the text, one at least.
func (r Reply) Lines() iter.Seq[string] { return strings.SplitSeq(r.Text, "\n") }

// Class is the first digit: 2 done, 3 more is wanted, 4 temporary, 5 permanent.
func (r Reply) Class() int { return r.Code / 100 }

// Enhanced is the enhanced status code at the head of the text ("5.7.8"), "" if there is none or it belongs to another
// class than the reply's code (RFC 2034 section 4).
func (r Reply) Enhanced() string {
	word, _, _ := strings.Cut(r.Text, "\n")
	word, _, _ = strings.Cut(word, " ")
	class, rest, ok := strings.Cut(word, ".")
	subject, detail, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || class != strconv.Itoa(r.Class()) || !number(subject) || !number(detail) {
		return ""
	}
	return word
}

// number says whether s is 1 to 3 digits (RFC 3463 section 2).
func number(s string) bool {
	for i := range len(s) {
		if !digit(s[i]) {
			return false
		}
	}
	return 1 <= len(s) && len(s) <= 3
}

// Wire is the reply in the protocol's grammar for passing on: lines joined by CRLF, none at the end, control characters
// and overlong lines gone.
func (r Reply) Wire() string {
	code := strconv.Itoa(r.Code)
	if !strings.Contains(r.Text, "\n") {
		return code + " " + clean(r.Text, maxTextLine)
	}
	var b strings.Builder
	b.Grow(len(r.Text) + 128)
	last := strings.Count(r.Text, "\n")
	n := 0
	for line := range r.Lines() {
		b.WriteString(code)
		if n < last {
			b.WriteByte('-')
		} else {
			b.WriteByte(' ')
		}
		b.WriteString(clean(line, maxTextLine))
		if n < last {
			b.WriteString("\r\n")
		}
		n++
	}
	return b.String()
}

// String is the reply in one short line for logs and errors, without control characters.
func (r Reply) String() string {
	return strconv.Itoa(r.Code) + " " + clean(r.Text, maxLogged)
}

// clean makes a text fit to be shown: at most limit bytes, control characters become spaces, and what is not UTF-8
// question marks.
func clean(s string, limit int) string {
	if len(s) > limit {
		for limit > 0 && !utf8.RuneStart(s[limit]) {
			limit--
		}
		s = s[:limit]
	}
	if plain(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError:
			return '?'
		case r < ' ', 0x7f <= r && r <= 0x9f:
			return ' '
		}
		return r
	}, s)
}

// plain says whether s is printable ASCII.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
