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

// login is a SASL exchange with a member (RFC 4954 section 4), behind AUTH.
type login struct {
	conn     *wire.Conn
	exchange auth.Exchange
	held     []byte // the initial response, if it is the answer to the first challenge
}

// sayAuth says AUTH, with the initial response where that fits into the line.
func sayAuth(conn *wire.Conn, mechanisms []string, exchange auth.Exchange) (*login, error) {
	if mechanisms == nil {
		return nil, fmt.Errorf("backend offers no AUTH; does it want TLS (backend.tls)? %w", proxy.ErrProtocol)
	}
	mechanism, initial, err := exchange.Start()
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(mechanisms, func(offered string) bool { return strings.EqualFold(offered, mechanism) }) {
		return nil, fmt.Errorf("backend does not offer AUTH %s: %w", mechanism, proxy.ErrProtocol)
	}
	l := &login{conn: conn, exchange: exchange}
	const verb = "AUTH "
	switch size := len(verb) + len(mechanism) + 1 + base64.StdEncoding.EncodedLen(len(initial)); {
	case initial == nil, size > maxCommand:
		conn.Line(verb, mechanism)
		l.held = initial
	case len(initial) == 0:
		conn.Line(verb, mechanism, " =")
	default:
		conn.Secret("AUTH [redacted]", verb, mechanism, " ", base64.StdEncoding.EncodeToString(initial))
	}
	return l, nil
}

// converse runs the exchange to its end. The reply is the member's 235.
func (l *login) converse() (accepted smtpwire.Reply, err error) {
	for range maxChallenges {
		reply, err := smtpwire.ReadReply(l.conn)
		switch {
		case err != nil:
			return reply, failed("AUTH", err)
		case reply.Code == 235:
			return reply, nil
		case reply.Code != 334:
			return reply, refused(reply)
		}
		response, err := l.answer(reply.Text)
		if err != nil {
			return reply, err
		}
		l.conn.Secret("[redacted]", base64.StdEncoding.EncodeToString(response))
	}
	return smtpwire.Reply{}, fmt.Errorf("AUTH: %w: more than %d challenges", proxy.ErrProtocol, maxChallenges)
}

func (l *login) answer(text string) ([]byte, error) {
	if initial := l.held; initial != nil {
		l.held = nil
		return initial, nil
	}
	challenge, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("AUTH: %w: challenge: %w", proxy.ErrProtocol, err)
	}
	return l.exchange.Next(challenge)
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
