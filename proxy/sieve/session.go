package sieve

import (
	"context"
	"errors"

	"mailmux/proxy"
	"mailmux/proxy/auth"
)

// Handler speaks ManageSieve for all sessions of a server. It holds no session's state.
type Handler struct {
	common proxy.Common[[]string] // lines of the capability listing
}

var _ proxy.Handler = (*Handler)(nil)

// New makes a handler. There is nothing to configure.
func New() *Handler { return &Handler{} }

// session is one client before the hand-over. There is but one state before the login (RFC 5804 section 1.1): a command
// is allowed in it or waits for the member.
type session struct {
	*proxy.Session
	handler *Handler

	started bool   // a command that makes sense has come in
	welcome string // the member's OK, for the client
}

// Serve runs one session: greet, authenticate, log in on the home backend, hand over. The engine closes both connections
// when it returns.
func (h *Handler) Serve(ctx context.Context, ps *proxy.Session) error {
	s := &session{Session: ps, handler: h}
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

// greet shows the capabilities, which is how a server greets (RFC 5804 section 1.7).
func (s *session) greet() {
	s.showCapabilities(s.Hostname() + " ready")
}

// authenticate runs commands until one says who the client is. An error ends the session.
func (s *session) authenticate(ctx context.Context) (*auth.Credentials, error) {
	for {
		creds, err := s.run(ctx)
		if err != nil {
			err = s.complain(err)
		}
		if err != nil || creds != nil {
			return creds, err
		}
	}
}

// run does what one command says. A complaint is the client's mistake; other errors end the session.
func (s *session) run(ctx context.Context) (*auth.Credentials, error) {
	tokens, err := readTokens(s.Client, false)
	switch {
	case err != nil:
		return nil, err
	case len(tokens) == 0 || tokens[0].kind != atom:
		return nil, errUnknown
	}
	command, ok := lookup(tokens[0].text)
	if !ok {
		return nil, errUnknown
	}
	s.started = true
	if command.run == nil {
		return nil, errLogin
	}
	return command.run(s, ctx, tokens[1:])
}

// complain tells the client of a mistake of its own, and returns nil if it may go on. What is no such mistake is returned
// as it is. Behind the last mistake, Bye speaks.
func (s *session) complain(err error) error {
	text := mistake(err)
	if text == "" {
		return err
	}
	if err := s.BadCommand((err == errUnknown || err == errSyntax) && !s.started); err != nil {
		return err
	}
	s.Client.Line(`NO "`, text, `"`)
	return nil
}

// refuse tells the client why it is not logged in, and returns nil if it may try again.
func (s *session) refuse(err error) error {
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
		s.Client.Line(refusal("NO", cause, s.ID()))
	}
	if s.BadCommand(false) != nil { // a server that closes says BYE (RFC 5804 section 1.2)
		s.Client.Line(refusal("BYE", proxy.CauseGarbage, s.ID()))
		return err // it says more about the end of the session than that there were many
	}
	return nil
}

// Bye is the engine's last word to a client that is not logged in.
func (h *Handler) Bye(s *proxy.Session, cause proxy.Cause) string {
	line := refusal("BYE", cause, s.ID())
	if line == "" {
		return ""
	}
	return line + "\r\n"
}
