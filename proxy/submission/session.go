package submission

import (
	"context"
	"errors"

	"mailmux/proxy"
	"mailmux/proxy/auth"
	"mailmux/proxy/wire"
	"mailmux/proxy/xclient"
)

// Handler speaks submission for all sessions of a server, and checks members. It holds no session's state.
type Handler struct {
	Prober

	common proxy.Common[[]string] // the extensions offered before the login
}

var _ proxy.Handler = (*Handler)(nil)

// New makes a handler. There is nothing to configure.
func New() *Handler { return &Handler{} }

// state is where a session stands before the login.
type state uint8

const (
	connected  state = 1 << iota // before EHLO
	introduced                   // after EHLO or HELO
)

// session is one client before the hand-over.
type session struct {
	*proxy.Session
	handler *Handler

	state    state
	started  bool          // a known command has come in
	helo     string        // what the client calls itself
	claim    xclient.Claim // what a trusted peer says of its client
	accepted string        // the member's 235, for the client
}

// Serve runs one session: greet, authenticate, log in on the home backend, hand over. The engine closes both connections
// when it returns.
func (h *Handler) Serve(ctx context.Context, ps *proxy.Session) error {
	s := &session{Session: ps, handler: h, state: connected}
	s.greet()
	for {
		creds, err := s.authenticate() // the only loop over commands
		if err != nil {
			return s.end(err)
		}
		s.applyClaim()
		err = s.Login(ctx, creds, s.enter)
		if err == nil {
			s.Client.Line(s.accepted)
			return s.HandOver()
		}
		if err := s.refuse(err); err != nil {
			return err
		}
	}
}

func (s *session) greet() {
	s.Client.Line("220 ", s.Hostname(), " ESMTP ready")
}

// authenticate runs commands until one says who the client is. An error ends the session.
func (s *session) authenticate() (*auth.Credentials, error) {
	for {
		line, err := s.Client.ReadLine()
		if err != nil {
			return nil, err
		}
		creds, err := s.run(line)
		if err != nil {
			err = s.complain(err)
		}
		if err != nil || creds != nil {
			return creds, err
		}
	}
}

// run does what one line says. A complaint is the client's mistake; other errors end the session.
func (s *session) run(line []byte) (*auth.Credentials, error) {
	verb, args := split(line)
	command, ok := lookup(verb)
	if !ok {
		return nil, errUnknown
	}
	s.started = true
	if command.in&s.state == 0 {
		return nil, errEHLOFirst
	}
	return command.run(s, args)
}

// complain tells the client of a mistake of its own, and returns nil if it may go on. What is no such mistake is returned
// as it is. A foreign first word gets no answer of its own: it is likely a browser, which may be led to believe what it
// reads.
func (s *session) complain(err error) error {
	text := mistake(err)
	if text == "" {
		return err
	}
	if first := err == errUnknown && !s.started; first {
		return s.BadCommand(first)
	}
	s.Client.Line(text)
	return s.BadCommand(false)
}

// refuse tells the client why it is not logged in, and returns nil if it may try again.
func (s *session) refuse(err error) error {
	var reply *proxy.Reply
	cause := proxy.CauseOf(err)
	switch text := mistake(err); {
	case text != "":
		s.Client.Line(text)
	case errors.As(err, &reply):
		s.Client.Line(reply.Text)
	case refusals[cause] == "": // told by Bye, or nobody is left
		return s.end(err)
	default:
		s.Client.Line(refusals[cause], " (session ", s.ID(), ")")
	}
	if s.BadCommand(false) != nil {
		s.Client.Raw(s.handler.Bye(s.Session, proxy.CauseGarbage))
		return err // it says more about the end than that there were many
	}
	return nil
}

// end answers a line that is too long. The engine has the last word, by Bye.
func (s *session) end(err error) error {
	switch {
	case errors.Is(err, errLongResponse):
		s.Client.Line("500 5.5.6 Authentication exchange line is too long") // RFC 4954 section 4
	case errors.Is(err, wire.ErrLineTooLong):
		s.Client.Line("500 5.5.2 Line too long")
	}
	return err
}

// Bye is the engine's last word to a client that is not logged in (RFC 5321 section 3.8).
func (h *Handler) Bye(s *proxy.Session, cause proxy.Cause) string {
	if byes[cause] == "" {
		return ""
	}
	return byes[cause] + " (session " + s.ID() + ")\r\n"
}
