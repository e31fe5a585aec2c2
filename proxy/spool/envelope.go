package spool

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// The errors of Accept that callers tell apart with errors.Is. All of them are temporary but ErrEnvelope.
var (
	// ErrFull: there is no room, by the file system or by the configuration; SMTP says 452 4.3.1.
	ErrFull = errors.New("spool is full")
	// ErrLocked: another process serves this spool.
	ErrLocked = errors.New("spool is served by another process")
	// ErrEnvelope: the envelope cannot be one of a message; SMTP says 501 or 554.
	ErrEnvelope = errors.New("not a valid envelope")
	// ErrNotFound: no message of this id.
	ErrNotFound = errors.New("no such message in the spool")
	// ErrClosed: the spool has been closed.
	ErrClosed = errors.New("spool is closed")
)

// Notify is what RCPT asked for by NOTIFY (RFC 3461 section 4.1), upper case as on the wire: NEVER, or any of SUCCESS,
// FAILURE and DELAY. None is what a sender has who did not ask: failures and delays are told.
type Notify []string

// The words of NOTIFY and RET.
const (
	NotifyNever   = "NEVER"
	NotifySuccess = "SUCCESS"
	NotifyFailure = "FAILURE"
	NotifyDelay   = "DELAY"

	ReturnFull    = "FULL"
	ReturnHeaders = "HDRS"
)

// wants says whether the sender is to be told of this.
func (n Notify) wants(word string) bool {
	if len(n) == 0 {
		return word == NotifyFailure || word == NotifyDelay
	}
	return slices.Contains(n, word)
}

// Recipient is one recipient of a message. All texts are as they came, decoded: xtext is the caller's affair.
type Recipient struct {
	// Address is the mailbox without angle brackets: what the member is told, and what the Router is asked for.
	Address string `json:"to"`
	// Account is the canonical login name, if known; WakeAccount finds the message by it, or by Address.
	Account string `json:"account,omitempty"`
	// Host is the home host at the last lookup, "" if unknown.
	Host string `json:"host,omitempty"`
	// ORcpt is the original recipient, "rfc822;ann@example.com" (RFC 3461 section 4.2).
	ORcpt string `json:"orcpt,omitempty"`
	// Notify is the sender's wish for notifications.
	Notify Notify `json:"notify,omitempty"`
	// Relay is set when the mail may leave for another site, should nobody here have the address: it comes from a backend,
	// or is a notification of ours. Mail from strangers never has it.
	Relay bool `json:"relay,omitempty"`
}

// Envelope is what MAIL and RCPT said, and where the message came from.
type Envelope struct {
	// From is the sender without angle brackets; "" is the null sender, which no notification is sent to.
	From string
	// To are the recipients that the message waits for.
	To []Recipient
	// Body is 7BIT, 8BITMIME or BINARYMIME, "" when MAIL did not say.
	Body string
	// SMTPUTF8 is set when MAIL asked for it (RFC 6531).
	SMTPUTF8 bool
	// Ret is FULL or HDRS, or "" (RFC 3461 section 4.3).
	Ret string
	// EnvID is the sender's envelope id (RFC 3461 section 4.4).
	EnvID string
	// Client says for the log where the message came from, such as "192.0.2.1 mx.example.org".
	Client string
	// Tried is set when the caller has tried to deliver already: the first attempt comes after FirstRetry. Otherwise it
	// comes at once.
	Tried bool
}

// Bounds of what is read back from a file; Accept keeps to them.
const (
	maxRecipients = 100_000
	maxText       = 4096 // of one address or parameter
	maxLine       = 64 << 10
)

func (e *Envelope) validate() error {
	if len(e.To) == 0 || len(e.To) > maxRecipients {
		return fmt.Errorf("%w: %d recipients", ErrEnvelope, len(e.To))
	}
	texts := []string{e.From, e.Body, e.Ret, e.EnvID, e.Client}
	for _, r := range e.To {
		if r.Address == "" {
			return fmt.Errorf("%w: a recipient without address", ErrEnvelope)
		}
		texts = append(texts, r.Address, r.Account, r.Host, r.ORcpt)
		if len(r.Notify) > 3 {
			return fmt.Errorf("%w: %d words of NOTIFY", ErrEnvelope, len(r.Notify))
		}
		texts = append(texts, r.Notify...)
	}
	for _, t := range texts {
		if len(t) > maxText {
			return fmt.Errorf("%w: a text of %d bytes", ErrEnvelope, len(t))
		}
		if !validText(t) {
			return fmt.Errorf("%w: %q has control characters or is not UTF-8", ErrEnvelope, t)
		}
	}
	return nil
}

// State is where a recipient stands.
type State string

// The states of a recipient. Only Waiting ones are attempted.
const (
	Waiting   State = "waiting"
	Delivered State = "delivered"
	Failed    State = "failed"
)

// Message is a queued message at an attempt. Deliveries to several members share it: it is only read, and valid until
// Deliver returns.
type Message struct {
	ID       string
	Envelope Envelope // all recipients, also those that are not to be delivered now
	Arrived  time.Time
	Size     int64

	data  io.ReaderAt
	start int64
}

// Body reads the message from its beginning. Each call gives a reader of its own.
func (m *Message) Body() *io.SectionReader {
	return io.NewSectionReader(m.data, m.start, m.Size)
}
