package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"mailmux/proxy"
	"mailmux/proxy/backend"
	"mailmux/proxy/envelope"
	"mailmux/proxy/smtpwire"
)

// Transaction is one message on its way to one member. It belongs to one goroutine, which ends it with Data or Abort.
type Transaction struct {
	deliverer *Deliverer
	leg       *leg
	began     time.Time
	accepted  []string    // as they were given to the member, in order
	calm      func() bool // takes back that the end of the context ends the transaction
	entered   []proxy.Route
}

// From is who brings a message.
type From struct {
	envelope.Sender

	Hostname string           // ours
	Identity proxy.Identity   // of the client
	Dial     backend.DialInfo // for a PROXY header

	login *login // at a smarthost, nil for none
}

// Begin connects to a member and says MAIL. An error with a *proxy.Reply is the member's refusal of the sender; other
// errors are the member's fault, which it has been told.
func (d *Deliverer) Begin(ctx context.Context, m *backend.Member, protocol string, from *From) (*Transaction, error) {
	until := time.Now().Add(d.config().MemberTimeout)
	if own, ok := ctx.Deadline(); ok && own.Before(until) {
		until = own
	}
	for {
		t := &Transaction{deliverer: d, began: time.Now()}
		l := d.pool.take(m, protocol)
		var err error
		if l == nil {
			if l, err = dial(ctx, m, protocol, from.Hostname, from.Dial, until); err != nil {
				m.Failed(protocol, err)
				return nil, err
			}
		}
		l.renew(until)
		t.leg, t.calm = l, context.AfterFunc(ctx, l.conn.hurry)
		err = t.begin(from)
		var reply *proxy.Reply
		switch {
		case err == nil:
			m.Opened(protocol)
			return t, nil
		case errors.As(err, &reply):
			m.Succeeded(protocol, time.Since(t.began))
			t.end()
			return nil, err
		}
		t.end()
		if !l.reused || ctx.Err() != nil { // a connection that waited may have been closed meanwhile
			m.Failed(protocol, err)
			return nil, err
		}
	}
}

// begin says what precedes the recipients.
func (t *Transaction) begin(from *From) error {
	if err := t.leg.introduce(from.Identity, t.leg.member.Identity()); err != nil {
		return t.fault("hello", err)
	}
	if err := t.leg.authenticate(from.login); err != nil {
		return err
	}
	switch {
	case from.UTF8 && !t.leg.has("SMTPUTF8"): // RFC 6531 section 3.5
		return &proxy.Reply{Text: "550 5.6.7 The recipient's server does not know SMTPUTF8"}
	case from.EightBit && !t.leg.has("8BITMIME"): // RFC 6152 section 3
		return &proxy.Reply{Text: "554 5.6.3 The recipient's server takes 7 bits only, and nothing is converted here"}
	}
	options := &smtp.MailOptions{Size: from.Size, UTF8: from.UTF8, Return: smtp.DSNReturn(from.Return), EnvelopeID: from.EnvID}
	if !asciiOnly(from.EnvID) {
		options.EnvelopeID = ""
	}
	if err := t.leg.client.Mail(from.Address, options); err != nil {
		return t.fault("MAIL", err)
	}
	return nil
}

// fault sorts an error before the recipients: words of the member about the message are passed on, words about us are not.
func (t *Transaction) fault(command string, err error) error {
	reply, ok := replyOf(err)
	switch {
	case !ok:
		return fmt.Errorf("%s: %w", command, err)
	case command == "hello", reply.Code == 421, 500 <= reply.Code && reply.Code <= 504, reply.Code == 530, reply.Code == 538:
		return fmt.Errorf("member answers %s with %q: %w", command, reply, proxy.ErrProtocol)
	}
	return &proxy.Reply{Text: reply.Wire()}
}

// Rcpt gives the member one more recipient, under the address that it is known by there. The reply is the member's. An
// error is the member's fault; the transaction is of no use any more.
func (t *Transaction) Rcpt(r envelope.Recipient, address string) (smtpwire.Reply, error) {
	options := &smtp.RcptOptions{}
	if r.Original != "" && (r.OriginalType == "utf-8" || r.OriginalType == "rfc822" && asciiOnly(r.Original)) { // go-smtp knows no others
		options.OriginalRecipientType, options.OriginalRecipient = smtp.DSNAddressType(strings.ToUpper(r.OriginalType)), r.Original
	}
	for _, word := range r.Notify {
		options.Notify = append(options.Notify, smtp.DSNNotify(word))
	}
	if r.Original == "" && address != r.Address && asciiOnly(r.Address) {
		options.OriginalRecipientType, options.OriginalRecipient = smtp.DSNAddressTypeRFC822, r.Address
	}
	err := t.leg.client.Rcpt(address, options)
	if err == nil {
		t.accepted = append(t.accepted, address)
		return smtpwire.Reply{Code: 250, Text: "2.1.5 OK"}, nil
	}
	reply, ok := replyOf(err)
	if !ok || reply.Code == 421 {
		return reply, fmt.Errorf("RCPT: %w", err)
	}
	return reply, nil
}

// Accepted is how many recipients the member has taken.
func (t *Transaction) Accepted() int { return len(t.accepted) }

// Data sends the text and returns the member's replies: one for each recipient that it took, in order, for LMTP, and one
// for SMTP. An error of text aborts the transaction so that nothing is delivered, and is returned as it is; sent says
// whether the text had gone out in full when another error came: then it may have been delivered.
func (t *Transaction) Data(text io.Reader) (replies []smtpwire.Reply, sent bool, err error) {
	w, err := t.leg.client.Data()
	if err != nil {
		if reply, ok := replyOf(err); ok && reply.Code != 421 {
			t.Abort()
			return t.all(reply), false, nil
		}
		t.failed(err)
		return nil, false, fmt.Errorf("DATA: %w", err)
	}
	release, err := t.leg.conn.sendText(text)
	if err != nil {
		release()
	}
	var source errSource
	switch {
	case errors.As(err, &source):
		t.Abort() // not Close, which would end the message where it broke off, and deliver that
		return nil, false, source.error
	case err != nil:
		t.failed(err)
		return nil, false, fmt.Errorf("send the message: %w", err)
	}
	t.leg.conn.most = len(t.accepted) * maxRcptReply
	replies, err = t.answers(w)
	t.leg.conn.most = 0
	release() // before the connection is another transaction's
	switch {
	case err == nil:
		t.done()
	case replies != nil: // those that have an answer keep it
		t.failed(err)
	default:
		t.failed(err)
		return nil, true, fmt.Errorf("read the answer to the message: %w", err)
	}
	return replies, true, nil
}

// all is one reply for each recipient.
func (t *Transaction) all(reply smtpwire.Reply) []smtpwire.Reply {
	if t.leg.protocol == "smtp" {
		return []smtpwire.Reply{reply}
	}
	list := make([]smtpwire.Reply, len(t.accepted))
	for i := range list {
		list[i] = reply
	}
	return list
}

// answers ends the text and reads what the member says to it. With an error there may be replies: a member that goes away
// in the middle of its answers has given some.
func (t *Transaction) answers(w *smtp.DataCommand) ([]smtpwire.Reply, error) {
	if t.leg.protocol == "smtp" {
		said, err := w.CloseWithResponse()
		if err == nil {
			return []smtpwire.Reply{{Code: 250, Text: said.StatusText}}, nil
		}
		if reply, ok := replyOf(err); ok {
			return []smtpwire.Reply{later(reply)}, leaves(reply)
		}
		return nil, err
	}
	took, err := w.CloseWithLMTPResponse()
	var refused smtp.LMTPDataError
	if errors.As(err, &refused); len(took)+len(refused) == 0 {
		return nil, err
	}
	if err := t.leg.conn.quiet(); err != nil && len(t.accepted) > 1 && (len(refused) > 0 || t.leg.conn.ahead[0] != '2') {
		return nil, err // more answers than recipients, and not all alike: whose they are is not known
	}
	var broken error
	replies := make([]smtpwire.Reply, 0, len(t.accepted))
	for _, address := range t.accepted {
		if said, ok := took[address]; ok {
			replies = append(replies, smtpwire.Reply{Code: 250, Text: said.StatusText})
			continue
		}
		reply, ok := smtpwire.Reply{}, false
		if said := refused[address]; said != nil {
			reply, ok = replyOf(said)
		}
		if !ok {
			reply, broken = unanswered, err
		} else if err := leaves(reply); err != nil {
			reply, broken = later(reply), err
		}
		replies = append(replies, reply)
	}
	return replies, broken
}

// later makes 451 of 421: that the member ends its connection says nothing of ours, and a client that is told so would
// believe it, and bring the recipients that are served already once more.
func later(reply smtpwire.Reply) smtpwire.Reply {
	if reply.Code == 421 {
		reply.Code = 451
	}
	return reply
}

// leaves is an error if the member ends its connection with a reply (RFC 5321 section 3.8).
func leaves(reply smtpwire.Reply) error {
	if reply.Code == 421 {
		return fmt.Errorf("member takes its leave with %q", reply)
	}
	return nil
}

// unanswered is for a recipient whose fate is not known.
var unanswered = smtpwire.Reply{Code: 451, Text: "4.4.2 The recipient's server went away without an answer"}

// done gives the connection back to the pool.
func (t *Transaction) done() {
	t.leg.member.Succeeded(t.leg.protocol, time.Since(t.began))
	t.leg.member.Closed(t.leg.protocol)
	cfg := t.deliverer.config()
	if !t.calm() || t.leg.conn.quiet() != nil { // in haste, or about to be; or the member is out of step
		t.leg.close()
		t.leave()
		return
	}
	t.leave()
	t.leg.tcp.Guard(nil)
	t.deliverer.pool.keep(t.leg, cfg.IdleConnections, cfg.IdleTimeout)
}

// failed ends a transaction by the member's fault.
func (t *Transaction) failed(err error) {
	t.leg.member.Failed(t.leg.protocol, err)
	t.leg.member.Closed(t.leg.protocol)
	t.end()
}

// end closes the connection.
func (t *Transaction) end() {
	t.calm()
	t.leg.close()
	t.leave()
}

// Enter puts the connection under the claim on a recipient's account, where there is one, until the transaction ends. It is
// to be called before Rcpt, and fails when the account has left the member meanwhile.
func (t *Transaction) Enter(r proxy.Route) error {
	if err := r.Enter(t.leg.tcp); err != nil {
		return err
	}
	t.entered = append(t.entered, r)
	return nil
}

// leave gives the claims back.
func (t *Transaction) leave() {
	for _, r := range t.entered {
		r.Leave()
	}
	t.entered = nil
}

// Abort ends a transaction without a message. The connection is closed: nothing that the member has got can become one.
func (t *Transaction) Abort() {
	t.leg.member.Closed(t.leg.protocol)
	t.end()
}

// Extend gives the member its whole time anew: for a transaction whose client takes its own.
func (t *Transaction) Extend() { t.leg.renew(time.Now().Add(t.deliverer.config().MemberTimeout)) }

// Fail ends a transaction by the member's fault: an error of Rcpt.
func (t *Transaction) Fail(err error) { t.failed(err) }

// Reset ends a transaction without a message, and keeps the connection for the next one.
func (t *Transaction) Reset() {
	if t.leg.client.Reset() != nil {
		t.Abort()
		return
	}
	t.done()
}

// asciiOnly says whether s is ASCII. It knows nothing of control characters: envelope has refused them.
func asciiOnly(s string) bool {
	for i := range len(s) {
		if s[i] > '~' {
			return false
		}
	}
	return true
}
