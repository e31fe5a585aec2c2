package sieve

import (
	"errors"
	"fmt"
	"strings"

	"mailmux/proxy"
	"mailmux/proxy/auth"
	"mailmux/proxy/wire"
)

// maxChallenges bounds what a member may ask in a SASL exchange. SCRAM, the longest one, needs two.
const maxChallenges = 16

// enter logs in on a member: its listing, STARTTLS, who the client is, the credentials. The last two go in one write if
// the mechanism is PLAIN. A challenge to another one would stay in the member's kernel until the answer to XCLIENT, a
// packet of its own, is acknowledged, for 40 ms (RFC 896, RFC 1122 section 4.2.3.2); what we send meanwhile does that.
func (s *session) enter(b *proxy.Backend) error {
	shown, err := readListing(b.Conn)
	if err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	if b.NeedTLS() {
		if shown, err = startTLS(b.Conn, shown, b.StartTLS); err != nil {
			return err
		}
	}
	b.Learn(shown.lines)
	exchange := b.Exchange(shown.sasl)
	mechanism, initial, err := exchange.Start()
	if err != nil {
		return err
	}
	id, wanted := b.Identity()
	introduced := wanted && shown.xclient
	if introduced {
		b.Conn.Line("XCLIENT ", id.Attributes())
	}
	if introduced && mechanism != auth.Plain {
		if err := readIntroduction(b.Conn); err != nil {
			return err
		}
		introduced = false
	}
	begin(b.Conn, mechanism, initial)
	if introduced {
		if err := readIntroduction(b.Conn); err != nil {
			return err
		}
	}
	answer, err := converse(b.Conn, exchange)
	if err != nil {
		return err
	}
	return s.answered(answer)
}

// readIntroduction reads the answer to XCLIENT. A member that does not want to know who the client is may do without.
func readIntroduction(c *wire.Conn) error {
	if _, err := readResponse(c); err != nil {
		return fmt.Errorf("XCLIENT: %w", err)
	}
	return nil
}

// startTLS asks for TLS, puts it under the conversation, and reads the listing that follows: what was shown before is
// forgotten (RFC 5804 section 2.2).
func startTLS(c *wire.Conn, shown *listing, upgrade func() error) (*listing, error) {
	if !shown.starttls {
		return nil, fmt.Errorf("%w: STARTTLS is not offered; switch TLS to this host off, or on there", proxy.ErrProtocol)
	}
	c.Line("STARTTLS")
	r, err := readResponse(c)
	if err != nil {
		return nil, fmt.Errorf("STARTTLS: %w", err)
	}
	if r.status != "OK" {
		return nil, fmt.Errorf("STARTTLS: %w: %s", proxy.ErrProtocol, r.brief())
	}
	if err := upgrade(); err != nil {
		return nil, err
	}
	if shown, err = readListing(c); err != nil {
		return nil, fmt.Errorf("capabilities after STARTTLS: %w", err)
	}
	return shown, nil
}

// begin states the mechanism, with the initial response if there is one.
func begin(c *wire.Conn, mechanism string, initial []byte) {
	words := `AUTHENTICATE "` + mechanism + `"`
	if initial == nil {
		c.Line(words)
		return
	}
	base64Line(c, words+" ", initial, "+")
}

// converse answers the member's challenges until it says OK, NO or BYE.
func converse(c *wire.Conn, exchange auth.Exchange) (*response, error) {
	for range maxChallenges {
		tokens, err := readTokensOf(c)
		if err != nil {
			return nil, fmt.Errorf("AUTHENTICATE: %w", err)
		}
		if len(tokens) != 1 || tokens[0].kind != quoted {
			r, err := responseOf(tokens)
			if err != nil {
				return nil, fmt.Errorf("AUTHENTICATE: %w", err)
			}
			return r, nil
		}
		challenge, err := decode(tokens[0].text)
		if err != nil {
			return nil, fmt.Errorf("AUTHENTICATE: %w: a challenge that is no base64", proxy.ErrProtocol)
		}
		response, err := exchange.Next(challenge)
		if err != nil {
			return nil, err
		}
		base64Line(c, "", response, "+")
	}
	return nil, fmt.Errorf("AUTHENTICATE: %w: it asks on and on", proxy.ErrProtocol)
}

// answered sorts the member's answer to the credentials. Its OK is kept for the client. A NO without a code, or with one
// that begins with AUTH, is a wrong password; what the member adds to that stays between it and us. Any other code is
// for the client to read, except one that would send it past us.
func (s *session) answered(r *response) error {
	switch {
	case r.status == "OK":
		s.welcome = r.line()
		return nil
	case r.code == "REFERRAL":
		words := refusals[proxy.CauseReply]
		reply := &proxy.Reply{Text: "NO " + words.code + quote(words.text)}
		return fmt.Errorf("%w, for it refers to another server: %s", reply, r.brief())
	case r.status == "BYE":
		return fmt.Errorf("login: %w: %s", errBye, r.brief())
	case r.code == "" || strings.HasPrefix(r.code, "AUTH"):
		return proxy.ErrRejected
	}
	return &proxy.Reply{Text: r.line()}
}

// errBye: the member ended the conversation instead of an answer.
var errBye = errors.New("the member hangs up")
