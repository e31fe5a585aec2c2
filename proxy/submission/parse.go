package submission

import (
	"bytes"
	"encoding/base64"

	"mailmux/proxy/auth"
)

// split takes a command line apart: the verb, and what stands behind it without the spaces around it.
func split(line []byte) (verb, args []byte) {
	if i := bytes.IndexAny(line, " \t"); i >= 0 {
		return line[:i], bytes.Trim(line[i:], " \t")
	}
	return line, nil
}

// maxVerb is the length of the longest verb of the table.
const maxVerb = len("STARTTLS")

// lookup finds a verb, in any case.
func lookup(verb []byte) (command, bool) {
	var upper [maxVerb]byte
	if len(verb) > maxVerb {
		return command{}, false
	}
	for i, c := range verb {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		upper[i] = c
	}
	c, ok := commands[string(upper[:len(verb)])]
	return c, ok
}

// parseAuth reads the arguments of AUTH (RFC 4954 section 4). initial is nil without an initial response, and empty but not
// nil for "=".
func parseAuth(args []byte) (mechanism string, initial []byte, err error) {
	name, text, given := bytes.Cut(args, []byte{' '})
	if len(name) == 0 {
		return "", nil, errArguments
	}
	if !given {
		return string(name), nil, nil
	}
	text = bytes.TrimLeft(text, " ")
	if len(text) == 1 && text[0] == '=' {
		return string(name), []byte{}, nil
	}
	initial, err = decode(text)
	return string(name), initial, err
}

// decode reads a SASL message. The result is not nil.
func decode(text []byte) ([]byte, error) {
	message := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(message, text)
	if err != nil || bytes.IndexByte(text, '\r') >= 0 { // the decoder skips line ends, and a lone CR is one for it
		return nil, auth.ErrMalformed
	}
	return message[:n], nil
}

// maxChunk is how much of a BDAT that is refused is read and thrown away.
const maxChunk = 1 << 20

// parseChunk reads the size of BDAT (RFC 3030 section 2). ok is false for no number or one above maxChunk.
func parseChunk(args []byte) (size int, ok bool) {
	number, _, _ := bytes.Cut(args, []byte{' '})
	for _, c := range number {
		if c < '0' || c > '9' || size > maxChunk {
			return 0, false
		}
		size = 10*size + int(c-'0')
	}
	return size, len(number) > 0 && size <= maxChunk
}
