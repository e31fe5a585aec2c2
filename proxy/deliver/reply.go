package deliver

import (
	"io"
	"strings"

	"mailmux/proxy/smtpwire"
)

// Parse reads a reply that was written by smtpwire.Reply.Wire.
func Parse(text string) smtpwire.Reply {
	reply, err := smtpwire.ReadReply(&lines{strings.Split(text, "\r\n")})
	if err != nil {
		return unreachable
	}
	return reply
}

// lines hands out lines.
type lines struct{ rest []string }

func (l *lines) ReadLine() ([]byte, error) {
	if len(l.rest) == 0 {
		return nil, io.EOF
	}
	line := l.rest[0]
	l.rest = l.rest[1:]
	return []byte(line), nil
}
