package pop3

import (
	"bytes"
	"encoding/base64"

	"mailmux/proxy/auth"
)

// maxCommand is the longest command line without its end (RFC 2449 section 4).
const maxCommand = 253

// split takes a line apart at its first space. What follows is one argument, as it is: a password may hold spaces, in
// front and at the end too (RFC 1939 section 7).
func split(line []byte) (verb, arg []byte) {
	verb, arg, _ = bytes.Cut(line, []byte{' '})
	return verb, arg
}

// lookup finds a verb, which is known in any case (RFC 1939 section 3).
func lookup(verb []byte) (command, bool) {
	var upper [8]byte
	if len(verb) > len(upper) {
		return command{}, false
	}
	for i, c := range verb {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		upper[i] = c
	}
	found, ok := commands[string(upper[:len(verb)])]
	return found, ok
}

// decode reads a SASL message: base64, or "=" for an empty initial response (RFC 5034 section 4). It is never nil, as
// that would mean that there is none.
func decode(text []byte) ([]byte, error) {
	if len(text) == 1 && text[0] == '=' {
		return []byte{}, nil
	}
	message := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(message, text)
	if err != nil || bytes.IndexByte(text, '\r') >= 0 { // the decoder skips line ends, and a lone CR is one for it
		return nil, auth.ErrMalformed
	}
	return message[:n], nil
}

// responseCode is the extended response code in front of a reply's text, without the brackets (RFC 2449 section 8); "" if
// there is none, or what stands there is no code.
func responseCode(text []byte) string {
	if len(text) == 0 || text[0] != '[' {
		return ""
	}
	end := bytes.IndexByte(text, ']')
	if end < 2 {
		return ""
	}
	code := text[1:end]
	for _, c := range code {
		if c <= ' ' || c >= 0x7f || c == '[' {
			return ""
		}
	}
	return string(code)
}
