package sieve

import (
	"errors"

	"mailmux/proxy"
	"mailmux/proxy/auth"
)

// refusals are what a client is told, by cause; the status NO or BYE stands in front, and the session's id follows.
// TRYLATER keeps a client from asking its user for another password (RFC 5804 section 1.3).
var refusals = [...]struct{ code, text string }{
	proxy.CauseTemporary:   {"(TRYLATER) ", "Temporary failure, try again later"},
	proxy.CauseAuth:        {"", "Authentication failed"},
	proxy.CauseHeld:        {"(TRYLATER) ", "Account is on hold, try again later"},
	proxy.CauseDisabled:    {"", "Account is disabled, ask your administrator"},
	proxy.CauseUnreachable: {"(TRYLATER) ", "Account is temporarily unavailable"},
	proxy.CauseReply:       {"(TRYLATER) ", "Account is temporarily unavailable"}, // for Bye; else the reply itself
	proxy.CausePlaintext:   {"(ENCRYPT-NEEDED) ", "TLS is required, use STARTTLS first"},
	proxy.CauseLimit:       {"(TRYLATER) ", "Too many sessions, try again later"},
	proxy.CauseShutdown:    {"(TRYLATER) ", "Server is shutting down, try again later"},
	proxy.CauseTimeout:     {"(TRYLATER) ", "Login took too long"},
	proxy.CauseGarbage:     {"", "Too many errors or a line too long"},
	proxy.CauseGone:        {"", ""},
}

// refusal is the line for a cause, without its end; "" when nobody is left to be told.
func refusal(status string, cause proxy.Cause, id string) string {
	r := refusals[cause]
	if r.text == "" {
		return ""
	}
	return status + " " + r.code + `"` + r.text + " (session " + id + `)"`
}

// complaint is a mistake of the client in the protocol's own words, as it is told.
type complaint string

func (c complaint) Error() string { return string(c) }

const (
	errUnknown   complaint = "Unknown command"
	errSyntax    complaint = "Syntax error"
	errLogin     complaint = "Authenticate first"
	errArguments complaint = "Missing or needless argument"
	errNoTLS     complaint = "TLS is not available or already in use"
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
