package imap

import (
	"context"
	"errors"
	"slices"

	"mailmux/proxy"
	"mailmux/proxy/auth"
	"mailmux/proxy/backend"
)

// Handler speaks IMAP to any number of clients at once, and to the members for their checks.
type Handler struct {
	Prober
	common proxy.Common[string] // the text that a client is told before its login
}

// New makes a handler. It has nothing to configure.
func New() *Handler { return &Handler{} }

var (
	_ proxy.Handler  = (*Handler)(nil)
	_ backend.Prober = (*Handler)(nil)
)

// session is one client before its hand-over.
type session struct {
	*proxy.Session
	h *Handler

	parser parser
	tag    string // of the command in hand
	first  bool   // no command has made sense so far
	asked  bool   // the client has asked for capabilities itself
	id     []pair // what the client said of itself

	welcome welcome // what the backend said when it accepted
}

// Serve runs one session: greet, take the credentials, log in, hand over. A client whose login was refused may try again.
func (h *Handler) Serve(ctx context.Context, ps *proxy.Session) error {
	s := &session{Session: ps, h: h, first: true, parser: parser{conn: ps.Client}}
	s.greet()
	for {
		creds, err := s.credentials()
		if err != nil {
			return err
		}
		if err = s.Login(ctx, creds, s.enter); err == nil {
			break
		}
		if err := s.refuse(err); err != nil {
			return err
		}
	}
	s.sayWelcome()
	return s.HandOver()
}

// greet sends the greeting with the capabilities, which spares clients a round trip (RFC 3501 section 7.1).
func (s *session) greet() {
	var words [maxWords]string
	s.Client.Line(append(s.capability(append(words[:0], "* OK [CAPABILITY ")), "] ", s.Hostname(), " ready.")...)
}

// credentials answers commands until one of them is a login. It is the only loop over commands.
func (s *session) credentials() (*auth.Credentials, error) {
	for {
		line, err := s.Client.ReadLine()
		if err != nil {
			return nil, err
		}
		s.parser.begin(line)
		creds, err := s.command()
		if err == nil && creds != nil {
			return creds, nil
		}
		if err != nil {
			err = s.fault(err)
		}
		if err == nil {
			err = s.parser.skip()
		}
		if err != nil {
			return nil, err
		}
	}
}

// fault answers a command that went wrong. It returns nil when the session goes on.
func (s *session) fault(err error) error {
	var syntax errSyntax
	switch {
	case errors.As(err, &syntax):
		return s.bad(string(syntax))
	case slices.ContainsFunc(clientFaults, func(fault error) bool { return errors.Is(err, fault) }):
		return s.refuse(err)
	}
	return err
}

// clientFaults are the errors of a login command that leave the session going. Others end it: a connection that breaks, a
// TLS handshake that fails.
var clientFaults = []error{proxy.ErrPlaintext, auth.ErrCredentials, auth.ErrCancelled, auth.ErrMalformed,
	auth.ErrUnknownMechanism, auth.ErrChannelBinding}

// refusals are the words for each cause; those with an empty text end the session, and the engine says Bye.
var refusals = map[proxy.Cause]string{
	proxy.CauseTemporary:   "NO [UNAVAILABLE] Account is temporarily unavailable.",
	proxy.CauseAuth:        "NO [AUTHENTICATIONFAILED] Authentication failed.",
	proxy.CauseHeld:        "NO [UNAVAILABLE] Account is temporarily unavailable.",
	proxy.CauseDisabled:    "NO [CONTACTADMIN] Account is disabled.",
	proxy.CauseUnreachable: "NO [UNAVAILABLE] Account is temporarily unavailable.",
	proxy.CausePlaintext:   "NO [PRIVACYREQUIRED] Login needs TLS.",
	proxy.CauseReply:       "", // its own text
	proxy.CauseLimit:       "",
	proxy.CauseShutdown:    "",
	proxy.CauseTimeout:     "",
	proxy.CauseGarbage:     "",
	proxy.CauseGone:        "",
}

// refuse answers a login that failed. It returns nil when the client may try again, and else why the session ends.
func (s *session) refuse(err error) error {
	var reply *proxy.Reply
	cause := proxy.CauseOf(err)
	switch words := refusals[cause]; {
	case errors.Is(err, auth.ErrCancelled):
		s.answer("BAD Authentication cancelled.")
	case errors.Is(err, auth.ErrMalformed):
		s.answer("BAD Malformed authentication message.")
	case errors.Is(err, auth.ErrUnknownMechanism):
		s.answer("NO [CANNOT] Authentication mechanism not supported.")
	case errors.Is(err, auth.ErrChannelBinding):
		s.answer("NO [CANNOT] Channel binding is not supported.")
	case errors.As(err, &reply):
		s.answer(reply.Text)
	case words == "":
		return err
	default:
		s.Client.Line(s.tag, " ", words, " (session ", s.ID(), ")")
	}
	return s.BadCommand(false)
}

// answer is the tagged answer to the command in hand.
func (s *session) answer(words string) { s.Client.Line(s.tag, " ", words) }

// bad answers a command that makes no sense. Without a tag the answer has none (RFC 3501 section 7.1.3).
func (s *session) bad(why string) error {
	first := s.first
	s.first = false
	tag := s.tag
	if tag == "" {
		tag = "*"
	}
	s.Client.Secret("[tag] BAD "+why, tag, " BAD ", why) // a tag that comes before no verb may be anything
	return s.BadCommand(first)
}

// byes are the words for what the engine ends a session by.
var byes = map[proxy.Cause]string{
	proxy.CauseTemporary: "[UNAVAILABLE] Internal error.",
	proxy.CauseLimit:     "[UNAVAILABLE] Too many sessions, try again later.",
	proxy.CauseShutdown:  "Server is shutting down, try again later.",
	proxy.CauseTimeout:   "Login timed out.",
	proxy.CauseGarbage:   "Too many errors.",
}

// Bye is the untagged line in front of a close (RFC 3501 section 7.1.5).
func (h *Handler) Bye(s *proxy.Session, cause proxy.Cause) string {
	words, ok := byes[cause]
	if !ok {
		return ""
	}
	return "* BYE " + words + " (session " + s.ID() + ")\r\n"
}
