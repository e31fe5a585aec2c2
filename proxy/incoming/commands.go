package incoming

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"mailmux/directory"
	"mailmux/proxy"
	"mailmux/proxy/deliver"
	"mailmux/proxy/envelope"
	"mailmux/proxy/smtpwire"
	"mailmux/proxy/wire"
	"mailmux/proxy/xclient"
)

// command is a verb: in which states it may come, what is said in the others, and what it does.
type command struct {
	in    state
	early complaint
	run   func(*Session, context.Context, []byte) error
}

var commands = map[string]command{
	"EHLO":     {connected | introduced | sending, errChunks, (*Session).ehlo}, // RFC 5321 section 4.1.1.1
	"HELO":     {connected | introduced | sending, errChunks, (*Session).hello},
	"LHLO":     {connected | introduced | sending, errChunks, (*Session).lhlo},  // RFC 2033 section 4.1
	"STARTTLS": {connected | introduced, errInTransaction, (*Session).startTLS}, // RFC 3207 section 4
	"XCLIENT":  {connected | introduced, errInTransaction, (*Session).xclient},  // XCLIENT_README
	"MAIL":     {introduced, errInTransaction, (*Session).mail},                 // RFC 5321 section 4.1.1.2
	"RCPT":     {sending, errMailFirst, (*Session).rcpt},                        // RFC 5321 section 4.1.1.3
	"DATA":     {sending, errMailFirst, (*Session).data},                        // RFC 5321 section 4.1.1.4
	"BDAT":     {always, errMailFirst, (*Session).bdat},                         // RFC 3030 section 2
	"RSET":     {always, "", (*Session).rset},                                   // RFC 5321 section 4.1.1.5
	"NOOP":     {always, "", (*Session).noop},                                   // RFC 5321 section 4.1.1.9
	"VRFY":     {always, "", (*Session).vrfy},                                   // RFC 5321 section 4.1.1.6
	"HELP":     {always, "", (*Session).help},                                   // RFC 5321 section 4.1.1.8
	"QUIT":     {always, "", (*Session).quit},                                   // RFC 5321 section 4.1.1.10
	"AUTH":     {always, "", (*Session).unavailable},                            // RFC 4954
	"EXPN":     {always, "", (*Session).unavailable},                            // RFC 5321 section 4.1.1.7
	"ETRN":     {always, "", (*Session).unavailable},                            // RFC 1985
	"TURN":     {always, "", (*Session).unavailable},                            // RFC 821
}

func (s *Session) ehlo(_ context.Context, args []byte) error {
	if s.handler.dialect.LMTP {
		return errUseLHLO
	}
	return s.introduce(args, true)
}

func (s *Session) hello(_ context.Context, args []byte) error {
	if s.handler.dialect.LMTP {
		return errUseLHLO
	}
	return s.introduce(args, false)
}

func (s *Session) lhlo(_ context.Context, args []byte) error {
	if !s.handler.dialect.LMTP {
		return errUnknown
	}
	return s.introduce(args, true)
}

// introduce takes the client's name, and ends a transaction that was under way.
func (s *Session) introduce(args []byte, extended bool) error {
	name, ok := smtpwire.ParseHelo(args)
	if !ok {
		return errName
	}
	s.reset()
	s.helo, s.state, s.extended = name, introduced, extended
	s.SetHelo(name)
	if !extended {
		s.Client.Line("250 ", s.Hostname())
		return s.idled()
	}
	s.offer = s.offered()
	lines := []string{s.Hostname(), "PIPELINING", "SIZE " + strconv.FormatInt(s.cfg.MaxSize, 10), "8BITMIME", "CHUNKING"}
	if s.offer.DSN {
		lines = append(lines, "DSN")
	}
	if s.offer.UTF8 {
		lines = append(lines, "SMTPUTF8")
	}
	if s.CanStartTLS() {
		lines = append(lines, "STARTTLS")
	}
	if s.ForwardsIdentity() {
		lines = append(lines, xclient.Offer)
	}
	for _, line := range lines {
		s.Client.Line("250-", line)
	}
	s.Client.Line("250 ENHANCEDSTATUSCODES")
	return s.idled()
}

// offered are the extensions that all members have by which mail may leave, and what is made up for here where they do not.
func (s *Session) offered() envelope.Offer {
	notifies := s.handler.dialect.Notifies
	offer := envelope.Offer{DSN: true, UTF8: true}
	seen := 0
	for _, service := range s.cfg.Services() {
		for _, list := range s.LearntOf(service) {
			seen++
			_, dsn := smtpwire.Extensions(list).Find("DSN")
			_, utf8 := smtpwire.Extensions(list).Find("SMTPUTF8")
			offer.DSN, offer.UTF8 = offer.DSN && (dsn || notifies), offer.UTF8 && utf8
		}
	}
	if seen == 0 {
		return envelope.Offer{DSN: notifies}
	}
	return offer
}

// startTLS forgets what was said in the clear (RFC 3207 section 4.2).
func (s *Session) startTLS(_ context.Context, args []byte) error {
	switch {
	case len(args) > 0:
		return errArguments
	case s.Secure():
		return errHasTLS
	case !s.CanStartTLS():
		return errNoTLS
	case s.Client.Buffered() > 0:
		return wire.ErrInjected
	}
	s.Client.Line("220 2.0.0 Ready to start TLS")
	if err := s.StartTLS(); err != nil {
		return err
	}
	s.state, s.helo, s.claim = connected, "", xclient.Claim{}
	return nil
}

// mail begins a transaction. From here on the frontend's end and an operator wait for it.
func (s *Session) mail(_ context.Context, args []byte) error {
	sender, err := envelope.ParseMail(args, s.offer)
	switch {
	case errors.Is(err, envelope.ErrParameter):
		return errParameter
	case errors.Is(err, envelope.ErrUTF8):
		return errUTF8
	case err != nil:
		return errPath
	case sender.Size > s.cfg.MaxSize:
		s.Client.Line(tooBig)
		return nil
	}
	s.applyClaim() // first: it says whose messages are counted
	if s.handler.dialect.Admit != nil && !s.handler.dialect.Admit(s) {
		s.Client.Line("450 4.7.0 Too many messages from your address, try again later")
		return nil
	}
	s.Hold()
	s.messages++
	s.Sender, s.state = sender, sending
	s.Client.Line("250 2.1.0 Sender OK")
	return nil
}

// maxRefused is how many recipients a client of the service smtp may get wrong before it is sent away: who guesses
// addresses has to come back for each handful.
const maxRefused = 20

func (s *Session) rcpt(ctx context.Context, args []byte) error {
	r, err := envelope.ParseRecipient(args, s.offer, s.Sender.UTF8)
	switch {
	case errors.Is(err, envelope.ErrParameter):
		return errParameter
	case errors.Is(err, envelope.ErrUTF8):
		return errUTF8
	case err != nil:
		return errPath
	case s.accepted >= s.cfg.MaxRecipients:
		s.Client.Line("452 4.5.3 Too many recipients")
		return nil
	}
	reply := s.recipient(ctx, r)
	s.Client.Line(reply.Wire())
	switch reply.Class() {
	case 2:
		s.accepted++
	case 5:
		if s.refused++; s.refused >= maxRefused && !s.familiar() {
			return proxy.ErrBadCommands
		}
	}
	return nil
}

// recipient looks a recipient up and gives it to the receiver.
func (s *Session) recipient(ctx context.Context, r envelope.Recipient) smtpwire.Reply {
	ours := s.local(r.Address)
	if !ours && !s.handler.dialect.Abroad {
		return smtpwire.Reply{Code: 550, Text: "5.7.1 No mail for that domain is taken here"}
	}
	route, err := s.Recipient(ctx, r.Address)
	if errors.Is(err, directory.ErrNoUser) && ours && s.postmaster(r.Address) {
		route, err = s.Recipient(ctx, s.cfg.Postmaster)
	}
	if errors.Is(err, directory.ErrNoUser) && s.abroad(r.Address, ours) {
		return s.receiver.Recipient(ctx, deliver.Job{Recipient: r})
	}
	if err != nil {
		reply := refusal(proxy.CauseOf(err), s.ID())
		s.Server().Delivered(proxy.Delivery{ID: s.MessageID(), Service: s.Service(), Client: s.ClientAddr(), Sender: s.Sender.Address,
			Recipient: r.Address, Outcome: deliver.Outcome(reply), Reply: err.Error()})
		return reply
	}
	return s.receiver.Recipient(ctx, deliver.Job{Recipient: r, Route: route})
}

// abroad says whether an address that nobody here has may be somebody's elsewhere: it has a domain, and that is none of
// delivery.local_domains.
func (s *Session) abroad(address string, ours bool) bool {
	at := strings.LastIndexByte(address, '@')
	return s.handler.dialect.Abroad && at > 0 && at < len(address)-1 && (!ours || len(s.cfg.LocalDomains) == 0)
}

// local says whether mail for the recipient's domain is taken. What has no valid form is for Recipient to refuse.
func (s *Session) local(address string) bool {
	name, err := s.Normalise(address)
	return err != nil || name.Domain == "" || s.cfg.Local(name.Domain)
}

// postmaster says whether an address is that of a postmaster of ours (RFC 5321 section 4.5.1).
func (s *Session) postmaster(address string) bool {
	local, _, qualified := strings.Cut(address, "@")
	return s.cfg.Postmaster != "" && strings.EqualFold(local, "postmaster") && (!qualified || len(s.cfg.LocalDomains) > 0)
}

// rset forgets the transaction.
func (s *Session) rset(context.Context, []byte) error {
	s.reset()
	s.Client.Line("250 2.0.0 OK")
	return s.idled()
}

func (s *Session) noop(context.Context, []byte) error {
	s.Client.Line("250 2.0.0 OK")
	return s.idled()
}

func (s *Session) vrfy(context.Context, []byte) error {
	s.Client.Line("252 2.5.0 Send some mail, and see")
	return s.idled()
}

func (s *Session) help(context.Context, []byte) error {
	s.Client.Line("214 2.0.0 RFC 5321, RFC 2033")
	return s.idled()
}

func (s *Session) quit(context.Context, []byte) error {
	s.Client.Line("221 2.0.0 Bye")
	return errQuit
}

func (s *Session) unavailable(context.Context, []byte) error { return errNotHere }
