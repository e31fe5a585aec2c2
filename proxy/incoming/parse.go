package incoming

import (
	"bytes"
	"net/netip"
	"strconv"

	"mailmux/proxy/smtpwire"
)

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

// address is an address as an address literal has it (RFC 5321 section 4.1.3).
func address(a netip.Addr) string {
	if s := smtpwire.FormatAddress(a); s != "" {
		return s
	}
	return "unknown"
}

func count(n int) string { return strconv.Itoa(n) }
