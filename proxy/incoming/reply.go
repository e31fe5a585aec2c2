package incoming

import (
	"errors"

	"mailmux/proxy"
	"mailmux/proxy/smtpwire"
)

// refusals answer RCPT, by cause (design: what a client is told). Only 550 5.1.1 says that there is no such user: whoever
// reads it returns the message to its author.
var refusals = [...]smtpwire.Reply{
	proxy.CauseTemporary:   {Code: 451, Text: "4.3.0 Temporary failure, try again later"},
	proxy.CauseAuth:        {Code: 550, Text: "5.1.1 No such user here"},
	proxy.CauseHeld:        {Code: 450, Text: "4.2.1 Mailbox is on hold, try again later"},
	proxy.CauseDisabled:    {Code: 550, Text: "5.2.1 Mailbox is disabled"},
	proxy.CauseUnreachable: {Code: 451, Text: "4.4.1 The recipient's server is away, try again later"},
}

// refusal is the reply for a cause. What is not in the table is temporary, in doubt.
func refusal(cause proxy.Cause, id string) smtpwire.Reply {
	reply := refusals[proxy.CauseTemporary]
	if int(cause) < len(refusals) && refusals[cause].Code != 0 {
		reply = refusals[cause]
	}
	reply.Text += " (session " + id + ")"
	return reply
}

// byes are the last words before the connection is closed, by cause.
var byes = [...]string{
	proxy.CauseTemporary: "421 4.3.0 Temporary failure, try again later",
	proxy.CauseLimit:     "421 4.7.0 Too many sessions, try again later",
	proxy.CauseShutdown:  "421 4.3.2 Server is shutting down, try again later",
	proxy.CauseTimeout:   "421 4.4.2 You took too long",
	proxy.CauseGarbage:   "421 4.7.0 Too many errors or not SMTP",
	proxy.CauseGone:      "",
}

const tooBig = "552 5.3.4 Message is too big"

// complaint is a mistake of the client, as it is told.
type complaint string

func (c complaint) Error() string { return string(c) }

const (
	errUnknown       complaint = "500 5.5.2 Unknown command"
	errHelloFirst    complaint = "503 5.5.1 Say hello first"
	errUseLHLO       complaint = "500 5.5.1 This is LMTP, use LHLO"
	errName          complaint = "501 5.5.4 EHLO, LHLO and HELO want your domain name or [address]"
	errArguments     complaint = "501 5.5.4 Missing or needless argument"
	errPath          complaint = "501 5.5.4 Malformed address or parameter; say MAIL FROM:<address> or RCPT TO:<address>"
	errParameter     complaint = "555 5.5.4 Unknown parameter"
	errUTF8          complaint = "553 5.6.7 Addresses beyond ASCII need SMTPUTF8"
	errMailFirst     complaint = "503 5.5.1 Send MAIL first"
	errNoRecipients  complaint = "503 5.5.1 No valid recipients"
	errInTransaction complaint = "503 5.5.1 Not within a transaction"
	errChunks        complaint = "503 5.5.1 BDAT LAST or RSET first"
	errNoTLS         complaint = "502 5.5.1 TLS is not available"
	errHasTLS        complaint = "503 5.5.1 TLS is in use already"
	errNotHere       complaint = "502 5.5.1 Not available here"
	errUntrusted     complaint = "550 5.7.0 You are not trusted to forward clients"
	errAttributes    complaint = "501 5.5.4 Malformed attributes"
)

// errLostChunk: a BDAT whose size is not known, so that neither is where it ends.
var errLostChunk = errors.Join(proxy.ErrBadCommands, errors.New("BDAT without a size"))
