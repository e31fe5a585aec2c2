package smtpwire

import (
	"errors"
	"strings"
)

// ErrXtext: a text that is not xtext.
var ErrXtext = errors.New("malformed xtext")

const hexDigits = "0123456789ABCDEF"

// AppendXtext appends s as xtext: bytes outside "!" to "~", and "+" and "=", become "+" and two hexadecimal digits
// (RFC 3461 section 4). No line end, space or NUL is left.
func AppendXtext(dst []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if c < '!' || c > '~' || c == '+' || c == '=' {
			dst = append(dst, '+', hexDigits[c>>4], hexDigits[c&15])
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

// ParseXtext decodes xtext. Lower case digits are understood; Postfix sends some characters as they are that should be
// encoded, so "=" and bytes above ASCII are, too. Spaces and control characters are not.
func ParseXtext(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '+':
			if i+2 >= len(s) {
				return "", ErrXtext
			}
			high, low := unhex(s[i+1]), unhex(s[i+2])
			if high > 15 || low > 15 {
				return "", ErrXtext
			}
			b.WriteByte(high<<4 | low)
			i += 2
		case c <= ' ' || c == 0x7f:
			return "", ErrXtext
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), nil
}

// unhex is the value of a hexadecimal digit, more than 15 if it is none.
func unhex(c byte) byte {
	switch {
	case digit(c):
		return c - '0'
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}
