package incoming

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"mailmux/proxy"
	"mailmux/proxy/deliver"
	"mailmux/proxy/envelope"
	"mailmux/proxy/smtpwire"
	"mailmux/proxy/wire"
	"mailmux/proxy/xclient"
)

// Dialect is what differs between SMTP and LMTP.
type Dialect struct {
	// LMTP says LHLO, and answers a message with a reply for each recipient.
	LMTP bool
	// Begin makes a session's receiver.
	Begin func(*Session) Receiver
	// Welcome says why a client may not come in at all: the reply that it gets in place of the greeting, "" for none. nil
	// lets everybody in.
	Welcome func(*Session) string
	// Abroad lets recipients through that the directory does not know and that may be somebody's elsewhere: the route of
	// their job has no host. Clients are this site's own servers then.
	Abroad bool
	// Notifies says that what members do not tell senders, for want of DSN, is told from here (RFC 3461 section 5.2): so DSN is
	// offered whatever they have.
	Notifies bool
	// Admit says whether a client may bring one more message now. nil admits all.
	Admit func(*Session) bool
}

// Receiver is what becomes of the messages of one session. It belongs to the session's goroutine.
type Receiver interface {
	// Recipient takes one more recipient, or refuses it. The reply goes to the client; its class says which.
	Recipient(ctx context.Context, job deliver.Job) smtpwire.Reply
	// Message takes a message for the recipients so far, and gives the replies to Session.Answer. Its text is what text
	// reads, to its end before anything is answered; when body is not nil it has been read already, and is there. An error of
	// text is one of the client or a fault of the message (Refusal): nothing may be delivered then, and it is returned.
	Message(ctx context.Context, text io.Reader, body *envelope.Body) error
	// Reset forgets a transaction that did not come to its message.
	Reset()
}

// Handler speaks a dialect for all sessions of a server. It holds no session's state.
type Handler struct {
	dialect   Dialect
	deliverer *deliver.Deliverer
}

var _ proxy.Handler = (*Handler)(nil)

// New makes a handler.
func New(d *deliver.Deliverer, dialect Dialect) *Handler {
	return &Handler{dialect: dialect, deliverer: d}
}

// state is where a session stands.
type state uint8

const (
	connected  state = 1 << iota // before EHLO
	introduced                   // after it
	sending                      // after MAIL
	chunking                     // after the first BDAT

	always = connected | introduced | sending | chunking
)

// Session is one client that brings messages.
type Session struct {
	*proxy.Session

	// Deliverer hands messages to members.
	Deliverer *deliver.Deliverer
	// Sender is who the transaction's message is from.
	Sender envelope.Sender

	handler  *Handler
	cfg      *deliver.Config
	receiver Receiver
	offer    envelope.Offer

	state    state
	started  bool // a known command has come in
	extended bool // by EHLO or LHLO, not HELO
	helo     string
	claim    xclient.Claim
	applied  bool // the claim was
	accepted int  // recipients
	refused  int  // recipients, since the last message
	idle     int  // commands that bring no message nearer, since the last one
	messages int

	chunks *envelope.Text
	body   *envelope.Body
	lost   error // of the disk, while chunks come in
}

// Serve runs one session until the client takes its leave. The engine closes the connection.
func (h *Handler) Serve(ctx context.Context, ps *proxy.Session) error {
	s := &Session{Session: ps, Deliverer: h.deliverer, handler: h, cfg: h.deliverer.Config(), state: connected}
	s.receiver = h.dialect.Begin(s)
	defer s.reset()
	if err := s.welcome(); err != nil {
		return err
	}
	if err := s.waitForSilence(); err != nil {
		return err
	}
	s.greet()
	for {
		err := s.next(ctx)
		switch {
		case err == errQuit:
			return nil
		case err != nil:
			return s.end(err)
		}
	}
}

// errQuit: the client has taken its leave.
var errQuit = errors.New("quit")

// errUnwelcome: the client may not come in, by Dialect.Welcome.
var errUnwelcome = errors.New("client is of no network that this service is for")

// welcome sends clients away that the service is not for. The first word counts: nothing that a client says of itself
// later, by XCLIENT, brings it in.
func (s *Session) welcome() error {
	if s.handler.dialect.Welcome == nil {
		return nil
	}
	if refusal := s.handler.dialect.Welcome(s); refusal != "" {
		s.Client.Line(refusal)
		return errUnwelcome
	}
	return nil
}

// familiar says whether the client is one that need not be kept from guessing and talking: an MTA of this site, or one that
// is exempt from limits.
func (s *Session) familiar() bool {
	return s.handler.dialect.LMTP || s.handler.dialect.Abroad || s.Known()
}

// waitForSilence keeps the greeting back where that is configured. A client that talks before it is greeted does not wait
// for answers, and is no mail server (RFC 5321 section 3.1).
func (s *Session) waitForSilence() error {
	if s.cfg.GreetingDelay == 0 || s.Secure() || s.familiar() {
		return nil
	}
	if err := s.Await(s.cfg.GreetingDelay); err != nil {
		return err
	}
	_, err := s.Client.Peek()
	var late net.Error
	switch {
	case err == nil:
		s.Client.Line("554 5.5.1 You talk before you are greeted")
		return proxy.ErrBadCommands
	case errors.As(err, &late) && late.Timeout():
		return s.Await(s.cfg.ClientTimeout)
	}
	return err
}

func (s *Session) greet() {
	s.Client.Line("220 ", s.Hostname(), " ", s.protocol(), " ready")
}

// protocol is the name of the protocol in greetings and in Received (RFC 3848), without the S for TLS.
func (s *Session) protocol() string {
	if s.handler.dialect.LMTP {
		return "LMTP"
	}
	return "ESMTP"
}

// next runs one command. An error ends the session.
func (s *Session) next(ctx context.Context) error {
	if err := s.Await(s.cfg.ClientTimeout); err != nil {
		return err
	}
	line, err := s.Client.ReadCRLF()
	if err != nil {
		return err
	}
	verb, args := split(line)
	c, ok := lookup(verb)
	switch {
	case !ok:
		err = errUnknown
	case c.in&s.state == 0:
		err = c.early
		if s.state == connected {
			err = errHelloFirst
		}
	default:
		s.started = true
		err = c.run(s, ctx, args)
	}
	return s.complain(err)
}

// maxIdle is how many commands that lead nowhere a client of the service smtp may send for each message (Postfix's
// smtpd_junk_command_limit).
const maxIdle = 100

// idled counts a command that brings no message nearer. An MTA in front, and who is exempt from limits, may send any number.
func (s *Session) idled() error {
	if s.idle++; s.idle > maxIdle && !s.familiar() {
		return proxy.ErrBadCommands
	}
	return nil
}

// complain tells the client of a mistake of its own, and returns nil if it may go on. A foreign first word gets no answer
// of its own: it is likely a browser, which may be led to believe what it reads.
func (s *Session) complain(err error) error {
	var c complaint
	if !errors.As(err, &c) {
		return err
	}
	if err == errUnknown && !s.started {
		return s.BadCommand(true)
	}
	s.Client.Line(string(c))
	return s.BadCommand(false)
}

// end answers a line that cannot be taken for a command. The engine has the last word, by Bye.
func (s *Session) end(err error) error {
	switch {
	case errors.Is(err, wire.ErrLineTooLong):
		s.Client.Line("500 5.5.2 Line too long")
	case errors.Is(err, wire.ErrBareNewline):
		s.Client.Line("500 5.5.2 Lines end with CRLF (RFC 5321 section 2.3.8)")
		return errors.Join(proxy.ErrBadCommands, err)
	}
	return err
}

// Bye is the engine's last word to a client (RFC 5321 section 3.8).
func (h *Handler) Bye(s *proxy.Session, cause proxy.Cause) string {
	if byes[cause] == "" {
		return ""
	}
	return byes[cause] + " (session " + s.ID() + ")\r\n"
}

// reset forgets the transaction, and lets the session end when it has to.
func (s *Session) reset() {
	s.receiver.Reset()
	s.drop()
	s.Sender, s.accepted = envelope.Sender{}, 0
	if s.state != connected {
		s.state = introduced
	}
	s.Release()
}

// drop forgets the chunks that came in.
func (s *Session) drop() {
	if s.body != nil {
		s.body.Close()
	}
	s.chunks, s.body, s.lost = nil, nil, nil
}

// From is the transaction's sender, as members are told of it.
func (s *Session) From() deliver.From {
	id := s.Identity()
	return deliver.From{Sender: s.Sender, Hostname: s.Hostname(), Identity: id, Dial: s.DialInfo()}
}

// Received is the trace field for a message (RFC 5321 section 4.4), with its line ends.
func (s *Session) Received(now time.Time) string {
	with := s.protocol()
	switch {
	case !s.extended:
		with = "SMTP"
	case s.Secure():
		with += "S"
	}
	if s.Sender.UTF8 { // RFC 6531 section 4.3
		with = "UTF8" + with
		if !s.handler.dialect.LMTP {
			with = "UTF8" + with[len("UTF8E"):]
		}
	}
	helo := s.helo
	if !smtpwire.Forwardable(helo) {
		helo = "unknown"
	}
	return "Received: from " + helo + " ([" + address(s.ClientAddr().Addr()) + "])\r\n" +
		"\t" + s.by() + " with " + with + " id " + s.ID() + "." + count(s.messages) + ";\r\n" +
		"\t" + now.Format(time.RFC1123Z) + "\r\n"
}

// by is how this site shows in a Received field.
func (s *Session) by() string { return "by " + s.Hostname() + " (mailmux)" }

// MessageID is how log and trace name the transaction's message.
func (s *Session) MessageID() string { return s.ID() + "." + count(s.messages) }
