package submission

import (
	"fmt"
	"strings"

	"mailmux/proxy"
	"mailmux/proxy/smtpwire"
	"mailmux/proxy/wire"
	"mailmux/proxy/xclient"
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
	if !smtpwire.Forwardable(name) {
		name = m.session.Hostname()
	}
	return xclient.Introduction(advertised, false, id), name
}

// pipelines says whether the member takes XCLIENT, EHLO and AUTH in one write. Only Dovecot and our own kind list SESSION.
// Without AUTH in the first list it is the second one that counts.
func pipelines(extensions smtpwire.Extensions) bool {
	attributes, _ := extensions.Find("XCLIENT")
	for attribute := range strings.FieldsSeq(attributes) {
		if attribute == "SESSION" {
			return extensions.Mechanisms() != nil
		}
	}
	return false
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
	login, err := m.sayAuth()
	if err != nil {
		return err
	}
	return m.finish(login)
}

func (m *member) loginAtOnce(commands []string, name string) error {
	for _, command := range commands {
		m.Conn.Line(command)
	}
	if len(commands) > 0 {
		m.Conn.Line("EHLO ", name)
	}
	login, err := m.sayAuth()
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
	return m.finish(login)
}

func (m *member) sayAuth() (*login, error) {
	mechanisms := m.extensions.Mechanisms()
	return sayAuth(m.Conn, mechanisms, m.Exchange(mechanisms))
}

// finish runs the login to its end and keeps what the member says to it, for the client and for clients to come.
func (m *member) finish(l *login) error {
	accepted, err := l.converse()
	if err != nil {
		return err
	}
	m.session.accepted = accepted.Wire()
	m.Learn(offerable(m.extensions))
	return nil
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
