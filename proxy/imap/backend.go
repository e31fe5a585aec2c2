package imap

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"mailmux/proxy"
	"mailmux/proxy/auth"
)

// Bounds of a login, beside those of reply.go.
const (
	maxRounds  = 16      // of a SASL exchange
	maxInitial = 6 << 10 // an initial response on the command's own line, in base64 (RFC 2683 section 3.2.1.5)
)

// The tags of our commands.
const (
	tagTLS    = "S" // STARTTLS
	tagAsk    = "C" // CAPABILITY before the login
	tagID     = "I" // ID
	tagLogin  = "L" // LOGIN or AUTHENTICATE
	tagListed = "Q" // CAPABILITY after the login
)

// welcome is what the backend said when it accepted.
type welcome struct {
	lines        []string // untagged, for the client
	capabilities string   // of the member, for its client; "" if it did not say
	text         string   // of the OK, with its response code unless that was CAPABILITY
}

// enter says the words of a login to a backend (proxy.Enter). It may be called for several backends, one after the other.
func (s *session) enter(b *proxy.Backend) error {
	l := leg{c: b.Conn}
	if err := l.greeting(); err != nil {
		return err
	}
	if b.NeedTLS() {
		if err := l.startTLS(b.StartTLS); err != nil {
			return err
		}
	}
	if !l.can.known {
		if err := l.ask(); err != nil {
			return err
		}
	}
	if id, forward := b.Identity(); forward && l.can.id {
		l.c.Line(tagID, " ID ", identification(s.id, &id))
		l.owesID = true
	}
	text, err := l.login(b)
	if err != nil {
		return err
	}
	return s.accepted(&l, text)
}

// startTLS encrypts the leg. Nothing else is said before that, and what was heard before it is forgotten.
func (l *leg) startTLS(upgrade func() error) error {
	l.doing = "STARTTLS"
	if l.can.known && !l.can.startTLS {
		return fmt.Errorf("%w: the member does not offer STARTTLS", proxy.ErrProtocol)
	}
	l.c.Line(tagTLS, " STARTTLS")
	a, err := l.answer(tagTLS)
	if err != nil {
		return err
	}
	if a.kind != isOK {
		return l.nonsense(a.text)
	}
	l.can = abilities{}
	return upgrade()
}

// ask asks for the capabilities before the login.
func (l *leg) ask() error {
	l.doing = "CAPABILITY"
	l.c.Line(tagAsk, " CAPABILITY")
	a, err := l.answer(tagAsk)
	if err == nil && (a.kind != isOK || !l.can.known) {
		return l.nonsense(a.text)
	}
	return err
}

// claim is what is to be stated to a backend: a *proxy.Backend, or the user of a check. Its methods are those of the
// former.
type claim interface {
	Told() (told auth.Told, ok bool)
	Exchange(offered []string) auth.Exchange
}

// login states the credentials, and returns the text of the backend's OK, valid until the next read.
func (l *leg) login(c claim) ([]byte, error) {
	l.doing = "the login"
	told, words := c.Told()
	if words && !l.can.loginDisabled {
		return l.loginCommand(told)
	}
	exchange := c.Exchange(l.can.offers())
	mechanism, initial, err := exchange.Start()
	if err != nil {
		return nil, err
	}
	if !has(l.can.offers(), mechanism) {
		return nil, fmt.Errorf("%w: the member does not offer AUTH=%s (does it want TLS first?)", proxy.ErrProtocol, mechanism)
	}
	return l.authenticate(exchange, mechanism, initial)
}

// loginCommand says LOGIN: in one line of quoted strings, or with literals. A backend without LITERAL+ is asked before
// each of them.
func (l *leg) loginCommand(told auth.Told) ([]byte, error) {
	var c loginLine
	if !c.begin(told.User, told.Password, l.can.literals) {
		return nil, proxy.ClientFault(auth.ErrCredentials)
	}
	l.secret = true
	for {
		line, last := c.next()
		l.c.Secret(tagLogin+" LOGIN [redacted]", line)
		a, err := l.answer(tagLogin)
		if err != nil {
			return nil, err
		}
		if a.kind != isMore {
			return l.verdict(a)
		}
		if last {
			return nil, l.nonsense(nil)
		}
	}
}

// loginLine is a LOGIN command, cut where a literal has to be asked for.
type loginLine struct {
	text []byte
	cuts []int // behind the CRLF of each head
}

// begin composes the command. It is false when a string cannot be said in any way.
func (c *loginLine) begin(user, password string, literals bool) bool {
	c.text = append(make([]byte, 0, 128), tagLogin+" LOGIN "...)
	if !c.astring(user, literals) {
		return false
	}
	c.text = append(c.text, ' ')
	return c.astring(password, literals)
}

// astring adds a quoted string, or a literal if it holds characters beyond ASCII (RFC 3501 section 9: TEXT-CHAR).
func (c *loginLine) astring(s string, literals bool) bool {
	quotable := true
	for i := range len(s) {
		switch b := s[i]; {
		case b == 0, b == '\r', b == '\n': // they would end the line; nothing that holds them comes here
			return false
		case b >= 0x80:
			quotable = false
		}
	}
	if quotable {
		c.text = appendQuoted(c.text, s)
		return true
	}
	c.text = strconv.AppendInt(append(c.text, '{'), int64(len(s)), 10)
	if literals {
		c.text = append(c.text, "+}\r\n"...)
	} else {
		c.text = append(c.text, "}\r\n"...)
		c.cuts = append(c.cuts, len(c.text))
	}
	c.text = append(c.text, s...)
	return true
}

// next is the next part to be sent, without the CRLF at its end.
func (c *loginLine) next() (line string, last bool) {
	if len(c.cuts) == 0 {
		return string(c.text), true
	}
	cut := c.cuts[0]
	line = string(c.text[:cut-len("\r\n")])
	c.text, c.cuts = c.text[cut:], c.cuts[1:]
	for i := range c.cuts {
		c.cuts[i] -= cut
	}
	return line, false
}

// appendQuoted appends a quoted string.
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

// authenticate runs a SASL exchange (RFC 3501 section 6.2.2), with the initial response in the command if the backend
// takes it there (RFC 4959).
func (l *leg) authenticate(exchange auth.Exchange, mechanism string, initial []byte) ([]byte, error) {
	l.secret = true
	text := base64.StdEncoding.EncodeToString(initial)
	if initial != nil && text == "" {
		text = "="
	}
	if initial != nil && l.can.initial && len(text) <= maxInitial {
		l.c.Secret(tagLogin+" AUTHENTICATE [redacted]", tagLogin, " AUTHENTICATE ", mechanism, " ", text)
		initial = nil
	} else {
		l.c.Line(tagLogin, " AUTHENTICATE ", mechanism)
	}
	for range maxRounds {
		a, err := l.answer(tagLogin)
		if err != nil {
			return nil, err
		}
		if a.kind != isMore {
			return l.verdict(a)
		}
		response := initial
		if initial == nil {
			if response, err = l.respond(exchange, a.text); err != nil {
				return nil, err
			}
		}
		initial = nil
		l.c.Secret("[redacted]", base64.StdEncoding.EncodeToString(response))
	}
	return nil, fmt.Errorf("%w: the exchange does not end", proxy.ErrProtocol)
}

// respond passes a challenge to the exchange. If that has no answer, the backend is told so.
func (l *leg) respond(exchange auth.Exchange, text []byte) ([]byte, error) {
	challenge, err := decode(text)
	if err != nil {
		return nil, fmt.Errorf("%w: its challenge is not base64", proxy.ErrProtocol)
	}
	response, err := exchange.Next(challenge)
	if err != nil {
		l.c.Line("*")
		l.c.Flush() // the connection is closed next, so its error would say nothing new
	}
	return response, err
}

// identification is the argument of ID: what the client said of itself, and who it is.
func identification(own []pair, id *proxy.Identity) string {
	b := make([]byte, 0, 512)
	b = append(b, '(')
	field := func(key, value string) {
		if value != "" {
			b = appendID(append(appendID(b, key), ' '), value)
			b = append(b, ' ')
		}
	}
	for _, f := range own {
		if f.null {
			b = append(appendID(b, f.key), " NIL "...)
		} else {
			b = append(appendID(append(appendID(b, f.key), ' '), f.value), ' ')
		}
	}
	field(idSession, id.Session)
	if a := id.Client.Addr(); a.IsValid() {
		field(idClient, a.Unmap().WithZone("").String())
		field(idPort, strconv.Itoa(int(id.Client.Port())))
	}
	if a := id.Local.Addr(); a.IsValid() {
		field(idLocal, a.Unmap().WithZone("").String())
		field(idLocalPort, strconv.Itoa(int(id.Local.Port())))
	}
	field(idTTL, strconv.Itoa(id.TTL))
	if id.TLS {
		field(idTransport, "TLS")
	} else {
		field(idTransport, "insecure")
	}
	field(idName, id.Name)
	b[len(b)-1] = ')' // there is a space at the end: the transport is always said
	return string(b)
}

// appendID appends a quoted string of ID. What a quoted string cannot hold is replaced: a client's own words are no
// reason to lose the identity.
func appendID(b []byte, s string) []byte {
	if strings.IndexFunc(s, func(r rune) bool { return control(r) || r >= 0x80 }) >= 0 {
		s = strings.Map(func(r rune) rune {
			if control(r) || r >= 0x80 {
				return '?'
			}
			return r
		}, s)
	}
	return appendQuoted(b, s)
}

// accepted keeps what the backend said for its client. The client gets its member's capabilities, so a backend that has
// not told them is asked.
func (s *session) accepted(l *leg, text []byte) error {
	w := &s.welcome
	*w = welcome{}
	code, rest := responseCode(text)
	switch list, listed := capabilityCode(code); {
	case listed:
		w.capabilities, w.text = afterLogin(list), clean(rest)
	case isReferral(code):
		w.text = clean(rest)
	default:
		w.text = clean(text)
	}
	if w.text == "" {
		w.text = "Logged in."
	}
	if w.capabilities == "" && l.listed == "" {
		l.doing = "CAPABILITY after the login"
		l.c.Line(tagListed, " CAPABILITY")
		if err := l.wait(tagListed); err != nil {
			return err
		}
	}
	if l.owesID { // it may answer out of order (RFC 3501 section 5.5); the client must not see that
		if err := l.wait(tagID); err != nil {
			return err
		}
	}
	if w.capabilities == "" {
		w.capabilities = l.listed
	}
	w.lines = l.untagged
	return nil
}

// wait reads until a command is answered. A refusal is as good as not having asked.
func (l *leg) wait(tag string) error {
	a, err := l.answer(tag)
	if err == nil && a.kind == isMore {
		return l.nonsense(nil)
	}
	return err
}

// sayWelcome tells the client that it is logged in, and what its member can do. That goes in the OK, except where the
// client has asked before and so looks for an untagged answer, and where the OK has another code to carry.
func (s *session) sayWelcome() {
	w := &s.welcome
	for _, line := range w.lines {
		s.Client.Line("* ", line)
	}
	switch {
	case w.capabilities == "":
		s.Client.Line(s.tag, " OK ", w.text)
	case s.asked || w.text[0] == '[':
		s.Client.Line("* CAPABILITY ", w.capabilities)
		s.Client.Line(s.tag, " OK ", w.text)
	default:
		s.Client.Line(s.tag, " OK [CAPABILITY ", w.capabilities, "] ", w.text)
	}
}
