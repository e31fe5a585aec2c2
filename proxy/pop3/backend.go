package pop3

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"mailmux/proxy"
	"mailmux/proxy/auth"
	"mailmux/proxy/wire"
)

// maxChallenges bounds what a member may ask in a SASL exchange. SCRAM, the longest one, needs two.
const maxChallenges = 16

// member is the conversation with a member during the login.
type member struct {
	*wire.Conn
	xclient bool   // XCLIENT went ahead
	utf8    bool   // UTF8 went ahead
	ahead   bool   // it reads commands ahead
	welcome string // its +OK to the login
}

// enter logs in on a member: greeting, STLS, who the client is, the credentials.
//
// A member that shows PIPELINING to the checks gets USER and PASS in one write (RFC 2449 section 6.6), XCLIENT before them;
// so does one that takes XCLIENT, which is a Dovecot or one of us. Others get PASS when they have answered USER.
func (s *session) enter(b *proxy.Backend) error {
	xclient, err := readGreeting(b.Conn)
	if err != nil {
		return err
	}
	if b.NeedTLS() {
		if err := startTLS(b.Conn, b.StartTLS); err != nil {
			return err
		}
	}
	// The greeting came in the clear, and STLS has no second one. To believe its [XCLIENT] is no risk: the member that
	// is told of the client has proved by now who it is.
	id, wanted := b.Identity()
	m := &member{Conn: b.Conn, xclient: xclient && wanted, utf8: s.utf8}
	m.ahead = m.xclient || b.Shows("PIPELINING")
	if m.xclient {
		m.Line("XCLIENT ", id.Attributes())
	}
	if m.utf8 {
		m.Line("UTF8")
	}
	if told, ok := b.Told(); ok {
		err = m.enterByPassword(told)
	} else {
		err = m.enterByExchange(b.Exchange(nil))
	}
	s.welcome = m.welcome
	return err
}

// readGreeting reads the member's first line, and whether it takes XCLIENT from us.
func readGreeting(c *wire.Conn) (xclient bool, err error) {
	ok, line, err := readReply(c)
	if err != nil {
		return false, fmt.Errorf("greeting: %w", err)
	}
	if !ok {
		return false, fmt.Errorf("greeting: %w: %.80q", proxy.ErrProtocol, line)
	}
	return bytes.HasPrefix(line, []byte("+OK [XCLIENT]")), nil
}

// startTLS asks for TLS and puts it under the conversation.
func startTLS(c *wire.Conn, upgrade func() error) error {
	c.Line("STLS")
	ok, line, err := readReply(c)
	if err != nil {
		return fmt.Errorf("STLS: %w", err)
	}
	if !ok {
		return fmt.Errorf("STLS: %w: %.80q; switch TLS to this host off, or on there", proxy.ErrProtocol, line)
	}
	return upgrade()
}

// readIntroduction reads the answers to what went ahead of the login. A member that does not want to know who the client
// is may do without; one that does not know UTF8 cannot serve a client that was promised it.
func (m *member) readIntroduction() error {
	if m.xclient {
		if _, _, err := readReply(m.Conn); err != nil {
			return fmt.Errorf("XCLIENT: %w", err)
		}
	}
	if m.utf8 {
		ok, line, err := readReply(m.Conn)
		if err != nil {
			return fmt.Errorf("UTF8: %w", err)
		}
		if !ok {
			return fmt.Errorf("UTF8: %w: %.80q", proxy.ErrProtocol, line)
		}
	}
	return nil
}

// enterByPassword logs in with USER and PASS (RFC 1939 section 7).
func (m *member) enterByPassword(told auth.Told) error {
	if strings.ContainsAny(told.User, "\x00\r\n") || strings.ContainsAny(told.Password, "\x00\r\n") {
		return proxy.ClientFault(errIllegal)
	}
	m.Line("USER ", told.User)
	if m.ahead {
		m.Secret("PASS [redacted]", "PASS ", told.Password)
	}
	if err := m.readIntroduction(); err != nil {
		return err
	}
	ok, line, err := readReply(m.Conn)
	if err != nil {
		return fmt.Errorf("USER: %w", err)
	}
	if !ok {
		return refusal(line)
	}
	if !m.ahead {
		m.Secret("PASS [redacted]", "PASS ", told.Password)
	}
	if ok, line, err = readReply(m.Conn); err != nil {
		return fmt.Errorf("PASS: %w", err)
	}
	return m.answered(ok, line)
}

// errIllegal: the directory names an account in a way that would end the line it stands in.
var errIllegal = errors.New("login name with a line break or NUL: mend the account's entry in the directory")

// enterByExchange logs in with AUTH (RFC 5034 section 4).
func (m *member) enterByExchange(exchange auth.Exchange) error {
	mechanism, initial, err := exchange.Start()
	if err != nil {
		return err
	}
	if err := m.readIntroduction(); err != nil {
		return err
	}
	text := base64.StdEncoding.EncodeToString(initial)
	if text == "" {
		text = "="
	}
	if initial != nil && len("AUTH ")+len(mechanism)+len(" ")+len(text) <= maxCommand {
		m.Secret("AUTH [redacted]", "AUTH ", mechanism, " ", text)
		initial = nil
	} else { // a longer one has to wait for the member to ask
		m.Line("AUTH ", mechanism)
	}
	for range maxChallenges {
		line, err := m.ReadLine()
		if err != nil {
			return fmt.Errorf("AUTH: %w", err)
		}
		challenge, asked := bytes.CutPrefix(line, []byte("+ "))
		if !asked && string(line) != "+" {
			ok, err := replyOf(line)
			if err != nil {
				return fmt.Errorf("AUTH: %w", err)
			}
			return m.answered(ok, line)
		}
		response := initial
		if initial = nil; response == nil {
			if response, err = respond(exchange, challenge, asked); err != nil {
				return err
			}
		}
		m.Secret("[redacted]", base64.StdEncoding.EncodeToString(response))
	}
	return fmt.Errorf("AUTH: %w: it asks on and on", proxy.ErrProtocol)
}

// respond finds the answer to a challenge, with the client's help if the mechanism is relayed.
func respond(exchange auth.Exchange, challenge []byte, asked bool) ([]byte, error) {
	message := []byte{}
	if asked {
		var err error
		if message, err = decode(challenge); err != nil {
			return nil, fmt.Errorf("AUTH: %w: a challenge that is no base64", proxy.ErrProtocol)
		}
	}
	return exchange.Next(message)
}

// answered takes the member's answer to the credentials. Its +OK line is kept for the client.
func (m *member) answered(ok bool, line []byte) error {
	if !ok {
		return refusal(line)
	}
	m.welcome = printable(line)
	return nil
}

// refusal sorts a -ERR to the credentials. No code, or AUTH, is a wrong password; what the member adds to that stays
// between it and us. Any other code is for the client to read, except one that would send it past us.
func refusal(line []byte) error {
	code := responseCode(bytes.TrimPrefix(line, []byte("-ERR ")))
	switch kind, _, _ := strings.Cut(strings.ToUpper(code), "/"); kind {
	case "", "AUTH":
		return proxy.ErrRejected
	case "REFERRAL":
		reply := &proxy.Reply{Text: refusals[proxy.CauseReply]}
		return fmt.Errorf("%w, for it refers to another server: %.80q", reply, line)
	}
	return &proxy.Reply{Text: printable(line)}
}

// readReply reads a line and whether it is +OK or -ERR.
func readReply(c *wire.Conn) (ok bool, line []byte, err error) {
	line, err = c.ReadLine()
	if err != nil {
		return false, nil, err
	}
	ok, err = replyOf(line)
	return ok, line, err
}

// replyOf says whether a line is +OK or -ERR (RFC 1939 section 3).
func replyOf(line []byte) (ok bool, err error) {
	switch indicator, _, _ := bytes.Cut(line, []byte{' '}); string(indicator) {
	case "+OK":
		return true, nil
	case "-ERR":
		return false, nil
	}
	return false, fmt.Errorf("%w: %.80q is neither +OK nor -ERR", proxy.ErrProtocol, line)
}
