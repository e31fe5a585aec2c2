package pop3

import (
	"bytes"
	"context"
	"encoding/base64"
	"slices"
	"strings"

	"mailmux/proxy"
	"mailmux/proxy/auth"
)

// command is a verb: in which states it may come, and what it does. It parses its argument, then acts. A verb that logs
// in returns credentials.
type command struct {
	in    state
	long  bool  // its line may be longer than maxCommand
	early error // what it is answered in another state
	run   func(*session, context.Context, []byte) (*auth.Credentials, error)
}

var commands = map[string]command{
	"CAPA":    {in: authorization | named, run: (*session).capa},                       // RFC 2449 section 5
	"STLS":    {in: authorization | named, run: (*session).stls},                       // RFC 2595 section 4
	"USER":    {in: authorization | named, long: true, run: (*session).nameUser},       // RFC 1939 section 7
	"PASS":    {in: named, long: true, early: errUserFirst, run: (*session).pass},      // RFC 1939 section 7
	"APOP":    {in: authorization | named, run: (*session).apop},                       // RFC 1939 section 7
	"AUTH":    {in: authorization | named, long: true, run: (*session).authenticateBy}, // RFC 5034 section 4
	"UTF8":    {in: authorization | named, run: (*session).enableUTF8},                 // RFC 6856 section 2
	"LANG":    {in: authorization | named, run: (*session).lang},                       // RFC 6856 section 3
	"XCLIENT": {in: authorization | named, long: true, run: (*session).xclient},        // Dovecot
	"NOOP":    {in: authorization | named, run: (*session).noop},                       // RFC 1939 section 5
	"QUIT":    {in: authorization | named, run: (*session).quit},                       // RFC 1939 section 4

	// The commands of the transaction state (RFC 1939 sections 5 and 7, RFC 2449).
	"STAT": {early: errLogin},
	"LIST": {early: errLogin},
	"RETR": {early: errLogin},
	"DELE": {early: errLogin},
	"RSET": {early: errLogin},
	"TOP":  {early: errLogin},
	"UIDL": {early: errLogin},
}

func (s *session) capa(_ context.Context, arg []byte) (*auth.Credentials, error) {
	if len(arg) > 0 {
		return nil, errArguments
	}
	c := s.Client
	c.Line("+OK Capability list follows")
	for _, name := range s.offered() {
		c.Line(name)
	}
	if s.CanStartTLS() {
		c.Line("STLS")
	}
	if s.PlainLogin() {
		c.Line("USER")
	}
	if mechanisms := s.Mechanisms(); len(mechanisms) > 0 {
		c.Line("SASL ", strings.Join(mechanisms, " "))
	}
	c.Line(".")
	return nil, nil
}

func (s *session) stls(_ context.Context, arg []byte) (*auth.Credentials, error) {
	if len(arg) > 0 {
		return nil, errArguments
	}
	if !s.CanStartTLS() {
		return nil, errNoTLS
	}
	s.Client.Line("+OK Begin TLS negotiation")
	if err := s.StartTLS(); err != nil {
		return nil, err
	}
	s.state, s.user, s.utf8 = authorization, "", false // what was said in the clear is forgotten (RFC 2595 section 4)
	return nil, nil
}

// nameUser answers alike for every name: whether there is such a user is told by nobody.
func (s *session) nameUser(_ context.Context, arg []byte) (*auth.Credentials, error) {
	if !s.PlainLogin() {
		return nil, s.plaintext()
	}
	if len(arg) == 0 {
		return nil, errArguments
	}
	s.user, s.state = string(arg), named
	s.Client.Line("+OK")
	return nil, nil
}

func (s *session) pass(_ context.Context, arg []byte) (*auth.Credentials, error) {
	if len(arg) == 0 {
		return nil, errArguments
	}
	creds, err := auth.Password(s.user, string(arg))
	if err != nil {
		return nil, s.refuse(err)
	}
	return creds, nil
}

// plaintext refuses a login in the clear. The client may go on with STLS.
func (s *session) plaintext() error { return s.refuse(proxy.ErrPlaintext) }

func (s *session) apop(context.Context, []byte) (*auth.Credentials, error) {
	return nil, errApop
}

// authenticateBy runs AUTH, or lists the mechanisms if none is named.
func (s *session) authenticateBy(_ context.Context, arg []byte) (*auth.Credentials, error) {
	if len(arg) == 0 {
		s.Client.Line("+OK Mechanisms follow")
		for _, name := range s.Mechanisms() {
			s.Client.Line(name)
		}
		s.Client.Line(".")
		return nil, nil
	}
	if !s.PlainLogin() {
		return nil, s.plaintext()
	}
	mechanism, text, given := bytes.Cut(arg, []byte{' '})
	var initial []byte
	if given {
		var err error
		if initial, err = decode(text); err != nil {
			return nil, err
		}
	}
	creds, err := auth.Begin(s.Offer(), string(mechanism), initial, channel{s})
	if err != nil && proxy.CauseOf(err) == proxy.CauseAuth {
		return nil, s.refuse(err)
	}
	return creds, err
}

// channel carries the messages of a SASL exchange with the client (RFC 5034 section 4). Its errors are the client's
// fault, also in the middle of the login on the backend.
type channel struct{ s *session }

func (c channel) Challenge(challenge []byte) ([]byte, error) {
	c.s.Client.Line("+ ", base64.StdEncoding.EncodeToString(challenge))
	line, err := c.s.Client.ReadSecret()
	if err != nil {
		return nil, proxy.ClientFault(err)
	}
	if len(line) == 1 && line[0] == '*' {
		return nil, proxy.ClientFault(auth.ErrCancelled)
	}
	response, err := decode(line)
	if err != nil {
		return nil, proxy.ClientFault(err)
	}
	return response, nil
}

// enableUTF8 remembers the wish for the member. It is granted only where every member can, since the client will not ask
// again after the login.
func (s *session) enableUTF8(_ context.Context, arg []byte) (*auth.Credentials, error) {
	if len(arg) > 0 {
		return nil, errArguments
	}
	if !slices.Contains(s.offered(), "UTF8") {
		return nil, errNoUTF8
	}
	s.utf8 = true
	s.Client.Line("+OK UTF8 enabled")
	return nil, nil
}

// lang knows the default language alone, which every server has to know.
func (s *session) lang(_ context.Context, arg []byte) (*auth.Credentials, error) {
	switch {
	case len(arg) == 0:
		s.Client.Line("+OK Languages follow")
		s.Client.Line("i-default Default language")
		s.Client.Line(".")
	case string(arg) == "*", bytes.EqualFold(arg, []byte("i-default")):
		s.Client.Line("+OK i-default Default language")
	default:
		return nil, errLanguage
	}
	return nil, nil
}

// xclient takes over what a believed peer says of its client. For others it is not an error: Dovecot's proxies send it to
// whoever offers it, and would end the session.
func (s *session) xclient(_ context.Context, arg []byte) (*auth.Credentials, error) {
	if !s.ForwardsIdentity() {
		s.Client.Line("+OK Ignored")
		return nil, nil
	}
	id, err := proxy.ParseAttributes(string(arg))
	if err != nil {
		return nil, errIdentity
	}
	s.Believe(id)
	s.Client.Line("+OK Updated")
	return nil, nil
}

func (s *session) noop(context.Context, []byte) (*auth.Credentials, error) {
	s.Client.Line("+OK")
	return nil, nil
}

func (s *session) quit(context.Context, []byte) (*auth.Credentials, error) {
	s.Client.Line("+OK Bye")
	return nil, proxy.ErrLoggedOut
}
