package smtpwire

import "bytes"

// MaxHelo is the longest name in bytes a client may give itself; Postfix takes no longer one by XCLIENT.
const MaxHelo = 255

// ParseHelo reads the argument of EHLO, HELO and LHLO (RFC 5321 section 4.1.1.1): a domain or an address literal, and
// whatever else people's machines call themselves, as long as it is a word of at most 255 bytes without control
// characters. What follows the first space is left out.
func ParseHelo(args []byte) (name string, ok bool) {
	word, _, _ := bytes.Cut(args, []byte{' '})
	if len(word) == 0 || len(word) > MaxHelo {
		return "", false
	}
	for _, c := range word {
		if c <= ' ' || c == 0x7f {
			return "", false
		}
	}
	return string(word), true
}

// Forwardable says whether a member would take the name for a domain or an address literal, and whether it may stand in a
// Received field. Others are not told to anybody.
func Forwardable(helo string) bool {
	for i := range len(helo) {
		switch c := helo[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		case c == '-', c == '.', c == '_', c == ':', c == '[', c == ']':
		default:
			return false
		}
	}
	return helo != "" && len(helo) <= MaxHelo
}
