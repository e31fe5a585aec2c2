package incoming

import (
	"bytes"
	"net/netip"
	"strconv"

	"mailmux/proxy/smtpwire"
)

// maxName is the longest name a client may give itself; Postfix takes no longer one by XCLIENT.
const maxName = 255

// split takes a command line apart: the verb, and what stands behind it without the spaces around it.
func split(line []byte) (verb, args []byte) {
	if i := bytes.IndexAny(line, " \t"); i >= 0 {
		return line[:i], bytes.Trim(line[i:], " \t")
	}
	return line, nil
}

// lookup finds a verb, in any case.
func lookup(verb []byte) (command, bool) {
	const longest = len("STARTTLS")
	if len(verb) > longest {
		return command{}, false
	}
	c, ok := commands[string(bytes.ToUpper(verb))]
	return c, ok
}

// parseName reads the argument of EHLO: a domain or an address literal, and whatever else people's machines call
// themselves, as long as it is a word.
func parseName(args []byte) (string, bool) {
	word, _, _ := bytes.Cut(args, []byte{' '})
	if len(word) == 0 || len(word) > maxName {
		return "", false
	}
	for _, c := range word {
		if c <= ' ' || c == 0x7f {
			return "", false
		}
	}
	return string(word), true
}

// forwardable says whether the name can stand in a Received field and before a member: a domain or an address literal.
func forwardable(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		case c == '-', c == '.', c == '_', c == ':', c == '[', c == ']':
		default:
			return false
		}
	}
	return name != ""
}

// address is an address as an address literal has it (RFC 5321 section 4.1.3).
func address(a netip.Addr) string {
	if s := smtpwire.FormatAddress(a); s != "" {
		return s
	}
	return "unknown"
}

func count(n int) string { return strconv.Itoa(n) }
