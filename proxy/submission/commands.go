package submission

import (
	"encoding/base64"
	"errors"

	"mailmux/proxy"
	"mailmux/proxy/auth"
	"mailmux/proxy/smtpwire"
	"mailmux/proxy/wire"
	"mailmux/proxy/xclient"
)

// command is a verb: in which states it may come, and what it does. It parses its arguments, then acts. A verb that logs
// in returns credentials.
type command struct {
	in  state
	run func(*session, []byte) (*auth.Credentials, error)
}

var commands = map[string]command{
	"EHLO":     {connected | introduced, (*session).ehlo},          // RFC 5321 section 4.1.1.1
	"HELO":     {connected | introduced, (*session).hello},         // RFC 5321 section 4.1.1.1
	"STARTTLS": {connected | introduced, (*session).startTLS},      // RFC 3207 section 4
	"AUTH":     {introduced, (*session).authenticateBy},            // RFC 4954 section 4
	"XCLIENT":  {connected | introduced, (*session).xclient},       // XCLIENT_README
	"NOOP":     {connected | introduced, (*session).noop},          // RFC 5321 section 4.1.1.9
	"RSET":     {connected | introduced, (*session).noop},          // RFC 5321 section 4.1.1.5
	"HELP":     {connected | introduced, (*session).help},          // RFC 5321 section 4.1.1.8
	"QUIT":     {connected | introduced, (*session).quit},          // RFC 5321 section 4.1.1.10
	"BDAT":     {connected | introduced, (*session).chunkTooEarly}, // RFC 3030 section 2
	"MAIL":     {connected | introduced, (*session).tooEarly},      // RFC 5321 section 4.1.1.2
	"RCPT":     {connected | introduced, (*session).tooEarly},      // RFC 5321 section 4.1.1.3
	"DATA":     {connected | introduced, (*session).tooEarly},      // RFC 5321 section 4.1.1.4
	"VRFY":     {connected | introduced, (*session).tooEarly},      // RFC 5321 section 4.1.1.6
	"EXPN":     {connected | introduced, (*session).tooEarly},      // RFC 5321 section 4.1.1.7
	"ETRN":     {connected | introduced, (*session).tooEarly},      // RFC 1985
	"BURL":     {connected | introduced, (*session).tooEarly},      // RFC 4468
	"SEND":     {connected | introduced, (*session).tooEarly},      // RFC 821
	"SOML":     {connected | introduced, (*session).tooEarly},      // RFC 821
	"SAML":     {connected | introduced, (*session).tooEarly},      // RFC 821
	"TURN":     {connected | introduced, (*session).tooEarly},      // RFC 821
	"XFORWARD": {connected | introduced, (*session).tooEarly},      // XFORWARD_README
}

func (s *session) ehlo(args []byte) (*auth.Credentials, error) {
	if err := s.introduce(args); err != nil {
		return nil, err
	}
	s.showOffer()
	return nil, nil
}

func (s *session) hello(args []byte) (*auth.Credentials, error) {
	if err := s.introduce(args); err != nil {
		return nil, err
	}
	s.Client.Line("250 ", s.Hostname())
	return nil, nil
}

func (s *session) introduce(args []byte) error {
	name, ok := smtpwire.ParseHelo(args)
	if !ok {
		return errHelo
	}
	s.helo, s.state = name, introduced
	s.SetHelo(name)
	return nil
}

// startTLS forgets what was said in the clear (RFC 3207 section 4.2). Bytes behind the command are an attack, and the
// client is not led into a handshake then.
func (s *session) startTLS(args []byte) (*auth.Credentials, error) {
	switch {
	case len(args) > 0:
		return nil, errArguments
	case s.Secure():
		return nil, errHasTLS
	case !s.CanStartTLS():
		return nil, errNoTLS
	case s.Client.Buffered() > 0:
		return nil, wire.ErrInjected
	}
	s.Client.Line("220 2.0.0 Ready to start TLS")
	if err := s.StartTLS(); err != nil {
		return nil, err
	}
	s.state, s.helo, s.claim = connected, "", xclient.Claim{}
	return nil, nil
}

func (s *session) authenticateBy(args []byte) (*auth.Credentials, error) {
	if !s.PlainLogin() {
		return nil, s.refuse(proxy.ErrPlaintext)
	}
	mechanism, initial, err := parseAuth(args)
	if err != nil {
		return nil, err
	}
	creds, err := auth.Begin(s.Offer(), mechanism, initial, channel{s.Client})
	if err != nil && proxy.CauseOf(err) == proxy.CauseAuth {
		return nil, s.refuse(err)
	}
	return creds, err
}

// channel carries the messages of a SASL exchange with the client (RFC 4954 section 4). Its errors are the client's
// fault, also in the middle of the login on the backend.
type channel struct{ client *wire.Conn }

func (c channel) Challenge(challenge []byte) ([]byte, error) {
	c.client.Line("334 ", base64.StdEncoding.EncodeToString(challenge))
	line, err := c.client.ReadSecret()
	switch {
	case errors.Is(err, wire.ErrLineTooLong):
		return nil, proxy.ClientFault(errLongResponse)
	case err != nil:
		return nil, proxy.ClientFault(err)
	case len(line) == 1 && line[0] == '*':
		return nil, proxy.ClientFault(auth.ErrCancelled)
	}
	response, err := decode(line)
	if err != nil {
		return nil, proxy.ClientFault(err)
	}
	return response, nil
}

// xclient keeps what a trusted peer says of its client until the login. The session begins anew.
func (s *session) xclient(args []byte) (*auth.Credentials, error) {
	if !s.ForwardsIdentity() {
		return nil, errUntrusted
	}
	if err := s.claim.Add(string(args)); err != nil {
		return nil, errAttributes
	}
	s.state, s.helo = connected, ""
	s.greet()
	return nil, nil
}

// applyClaim hands the claim to the engine, which believes it or not.
func (s *session) applyClaim() {
	if !s.claim.Made() {
		return
	}
	if id := s.claim.Identity(); s.Believe(id) && id.Helo != "" {
		s.SetHelo(id.Helo)
	}
}

func (s *session) noop([]byte) (*auth.Credentials, error) {
	s.Client.Line("250 2.0.0 OK")
	return nil, nil
}

func (s *session) help([]byte) (*auth.Credentials, error) {
	s.Client.Line("214 2.0.0 EHLO, STARTTLS, AUTH: log in, and your mail server answers")
	return nil, nil
}

func (s *session) quit([]byte) (*auth.Credentials, error) {
	s.Client.Line("221 2.0.0 Bye")
	return nil, proxy.ErrLoggedOut
}

// tooEarly answers the commands that belong to the member (RFC 4954 section 6).
func (s *session) tooEarly([]byte) (*auth.Credentials, error) {
	if !s.PlainLogin() {
		return nil, errTLSFirst
	}
	return nil, errLogin
}

// chunkTooEarly reads what follows BDAT before it refuses: the client sends it without waiting for an answer, and its
// bytes are no commands (RFC 3030 section 2).
func (s *session) chunkTooEarly(args []byte) (*auth.Credentials, error) {
	size, ok := parseChunk(args)
	if !ok {
		_, err := s.tooEarly(nil)
		s.Client.Line(mistake(err))
		return nil, proxy.ErrBadCommands
	}
	for size > 0 {
		n := min(size, 4096)
		if _, err := s.Client.ReadN(n); err != nil {
			return nil, err
		}
		size -= n
	}
	return s.tooEarly(nil)
}
