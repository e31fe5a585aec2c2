package sieve

import (
	"context"
	"strconv"
	"strings"

	"mailmux/proxy"
	"mailmux/proxy/auth"
)

// command is a verb and what it does before the login; nil when it has to wait until then. It parses its arguments, then
// acts. A verb that logs in returns credentials.
type command struct {
	run func(*session, context.Context, []token) (*auth.Credentials, error)
}

// commands, by section of RFC 5804.
var commands = map[string]command{
	"AUTHENTICATE": {(*session).authenticateBy}, // 2.1
	"STARTTLS":     {(*session).startTLS},       // 2.2
	"LOGOUT":       {(*session).logout},         // 2.3
	"CAPABILITY":   {(*session).capability},     // 2.4
	"NOOP":         {(*session).noop},           // 2.13
	"XCLIENT":      {(*session).xclient},        // Dovecot

	"HAVESPACE":      {}, // 2.5
	"PUTSCRIPT":      {}, // 2.6
	"LISTSCRIPTS":    {}, // 2.7
	"SETACTIVE":      {}, // 2.8
	"GETSCRIPT":      {}, // 2.9
	"DELETESCRIPT":   {}, // 2.10
	"RENAMESCRIPT":   {}, // 2.11
	"CHECKSCRIPT":    {}, // 2.12
	"UNAUTHENTICATE": {}, // 2.14.1
}

// authenticateBy runs AUTHENTICATE with or without an initial response.
func (s *session) authenticateBy(_ context.Context, args []token) (*auth.Credentials, error) {
	if len(args) < 1 || len(args) > 2 || args[0].kind > quoted || len(args) == 2 && args[1].kind != quoted {
		return nil, errArguments
	}
	if !s.PlainLogin() {
		return nil, s.refuse(proxy.ErrPlaintext)
	}
	var initial []byte
	if len(args) == 2 {
		var err error
		if initial, err = decode(args[1].text); err != nil {
			return nil, err
		}
	}
	creds, err := auth.Begin(s.Offer(), args[0].text, initial, channel{s})
	if err != nil && proxy.CauseOf(err) == proxy.CauseAuth {
		return nil, s.refuse(err)
	}
	return creds, err
}

// channel carries the messages of a SASL exchange with the client, as strings (RFC 5804 section 2.1). Its errors are the
// client's fault, also in the middle of the login on the backend.
type channel struct{ s *session }

func (c channel) Challenge(challenge []byte) ([]byte, error) {
	base64Line(c.s.Client, "", challenge, "")
	tokens, err := readTokens(c.s.Client, true)
	switch {
	case err == nil && len(tokens) == 1 && tokens[0].text == "*":
		err = auth.ErrCancelled
	case err == nil && (len(tokens) != 1 || tokens[0].kind != quoted):
		err = auth.ErrMalformed
	}
	if err != nil {
		return nil, proxy.ClientFault(err)
	}
	response, err := decode(tokens[0].text)
	if err != nil {
		return nil, proxy.ClientFault(err)
	}
	return response, nil
}

// startTLS shows the capabilities again afterwards: what was shown in the clear may not have been ours (RFC 5804 section
// 2.2).
func (s *session) startTLS(_ context.Context, args []token) (*auth.Credentials, error) {
	if len(args) > 0 {
		return nil, errArguments
	}
	if !s.CanStartTLS() {
		return nil, errNoTLS
	}
	s.Client.Line(`OK "Begin TLS negotiation now"`)
	if err := s.StartTLS(); err != nil {
		return nil, err
	}
	s.showCapabilities("TLS negotiation successful")
	return nil, nil
}

func (s *session) logout(_ context.Context, args []token) (*auth.Credentials, error) {
	if len(args) > 0 {
		return nil, errArguments
	}
	s.Client.Line(`OK "Logout completed"`)
	return nil, proxy.ErrLoggedOut
}

func (s *session) capability(_ context.Context, args []token) (*auth.Credentials, error) {
	if len(args) > 0 {
		return nil, errArguments
	}
	s.showCapabilities("Capability completed")
	return nil, nil
}

// noop gives the client's tag back as it came, by which the client finds where it is in the conversation.
func (s *session) noop(_ context.Context, args []token) (*auth.Credentials, error) {
	switch {
	case len(args) == 0:
		s.Client.Line(`OK "NOOP completed"`)
	case len(args) > 1 || args[0].kind != quoted:
		return nil, errArguments
	default:
		tag := args[0].text
		if len(tag) > maxQuoted || strings.ContainsAny(tag, "\x00\r\n\"\\") {
			s.Client.Line("OK (TAG {", strconv.Itoa(len(tag)), "}")
			s.Client.Raw(tag)
			s.Client.Line(`) "Done"`)
		} else {
			s.Client.Line(`OK (TAG "`, tag, `") "Done"`)
		}
	}
	return nil, nil
}

// xclient takes over what a believed peer says of its client. For others it is not an error: Dovecot's proxies send it to
// whoever offers it, and would end the session.
func (s *session) xclient(_ context.Context, args []token) (*auth.Credentials, error) {
	if !s.ForwardsIdentity() {
		s.Client.Line(`OK "Ignored"`)
		return nil, nil
	}
	words := make([]string, len(args))
	for i, a := range args {
		if a.kind != atom {
			return nil, errIdentity
		}
		words[i] = a.text
	}
	id, err := proxy.ParseAttributes(strings.Join(words, " "))
	if err != nil {
		return nil, errIdentity
	}
	s.Believe(id)
	s.Client.Line(`OK "Updated"`)
	return nil, nil
}
