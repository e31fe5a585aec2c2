package submission

import (
	"errors"
	"fmt"

	"mailmux/proxy"
	"mailmux/proxy/auth"
	"mailmux/proxy/wire"
)

// refusals answer AUTH, by cause; the session's id follows. Only 535 says that the password is wrong: a mail program that
// reads it asks its user, and forgets what it had. What has no refusal ends the session, with a word of byes.
var refusals = [...]string{
	proxy.CauseTemporary:   "454 4.7.0 Temporary authentication failure, try again later",
	proxy.CauseAuth:        "535 5.7.8 Authentication failed",
	proxy.CauseHeld:        "454 4.7.0 Account is on hold, try again later",
	proxy.CauseDisabled:    "525 5.7.13 Account is disabled, ask your administrator",
	proxy.CauseUnreachable: "454 4.7.0 Account is temporarily unavailable, try again later",
	proxy.CausePlaintext:   "538 5.7.11 TLS is required, use STARTTLS first",
	proxy.CauseGone:        "",
}

// byes are the last words before the connection is closed, by cause.
var byes = [...]string{
	proxy.CauseTemporary: "421 4.3.0 Temporary failure, try again later",
	proxy.CauseLimit:     "421 4.7.0 Too many sessions, try again later",
	proxy.CauseShutdown:  "421 4.3.2 Server is shutting down, try again later",
	proxy.CauseTimeout:   "421 4.4.2 Login took too long",
	proxy.CauseGarbage:   "421 4.7.0 Too many errors or not SMTP",
	proxy.CauseGone:      "",
}

// complaint is a mistake of the client, as it is told.
type complaint string

func (c complaint) Error() string { return string(c) }

const (
	errUnknown    complaint = "500 5.5.2 Unknown command"
	errEHLOFirst  complaint = "503 5.5.1 Send EHLO first"
	errHelo       complaint = "501 5.5.4 EHLO and HELO want your domain name or [address]"
	errArguments  complaint = "501 5.5.4 Missing or needless argument"
	errNoTLS      complaint = "502 5.5.1 TLS is not available"
	errHasTLS     complaint = "503 5.5.1 TLS is in use already"
	errLogin      complaint = "530 5.7.0 Authentication required"
	errTLSFirst   complaint = "530 5.7.0 TLS is required, use STARTTLS first"
	errUntrusted  complaint = "550 5.7.0 You are not trusted to forward clients"
	errAttributes complaint = "501 5.5.4 Malformed attributes"
)

// errLongResponse: the client's answer to a challenge was longer than any line may be.
var errLongResponse = fmt.Errorf("SASL response: %w", wire.ErrLineTooLong)

// mistake is what the client is told of an error of its own making, "" for any other error.
func mistake(err error) string {
	var c complaint
	switch {
	case errors.As(err, &c):
		return string(c)
	case errors.Is(err, auth.ErrUnknownMechanism):
		return "504 5.5.4 Unknown authentication mechanism"
	case errors.Is(err, auth.ErrCancelled):
		return "501 5.7.0 Authentication cancelled"
	case errors.Is(err, auth.ErrMalformed):
		return "501 5.5.2 Malformed authentication message"
	case errors.Is(err, auth.ErrChannelBinding):
		return "501 5.5.4 Channel binding is not possible here"
	}
	return ""
}
