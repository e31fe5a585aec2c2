package submission

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"mailmux/proxy"
	"mailmux/proxy/auth"
	"mailmux/proxy/smtpwire"
	"mailmux/proxy/wire"
)

// Bounds on the login on a member.
const (
	maxChallenges = 16  // of one SASL exchange
	maxCommand    = 510 // RFC 5321 section 4.5.3.1.4, without CRLF; longer initial responses wait for a challenge
)

// member is the login on one member.
type member struct {
	*proxy.Backend
	session    *session
	extensions smtpwire.Extensions
}

// enter logs in on a member: greeting, STARTTLS, identity, AUTH.
func (s *session) enter(b *proxy.Backend) error {
	m := &member{Backend: b, session: s}
	if err := expect(b.Conn, 220, "greeting"); err != nil {
		return err
	}
	if err := m.ehlo(s.Hostname()); err != nil {
		return err
	}
	if b.NeedTLS() {
		if err := m.startTLS(); err != nil {
			return err
		}
	}
	commands, name := m.introduction()
	if pipelines(m.extensions) {
		return m.loginAtOnce(commands, name)
	}
	return m.loginStepByStep(commands, name)
}

func (m *member) ehlo(name string) error {
	m.Conn.Line("EHLO ", name)
	return m.readExtensions()
}

// readExtensions reads the answer to EHLO. A server that knows no EHLO has no AUTH either, so HELO is not tried.
func (m *member) readExtensions() (err error) {
	m.extensions, err = readExtensions(m.Conn)
	return err
}

func readExtensions(c *wire.Conn) (smtpwire.Extensions, error) {
	reply, err := smtpwire.ReadReply(c)
	if err != nil {
		return nil, failed("EHLO", err)
	}
	if reply.Code != 250 {
		return nil, unexpected("EHLO", reply)
	}
	return reply.Extensions(), nil
}

// startTLS puts TLS under the leg and learns the extensions anew (RFC 3207 section 4.2).
func (m *member) startTLS() error {
	if err := askTLS(m.Conn, m.extensions); err != nil {
		return err
	}
	if err := m.StartTLS(); err != nil {
		return fmt.Errorf("STARTTLS: %w", err)
	}
	return m.ehlo(m.session.Hostname())
}

// askTLS says STARTTLS; the handshake is next.
func askTLS(c *wire.Conn, extensions smtpwire.Extensions) error {
	if _, ok := extensions.Find("STARTTLS"); !ok {
		return fmt.Errorf("backend does not offer STARTTLS, which backend.tls wants: %w", proxy.ErrProtocol)
	}
	c.Line("STARTTLS")
	return expect(c, 220, "STARTTLS")
}

// introduction is the XCLIENT commands that the member is to be sent, and the name for the EHLO behind them.
func (m *member) introduction() (commands []string, name string) {
	advertised, ok := m.extensions.Find("XCLIENT")
	if !ok {
		return nil, ""
	}
	id, ok := m.Identity()
	if !ok {
		return nil, ""
	}
	name = id.Helo
	if !forwardable(name) {
		name = m.session.Hostname()
	}
	return introduction(advertised, id), name
}

// pipelines says whether the member takes XCLIENT, EHLO and AUTH in one write. Only Dovecot and our own kind list SESSION.
// Without AUTH in the first list it is the second one that counts.
func pipelines(extensions smtpwire.Extensions) bool {
	attributes, _ := extensions.Find("XCLIENT")
	return slices.Contains(strings.Fields(attributes), "SESSION") && extensions.Mechanisms() != nil
}

func (m *member) loginStepByStep(commands []string, name string) error {
	for _, command := range commands {
		m.Conn.Line(command)
		if err := expect(m.Conn, 220, "XCLIENT"); err != nil {
			return err
		}
	}
	if len(commands) > 0 {
		if err := m.ehlo(name); err != nil {
			return err
		}
	}
	exchange, held, err := m.sayAuth()
	if err != nil {
		return err
	}
	return m.converse(exchange, held)
}

func (m *member) loginAtOnce(commands []string, name string) error {
	for _, command := range commands {
		m.Conn.Line(command)
	}
	if len(commands) > 0 {
		m.Conn.Line("EHLO ", name)
	}
	exchange, held, err := m.sayAuth()
	if err != nil {
		return err
	}
	for range commands {
		if err := expect(m.Conn, 220, "XCLIENT"); err != nil {
			return err
		}
	}
	if len(commands) > 0 {
		if err := m.readExtensions(); err != nil {
			return err
		}
	}
	return m.converse(exchange, held)
}

// sayAuth says AUTH, with the initial response where that fits into the line. Otherwise it is held back as the answer to
// the first challenge (RFC 4954 section 4).
func (m *member) sayAuth() (exchange auth.Exchange, held []byte, err error) {
	mechanisms := m.extensions.Mechanisms()
	if mechanisms == nil {
		return nil, nil, fmt.Errorf("backend offers no AUTH; does it want TLS (backend.tls)? %w", proxy.ErrProtocol)
	}
	exchange = m.Exchange(mechanisms)
	mechanism, initial, err := exchange.Start()
	if err != nil {
		return nil, nil, err
	}
	if !slices.ContainsFunc(mechanisms, func(offered string) bool { return strings.EqualFold(offered, mechanism) }) {
		return nil, nil, fmt.Errorf("backend does not offer AUTH %s: %w", mechanism, proxy.ErrProtocol)
	}
	const verb = "AUTH "
	switch size := len(verb) + len(mechanism) + 1 + base64.StdEncoding.EncodedLen(len(initial)); {
	case initial == nil, size > maxCommand:
		m.Conn.Line(verb, mechanism)
		return exchange, initial, nil
	case len(initial) == 0:
		m.Conn.Line(verb, mechanism, " =")
	default:
		m.Conn.Secret("AUTH [redacted]", verb, mechanism, " ", base64.StdEncoding.EncodeToString(initial))
	}
	return exchange, nil, nil
}

// converse runs the exchange behind AUTH to its end.
func (m *member) converse(exchange auth.Exchange, held []byte) error {
	for range maxChallenges {
		reply, err := smtpwire.ReadReply(m.Conn)
		switch {
		case err != nil:
			return failed("AUTH", err)
		case reply.Code == 235:
			m.session.accepted = reply.Wire()
			m.Learn(offerable(m.extensions))
			return nil
		case reply.Code != 334:
			return refused(reply)
		}
		response := held
		if held == nil {
			if response, err = answer(exchange, reply.Text); err != nil {
				return err
			}
		}
		held = nil
		m.Conn.Secret("[redacted]", base64.StdEncoding.EncodeToString(response))
	}
	return fmt.Errorf("AUTH: %w: more than %d challenges", proxy.ErrProtocol, maxChallenges)
}

func answer(exchange auth.Exchange, text string) ([]byte, error) {
	challenge, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("AUTH: %w: challenge: %w", proxy.ErrProtocol, err)
	}
	return exchange.Next(challenge)
}

// refused sorts the member's answer to AUTH. Its wrong-password text is for the log alone. What it says of its own goes to
// the client as it is, but for codes that complain of us: of our grammar, of the leg's missing TLS, or that it closes.
func refused(reply smtpwire.Reply) error {
	switch {
	case reply.Code == 535:
		return fmt.Errorf("%w: %s", proxy.ErrRejected, reply)
	case reply.Class() < 4, reply.Code == 421, 500 <= reply.Code && reply.Code <= 504, reply.Code == 530, reply.Code == 538:
		return unexpected("AUTH", reply)
	}
	return &proxy.Reply{Text: reply.Wire()}
}

// expect reads a reply that has to have this code.
func expect(c *wire.Conn, code int, command string) error {
	reply, err := smtpwire.ReadReply(c)
	if err != nil {
		return failed(command, err)
	}
	if reply.Code != code {
		return unexpected(command, reply)
	}
	return nil
}

func failed(command string, err error) error {
	return fmt.Errorf("read the backend's answer to %s: %w", command, err)
}

func unexpected(command string, reply smtpwire.Reply) error {
	return fmt.Errorf("backend answers %s with %q: %w", command, reply, proxy.ErrProtocol)
}
