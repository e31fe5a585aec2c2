package pop3

import (
	"errors"
	"unicode/utf8"

	"mailmux/proxy"
	"mailmux/proxy/auth"
)

// refusals are what a client is told, by cause; the session's id follows. Only [AUTH] says that the password is wrong: a
// mail program that reads it asks its user, and forgets what it had (RFC 3206).
var refusals = [...]string{
	proxy.CauseTemporary:   "-ERR [SYS/TEMP] Temporary failure, try again later",
	proxy.CauseAuth:        "-ERR [AUTH] Authentication failed",
	proxy.CauseHeld:        "-ERR [SYS/TEMP] Account is on hold, try again later",
	proxy.CauseDisabled:    "-ERR [SYS/PERM] Account is disabled, ask your administrator",
	proxy.CauseUnreachable: "-ERR [SYS/TEMP] Account is temporarily unavailable",
	proxy.CauseReply:       "-ERR [SYS/TEMP] Account is temporarily unavailable", // for Bye; else the reply itself
	proxy.CausePlaintext:   "-ERR TLS is required, use STLS first",
	proxy.CauseLimit:       "-ERR [SYS/TEMP] Too many sessions, try again later",
	proxy.CauseShutdown:    "-ERR [SYS/TEMP] Server is shutting down, try again later",
	proxy.CauseTimeout:     "-ERR [SYS/TEMP] Login took too long",
	proxy.CauseGarbage:     "-ERR Too many errors or a line too long",
	proxy.CauseGone:        "",
}

// complaint is a mistake of the client in the protocol's own words, as it is told.
type complaint string

func (c complaint) Error() string { return string(c) }

const (
	errUnknown   complaint = "Unknown command"
	errTooLong   complaint = "Command too long"
	errLogin     complaint = "Log in first"
	errUserFirst complaint = "USER first"
	errArguments complaint = "Missing or needless argument"
	errApop      complaint = "APOP is not supported"
	errNoTLS     complaint = "TLS is not available or already in use"
	errNoUTF8    complaint = "UTF8 is not supported"
	errLanguage  complaint = "Unknown language"
	errIdentity  complaint = "Malformed attributes"
)

// mistake is the text for an error of the client's own making, "" for any other.
func mistake(err error) string {
	var c complaint
	if errors.As(err, &c) {
		return string(c)
	}
	return auth.Mistake(err)
}

// maxReply is the longest first line of a response without its end (RFC 2449 section 4).
const maxReply = 510

// printable is a member's line as a client may see it: valid UTF-8 without control characters, of a response's length.
func printable(line []byte) string {
	if len(line) > maxReply {
		line = line[:maxReply]
		for len(line) > 0 && !utf8.RuneStart(line[len(line)-1]) {
			line = line[:len(line)-1]
		}
		if r, size := utf8.DecodeLastRune(line); r == utf8.RuneError && size == 1 {
			line = line[:len(line)-1]
		}
	}
	for i := range line {
		if line[i] < ' ' || line[i] >= 0x7f {
			return replaceControls(line)
		}
	}
	return string(line)
}

func replaceControls(line []byte) string {
	clean := make([]byte, 0, len(line))
	for len(line) > 0 {
		r, size := utf8.DecodeRune(line)
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError && size == 1 {
			clean = append(clean, '?')
		} else {
			clean = append(clean, line[:size]...)
		}
		line = line[size:]
	}
	return string(clean)
}
