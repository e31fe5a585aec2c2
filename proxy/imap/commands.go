package imap

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"mailmux/proxy"
	"mailmux/proxy/auth"
)

// state is when a command is allowed.
type state uint8

const (
	inClear state = 1 << iota // in the clear, where a login needs TLS first
	open                      // in the clear, where a login is allowed
	secure                    // encrypted

	always = inClear | open | secure
	logins = open | secure
	never  = state(0) // only after the login
)

// verb is a command: when it is allowed, where it is described, and what is done. Credentials end the loop.
type verb struct {
	states state
	rfc    string
	run    func(*session) (*auth.Credentials, error)
}

// verbs are those of IMAP and of the extensions that clients know. Those that are never allowed here tell a client that
// has forgotten to log in from one that speaks another protocol.
var verbs = map[string]verb{
	"CAPABILITY":   {always, "RFC 3501 section 6.1.1", (*session).capabilities},
	"NOOP":         {always, "RFC 3501 section 6.1.2", (*session).noop},
	"LOGOUT":       {always, "RFC 3501 section 6.1.3", (*session).logout},
	"ID":           {always, "RFC 2971 section 3.1", (*session).identify},
	"STARTTLS":     {inClear | open, "RFC 3501 section 6.2.1", (*session).startTLS},
	"AUTHENTICATE": {logins, "RFC 3501 section 6.2.2, RFC 4959", (*session).authenticate},
	"LOGIN":        {logins, "RFC 3501 section 6.2.3", (*session).login},

	"SELECT": {rfc: "RFC 3501 section 6.3.1"}, "EXAMINE": {rfc: "RFC 3501 section 6.3.2"}, "CREATE": {rfc: "RFC 3501 section 6.3.3"},
	"DELETE": {rfc: "RFC 3501 section 6.3.4"}, "RENAME": {rfc: "RFC 3501 section 6.3.5"}, "SUBSCRIBE": {rfc: "RFC 3501 section 6.3.6"},
	"UNSUBSCRIBE": {rfc: "RFC 3501 section 6.3.7"}, "LIST": {rfc: "RFC 3501 section 6.3.8"}, "LSUB": {rfc: "RFC 3501 section 6.3.9"},
	"STATUS": {rfc: "RFC 3501 section 6.3.10"}, "APPEND": {rfc: "RFC 3501 section 6.3.11"}, "CHECK": {rfc: "RFC 3501 section 6.4.1"},
	"CLOSE": {rfc: "RFC 3501 section 6.4.2"}, "EXPUNGE": {rfc: "RFC 3501 section 6.4.3"}, "SEARCH": {rfc: "RFC 3501 section 6.4.4"},
	"FETCH": {rfc: "RFC 3501 section 6.4.5"}, "STORE": {rfc: "RFC 3501 section 6.4.6"}, "COPY": {rfc: "RFC 3501 section 6.4.7"},
	"UID": {rfc: "RFC 3501 section 6.4.8"}, "ENABLE": {rfc: "RFC 5161"}, "NAMESPACE": {rfc: "RFC 2342"}, "IDLE": {rfc: "RFC 2177"},
	"UNSELECT": {rfc: "RFC 3691"}, "COMPRESS": {rfc: "RFC 4978"}, "GETQUOTA": {rfc: "RFC 9208"}, "GETQUOTAROOT": {rfc: "RFC 9208"},
	"MOVE": {rfc: "RFC 6851"}, "SORT": {rfc: "RFC 5256"}, "THREAD": {rfc: "RFC 5256"}, "NOTIFY": {rfc: "RFC 5465"},
	"GETMETADATA": {rfc: "RFC 5464"}, "SETMETADATA": {rfc: "RFC 5464"}, "UNAUTHENTICATE": {rfc: "RFC 8437"},
}

// state is what holds now.
func (s *session) state() state {
	switch {
	case s.Secure():
		return secure
	case s.PlainLogin():
		return open
	}
	return inClear
}

// command takes one command: tag, verb, state, and what the verb does.
func (s *session) command() (*auth.Credentials, error) {
	var err error
	if s.tag, err = s.parser.tag(); err != nil {
		return nil, err
	}
	var buf [24]byte
	v, known := verbs[string(s.parser.word(&buf))]
	switch now := s.state(); {
	case !known:
		return nil, errSyntax("Unknown command.")
	case v.states == never:
		s.first = false // it is IMAP, after all
		return nil, errSyntax("Log in first.")
	case v.states&now == 0 && now == inClear:
		s.first = false
		return nil, proxy.ErrPlaintext
	case v.states&now == 0:
		s.first = false
		return nil, errSyntax("TLS is there already.")
	}
	s.first = false
	return v.run(s)
}

func (s *session) capabilities() (*auth.Credentials, error) {
	if err := s.parser.end(); err != nil {
		return nil, err
	}
	s.asked = true
	var words [maxWords]string
	s.Client.Line(s.capability(append(words[:0], "* CAPABILITY "))...)
	s.answer("OK Capabilities listed.")
	return nil, nil
}

func (s *session) noop() (*auth.Credentials, error) {
	if err := s.parser.end(); err != nil {
		return nil, err
	}
	s.answer("OK Done.")
	return nil, nil
}

func (s *session) logout() (*auth.Credentials, error) {
	if err := s.parser.end(); err != nil {
		return nil, err
	}
	s.Client.Line("* BYE Logging out.")
	s.answer("OK Logged out.")
	return nil, proxy.ErrLoggedOut
}

// startTLS puts TLS under the session, and forgets what was said in the clear.
func (s *session) startTLS() (*auth.Credentials, error) {
	if err := s.parser.end(); err != nil {
		return nil, err
	}
	if !s.CanStartTLS() {
		return nil, errSyntax("TLS is not available.")
	}
	s.answer("OK Begin TLS negotiation now.")
	if err := s.StartTLS(); err != nil {
		return nil, err
	}
	s.asked, s.id = false, nil
	return nil, nil
}

// login takes user name and password. Behind a literal the password may be a line of its own.
func (s *session) login() (*auth.Credentials, error) {
	p := &s.parser
	p.secret = true
	if err := p.space(); err != nil {
		return nil, err
	}
	user, err := p.astring()
	if err != nil {
		return nil, s.literalError(err)
	}
	if err := p.space(); err != nil {
		return nil, err
	}
	password, err := p.astring()
	if err != nil {
		return nil, s.literalError(err)
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	return auth.Password(user, password)
}

// literalError answers a literal that is too large: the client may go on if it waits to be asked for it, and the session
// ends if the literal is on its way.
func (s *session) literalError(err error) error {
	if !errors.Is(err, errLiteral) {
		return err
	}
	if _, waits, _ := literalAt(s.parser.rest); waits {
		return errSyntax("Literal too large.")
	}
	s.answer("BAD [TOOBIG] Literal too large.")
	return proxy.ErrBadCommands
}

// authenticate runs the client's part of a SASL exchange, with or without an initial response.
func (s *session) authenticate() (*auth.Credentials, error) {
	p := &s.parser
	if err := p.space(); err != nil {
		return nil, err
	}
	var buf [24]byte
	mechanism := string(p.word(&buf))
	if mechanism == "" {
		return nil, errSyntax("Missing mechanism.")
	}
	var initial []byte
	if text := bytes.Trim(p.rest, " "); len(text) > 0 {
		var err error
		if initial, err = decode(text); err != nil {
			return nil, err
		}
	}
	p.rest = nil // what comes next overwrites it
	return auth.Begin(s.Offer(), mechanism, initial, channel{s})
}

// decode reads a SASL message in base64. The message is a copy, never nil. "=" is an empty initial response (RFC 4959
// section 3); as an answer to a challenge an empty line is the usual word for it, but this one is as clear.
func decode(text []byte) ([]byte, error) {
	if string(text) == "=" {
		return []byte{}, nil
	}
	message := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(message, text)
	if err != nil || bytes.IndexByte(text, '\r') >= 0 { // the decoder skips line ends, and a lone CR is one for it
		return nil, auth.ErrMalformed
	}
	return message[:n], nil
}

// channel carries SASL messages between client and mailmux, and between client and backend for relayed mechanisms.
type channel struct{ s *session }

// Challenge sends "+" and the challenge, and takes the answer (RFC 3501 section 6.2.2). Its errors are the client's,
// also where a backend waits for the answer.
func (c channel) Challenge(challenge []byte) ([]byte, error) {
	c.s.Client.Line("+ ", base64.StdEncoding.EncodeToString(challenge))
	line, err := c.s.Client.ReadSecret()
	switch {
	case err != nil:
		return nil, proxy.ClientFault(err)
	case string(line) == "*":
		return nil, proxy.ClientFault(auth.ErrCancelled)
	}
	response, err := decode(line)
	if err != nil {
		return nil, proxy.ClientFault(err)
	}
	return response, nil
}

// identify keeps what the client says of itself, and says who we are. A peer that is believed may name its own client.
func (s *session) identify() (*auth.Credentials, error) {
	if err := s.parser.space(); err != nil {
		return nil, err
	}
	pairs, err := s.parser.id()
	if err != nil {
		return nil, s.literalError(err)
	}
	s.believe(pairs)
	s.id = ownPairs(pairs)
	s.Client.Line(`* ID ("name" "mailmux")`)
	s.answer("OK Nice to meet you.")
	return nil, nil
}

// Fields of ID by which one hop tells the next who the client is (Dovecot's).
const (
	idSession   = "x-session-id"
	idClient    = "x-originating-ip"
	idPort      = "x-originating-port"
	idLocal     = "x-connected-ip"
	idLocalPort = "x-connected-port"
	idName      = "x-connected-name"
	idTTL       = "x-proxy-ttl"
	idTransport = "x-client-transport"
)

// believe tells the engine of an identity; the engine judges by the peer whether to believe it. Fields that make no
// sense are as good as missing, except a time to live, which is then the last one.
func (s *session) believe(pairs []pair) {
	var id proxy.Identity
	var client, local netip.Addr
	var clientPort, localPort uint16
	found := false
	for _, f := range pairs {
		known := true
		switch strings.ToLower(f.key) {
		case idSession:
			id.Session = plainWord(f.value)
		case idClient:
			client, _ = netip.ParseAddr(f.value)
		case idPort:
			clientPort = port(f.value)
		case idLocal:
			local, _ = netip.ParseAddr(f.value)
		case idLocalPort:
			localPort = port(f.value)
		case idName:
			id.Name = plainWord(f.value)
		case idTTL:
			n, _ := strconv.ParseUint(f.value, 10, 8)
			id.TTL = max(int(n), 1)
		case idTransport:
			id.TLS = strings.EqualFold(f.value, "TLS")
		default:
			known = false
		}
		found = found || known
	}
	if !found {
		return
	}
	if client.IsValid() {
		id.Client = netip.AddrPortFrom(client.Unmap().WithZone(""), clientPort)
	}
	if local.IsValid() {
		id.Local = netip.AddrPortFrom(local.Unmap().WithZone(""), localPort)
	}
	s.Believe(id)
}

func port(s string) uint16 {
	n, _ := strconv.ParseUint(s, 10, 16)
	return uint16(n)
}

// plainWord is s if it is printable ASCII without a space, and "" otherwise: it goes to logs and into other protocols.
func plainWord(s string) string {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return ""
		}
	}
	if len(s) > 255 {
		return ""
	}
	return s
}

// maxForwarded bounds the client's own fields on their way to a backend, in bytes.
const maxForwarded = 4096

// ownPairs are the fields that are the client's own to say. Those that hops use among each other are not.
func ownPairs(pairs []pair) []pair {
	own := pairs[:0]
	size := 0
	for _, f := range pairs {
		switch key := strings.ToLower(f.key); {
		case strings.HasPrefix(key, "x-originating-"), strings.HasPrefix(key, "x-connected-"), strings.HasPrefix(key, "x-forward-"),
			key == idSession, key == "x-session-ext-id", key == idTTL, key == idTransport, key == "x-multiplex":
			continue
		}
		if size += len(f.key) + len(f.value) + len(`"" "" `); size > maxForwarded {
			break
		}
		own = append(own, f)
	}
	return own
}
