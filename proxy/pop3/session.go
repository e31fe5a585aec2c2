package pop3

import (
	"context"
	"errors"

	"mailmux/proxy"
	"mailmux/proxy/auth"
)

// Handler speaks POP3 for all sessions of a server. It holds no session's state.
type Handler struct {
	common proxy.Common[[]string] // the capabilities shown before the login
}

var _ proxy.Handler = (*Handler)(nil)

// New makes a handler. There is nothing to configure.
func New() *Handler { return &Handler{} }

// state is where a session stands before the login (RFC 1939 section 4).
type state uint8

const (
	authorization state = 1 << iota // greeted
	named                           // USER was said, PASS may follow
)

// session is one client before the hand-over.
type session struct {
	*proxy.Session
	handler *Handler

	state   state
	started bool   // a command that makes sense has come in
	user    string // from USER
	utf8    bool   // UTF8 was said: the member is to be told, too
	welcome string // the member's +OK line, for the client
}

// Serve runs one session: greet, authenticate, log in on the home backend, hand over. The engine closes both connections
// when it returns.
func (h *Handler) Serve(ctx context.Context, ps *proxy.Session) error {
	s := &session{Session: ps, handler: h, state: authorization}
	s.greet()
	for {
		creds, err := s.authenticate(ctx) // the only loop over commands
		if err != nil {
			return err
		}
		err = s.Login(ctx, creds, s.enter)
		if err == nil {
			s.Client.Line(s.welcome)
			return s.HandOver()
		}
		if err := s.refuse(err); err != nil {
			return err
		}
	}
}

// greet says who we are, and to a peer that may tell us of its client, that it may: Dovecot looks for the word in front.
func (s *session) greet() {
	xclient := ""
	if s.ForwardsIdentity() {
		xclient = "[XCLIENT] "
	}
	s.Client.Line("+OK ", xclient, s.Hostname(), " ready")
}

// authenticate runs commands until one says who the client is. An error ends the session.
func (s *session) authenticate(ctx context.Context) (*auth.Credentials, error) {
	for {
		line, err := s.Client.ReadLine()
		if err != nil {
			return nil, err
		}
		creds, err := s.run(ctx, line)
		if err != nil {
			err = s.complain(err)
		}
		if err != nil || creds != nil {
			return creds, err
		}
	}
}

// run does what one line says. A complaint is the client's mistake; other errors end the session.
func (s *session) run(ctx context.Context, line []byte) (*auth.Credentials, error) {
	verb, arg := split(line)
	command, ok := lookup(verb)
	switch {
	case !ok:
		return nil, errUnknown
	case len(line) > maxCommand && !command.long:
		return nil, errTooLong
	case command.in&s.state == 0:
		return nil, command.early
	}
	s.started = true
	return command.run(s, ctx, arg)
}

// complain tells the client of a mistake of its own, and returns nil if it may go on. What is no such mistake is returned
// as it is. Behind the last mistake, Bye speaks.
func (s *session) complain(err error) error {
	text := mistake(err)
	if text == "" {
		return err
	}
	if err := s.BadCommand(err == errUnknown && !s.started); err != nil {
		return err
	}
	s.Client.Line("-ERR ", text)
	return nil
}

// refuse tells the client why it is not logged in, and returns nil if it may try again.
func (s *session) refuse(err error) error {
	s.state, s.user = authorization, ""
	if mistake(err) != "" {
		return s.complain(err)
	}
	cause := proxy.CauseOf(err)
	var reply *proxy.Reply
	switch {
	case cause == proxy.CauseGone, cause.EndedByEngine():
		return err
	case errors.As(err, &reply):
		s.Client.Line(reply.Text)
	default:
		s.Client.Line(refusals[cause], " (session ", s.ID(), ")")
	}
	if s.BadCommand(false) != nil {
		return err // it says more about the end of the session than that there were many
	}
	return nil
}

// Bye is the engine's last word to a client that is not logged in.
func (h *Handler) Bye(s *proxy.Session, cause proxy.Cause) string {
	if refusals[cause] == "" {
		return ""
	}
	return refusals[cause] + " (session " + s.ID() + ")\r\n"
}
