package mailstore

import (
	"encoding/base64"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
)

// popSession is one POP3 session (RFC 1939, 2449, 2595, 5034).
type popSession struct {
	backend *Backend
	conn    *textConn
	user    string
	told    map[string]string // by XCLIENT

	account  *account  // nil before login
	messages []Message // as they were at login
	deleted  []bool
}

// errQuit ends a session after its last answer was written.
var errQuit = errors.New("quit")

// popVerbs says which commands there are. RFC 1939 unless something else is said.
var popVerbs = map[string]struct {
	loggedIn, loggedOut bool // where it is allowed
	do                  func(*popSession, string) error
}{
	"APOP":    {false, true, (*popSession).refuseVerb},
	"AUTH":    {false, true, (*popSession).auth}, // RFC 5034
	"CAPA":    {true, true, (*popSession).capa},  // RFC 2449
	"DELE":    {true, false, (*popSession).dele},
	"LIST":    {true, false, (*popSession).list},
	"NOOP":    {true, false, (*popSession).noop},
	"PASS":    {false, true, (*popSession).pass},
	"QUIT":    {true, true, (*popSession).quit},
	"RETR":    {true, false, (*popSession).retr},
	"RSET":    {true, false, (*popSession).rset},
	"STAT":    {true, false, (*popSession).stat},
	"STLS":    {false, true, (*popSession).stls}, // RFC 2595
	"TOP":     {true, false, (*popSession).top},
	"UIDL":    {true, false, (*popSession).uidl},
	"USER":    {false, true, (*popSession).setUser},
	"XCLIENT": {false, true, (*popSession).xclient}, // Dovecot's
}

// servePOP3 runs one session.
func (b *Backend) servePOP3(nc net.Conn) {
	s := &popSession{backend: b, conn: newTextConn(nc)}
	defer s.leave()
	s.conn.printf("+OK %s POP3 ready [XCLIENT]", b.config.Name)
	for {
		line, err := s.conn.readLine()
		if err == nil {
			err = s.command(line)
		}
		if errors.Is(err, errLineTooLong) {
			s.conn.printf("-ERR line too long")
		}
		if err != nil {
			s.conn.flush()
			return
		}
	}
}

// leave gives the mailbox back.
func (s *popSession) leave() {
	if s.account != nil {
		s.account.unlockPOP()
	}
}

// command answers one command. An error ends the session.
func (s *popSession) command(line string) error {
	name, arg, _ := strings.Cut(line, " ")
	verb, ok := popVerbs[strings.ToUpper(name)]
	switch loggedIn := s.account != nil; {
	case !ok:
		s.conn.printf("-ERR unknown command")
	case loggedIn && !verb.loggedIn || !loggedIn && !verb.loggedOut:
		s.conn.printf("-ERR not now")
	default:
		return verb.do(s, strings.TrimSpace(arg))
	}
	return nil
}

func (s *popSession) refuseVerb(string) error {
	s.conn.printf("-ERR not offered here")
	return nil
}

func (s *popSession) capa(string) error {
	s.conn.printf("+OK")
	for _, c := range []string{"TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"} {
		s.conn.printf("%s", c)
	}
	if s.mayLogin() {
		s.conn.printf("USER")
		s.conn.printf("SASL %s", strings.Join(mechanisms(), " "))
	}
	if s.mayStartTLS() {
		s.conn.printf("STLS")
	}
	s.conn.printf("IMPLEMENTATION %s", s.backend.config.Name)
	s.conn.printf(".")
	return nil
}

func (s *popSession) mayLogin() bool {
	return s.account == nil && (!s.backend.config.RequireTLS || s.conn.secured())
}

func (s *popSession) mayStartTLS() bool {
	return s.account == nil && s.backend.config.TLS != nil && !s.conn.secured()
}

func (s *popSession) stls(string) error {
	if !s.mayStartTLS() {
		s.conn.printf("-ERR TLS is not offered or there already")
		return nil
	}
	s.user, s.told = "", nil
	return s.conn.startTLS(s.backend.config.TLS, "+OK begin TLS")
}

// xclient takes "ADDR=192.0.2.1 PORT=1234 SESSION=x TTL=6".
func (s *popSession) xclient(arg string) error {
	s.told = make(map[string]string)
	for _, pair := range strings.Fields(arg) {
		name, value, _ := strings.Cut(pair, "=")
		s.told[strings.ToLower(name)] = value
	}
	s.conn.printf("+OK updated")
	return nil
}

func (s *popSession) setUser(arg string) error {
	if !s.mayLogin() || arg == "" {
		s.conn.printf("-ERR no user here")
		return nil
	}
	s.user = arg
	s.conn.printf("+OK")
	return nil
}

func (s *popSession) pass(arg string) error {
	if s.user == "" {
		s.conn.printf("-ERR USER first")
		return nil
	}
	user := s.user
	s.user = ""
	return s.finish(s.login("", user, arg))
}

// auth is AUTH mechanism [initial response] (RFC 5034).
func (s *popSession) auth(arg string) error {
	mechanism, initial, hasInitial := strings.Cut(arg, " ")
	server := newSASL(strings.ToUpper(mechanism), s.login)
	if server == nil || !s.mayLogin() {
		s.conn.printf("-ERR no such mechanism here")
		return nil
	}
	var response []byte
	if hasInitial {
		var err error
		if response, err = decodeSASL(initial); err != nil {
			s.conn.printf("-ERR not base64")
			return nil
		}
	}
	for {
		challenge, done, err := server.Next(response)
		if done || err != nil {
			return s.finish(err)
		}
		s.conn.printf("+ %s", base64.StdEncoding.EncodeToString(challenge))
		line, err := s.conn.readLine()
		if err != nil {
			return err
		}
		if response, err = decodeSASL(line); err != nil {
			s.conn.printf("-ERR cancelled or not base64")
			return nil
		}
	}
}

// decodeSASL decodes a response; "=" is an empty one and "*", which cancels, is not base64.
func decodeSASL(s string) ([]byte, error) {
	if s == "=" {
		return []byte{}, nil
	}
	return base64.StdEncoding.DecodeString(s)
}

// errInUse: another POP3 session has the mailbox.
var errInUse = errors.New("mailbox is locked")

// login opens the mailbox if the password is right.
func (s *popSession) login(authzid, user, password string) error {
	a, err := s.backend.authenticate(authzid, user, password)
	if err != nil {
		return err
	}
	if !a.lockPOP() {
		return errInUse
	}
	messages, err := a.messages()
	if err != nil {
		a.unlockPOP()
		return err
	}
	s.account, s.messages, s.deleted = a, messages, make([]bool, len(messages))
	s.backend.record(POP3, a, s.told)
	return nil
}

// finish answers a login.
func (s *popSession) finish(err error) error {
	switch {
	case err == nil:
		s.conn.printf("+OK logged in to %s, %d messages", s.backend.config.Name, len(s.messages))
	case errors.Is(err, errInUse):
		s.conn.printf("-ERR [IN-USE] another session has this mailbox")
	case errors.Is(err, errAuth):
		s.conn.printf("-ERR [AUTH] authentication failed")
	default:
		s.conn.printf("-ERR [SYS/TEMP] the mailbox cannot be opened now")
	}
	return nil
}

// message finds a message by its number, or answers that there is none.
func (s *popSession) message(arg string) (int, bool) {
	n, err := strconv.Atoi(arg)
	if err != nil || n < 1 || n > len(s.messages) || s.deleted[n-1] {
		s.conn.printf("-ERR no such message")
		return 0, false
	}
	return n - 1, true
}

func (s *popSession) stat(string) error {
	count, size := 0, 0
	for i, m := range s.messages {
		if !s.deleted[i] {
			count, size = count+1, size+len(m.Raw)
		}
	}
	s.conn.printf("+OK %d %d", count, size)
	return nil
}

func (s *popSession) list(arg string) error {
	return s.listing(arg, func(m Message) string { return strconv.Itoa(len(m.Raw)) })
}

func (s *popSession) uidl(arg string) error {
	return s.listing(arg, func(m Message) string { return strconv.FormatUint(uint64(m.UID), 10) })
}

// listing answers LIST and UIDL, for one message or for all.
func (s *popSession) listing(arg string, show func(Message) string) error {
	if arg != "" {
		if i, ok := s.message(arg); ok {
			s.conn.printf("+OK %d %s", i+1, show(s.messages[i]))
		}
		return nil
	}
	s.conn.printf("+OK")
	for i, m := range s.messages {
		if !s.deleted[i] {
			s.conn.printf("%d %s", i+1, show(m))
		}
	}
	s.conn.printf(".")
	return nil
}

func (s *popSession) retr(arg string) error {
	if i, ok := s.message(arg); ok {
		s.send(s.messages[i].Raw, -1)
	}
	return nil
}

func (s *popSession) top(arg string) error {
	number, count, _ := strings.Cut(arg, " ")
	lines, err := strconv.Atoi(strings.TrimSpace(count))
	if err != nil || lines < 0 {
		s.conn.printf("-ERR TOP message lines")
		return nil
	}
	if i, ok := s.message(number); ok {
		s.send(s.messages[i].Raw, lines)
	}
	return nil
}

// send writes a message with dots stuffed: all of it, or its header and some lines of its body.
func (s *popSession) send(raw []byte, lines int) {
	s.conn.printf("+OK %d octets", len(raw))
	inBody := false
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimRight(line, "\r\n")
		if inBody && lines == 0 {
			break
		}
		if inBody && lines > 0 {
			lines--
		}
		inBody = inBody || line == ""
		if strings.HasPrefix(line, ".") {
			line = "." + line
		}
		s.conn.printf("%s", line)
	}
	s.conn.printf(".")
}

func (s *popSession) dele(arg string) error {
	if i, ok := s.message(arg); ok {
		s.deleted[i] = true
		s.conn.printf("+OK")
	}
	return nil
}

func (s *popSession) rset(string) error {
	clear(s.deleted)
	s.conn.printf("+OK")
	return nil
}

func (s *popSession) noop(string) error {
	s.conn.printf("+OK")
	return nil
}

// quit deletes what was marked, which nothing but QUIT does (RFC 1939 section 6).
func (s *popSession) quit(string) error {
	var uids []uint32
	for i, m := range s.messages {
		if s.deleted[i] {
			uids = append(uids, m.UID)
		}
	}
	if len(uids) > 0 {
		slices.Sort(uids)
		if err := s.account.remove(uids); err != nil {
			s.conn.printf("-ERR [SYS/TEMP] messages were not deleted")
			return errQuit
		}
	}
	s.conn.printf("+OK bye from %s", s.backend.config.Name)
	return errQuit
}
