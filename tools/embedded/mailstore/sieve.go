package mailstore

import (
	"encoding/base64"
	"errors"
	"net"
	"slices"
	"strings"
)

// maxScript bounds one script and all literals of a command, in bytes.
const maxScript = 64 << 10

// maxScripts bounds the scripts of one account.
const maxScripts = 100

// sieveSession is one ManageSieve session (RFC 5804).
type sieveSession struct {
	backend *Backend
	conn    *textConn
	account *account // nil before login
}

// sieveVerbs says which commands there are, and where.
var sieveVerbs = map[string]struct {
	loggedIn, loggedOut bool
	args                int // at least
	do                  func(*sieveSession, []string) error
}{
	"AUTHENTICATE": {false, true, 1, (*sieveSession).authenticate},
	"CAPABILITY":   {true, true, 0, (*sieveSession).capability},
	"CHECKSCRIPT":  {true, false, 1, (*sieveSession).check},
	"DELETESCRIPT": {true, false, 1, (*sieveSession).remove},
	"GETSCRIPT":    {true, false, 1, (*sieveSession).get},
	"HAVESPACE":    {true, false, 2, (*sieveSession).haveSpace},
	"LISTSCRIPTS":  {true, false, 0, (*sieveSession).list},
	"LOGOUT":       {true, true, 0, (*sieveSession).logout},
	"NOOP":         {true, true, 0, (*sieveSession).noop},
	"PUTSCRIPT":    {true, false, 2, (*sieveSession).put},
	"RENAMESCRIPT": {true, false, 2, (*sieveSession).rename},
	"SETACTIVE":    {true, false, 1, (*sieveSession).setActive},
	"STARTTLS":     {false, true, 0, (*sieveSession).startTLS},
}

// serveSieve runs one session.
func (b *Backend) serveSieve(nc net.Conn) {
	s := &sieveSession{backend: b, conn: newTextConn(nc)}
	s.capability(nil)
	for {
		name, args, err := s.readCommand()
		if err == nil {
			err = s.command(name, args)
		}
		if errors.Is(err, errLineTooLong) || errors.Is(err, errSyntax) {
			s.conn.printf("BYE \"%s\"", err)
		}
		if err != nil {
			s.conn.flush()
			return
		}
	}
}

// command answers one command. An error ends the session.
func (s *sieveSession) command(name string, args []string) error {
	verb, ok := sieveVerbs[name]
	switch loggedIn := s.account != nil; {
	case !ok || len(args) < verb.args:
		s.conn.printf("NO \"unknown command or missing argument\"")
	case loggedIn && !verb.loggedIn || !loggedIn && !verb.loggedOut:
		s.conn.printf("NO \"not now\"")
	default:
		return verb.do(s, args)
	}
	return nil
}

// capability lists what the server can do and ends with OK: the greeting, the answer to CAPABILITY, and what follows
// STARTTLS.
func (s *sieveSession) capability([]string) error {
	s.conn.printf("\"IMPLEMENTATION\" %s", quoteSieve(s.backend.config.Name))
	s.conn.printf("\"VERSION\" \"1.0\"")
	s.conn.printf("\"SIEVE\" \"fileinto envelope vacation\"")
	sasl := ""
	if !s.backend.config.RequireTLS || s.conn.secured() {
		sasl = strings.Join(mechanisms(), " ")
	}
	s.conn.printf("\"SASL\" %s", quoteSieve(sasl))
	if s.mayStartTLS() {
		s.conn.printf("\"STARTTLS\"")
	}
	if s.account != nil {
		s.conn.printf("\"OWNER\" %s", quoteSieve(s.account.login))
	}
	return s.ok(s.backend.config.Name + " ManageSieve ready")
}

// ok writes the answer of a command that was done.
func (s *sieveSession) ok(text string) error {
	s.conn.printf("OK %s", quoteSieve(text))
	return nil
}

func (s *sieveSession) mayStartTLS() bool {
	return s.account == nil && s.backend.config.TLS != nil && !s.conn.secured()
}

// startTLS shakes hands and sends the capabilities again, unasked (RFC 5804 section 2.2).
func (s *sieveSession) startTLS([]string) error {
	if !s.mayStartTLS() {
		s.conn.printf("NO \"TLS is not offered or there already\"")
		return nil
	}
	if err := s.conn.startTLS(s.backend.config.TLS, `OK "begin TLS"`); err != nil {
		return err
	}
	return s.capability(nil)
}

// authenticate is AUTHENTICATE "MECHANISM" ["initial response"].
func (s *sieveSession) authenticate(args []string) error {
	if s.backend.config.RequireTLS && !s.conn.secured() {
		s.conn.printf("NO (ENCRYPT-NEEDED) \"TLS is required\"")
		return nil
	}
	server := newSASL(strings.ToUpper(args[0]), s.login)
	if server == nil {
		s.conn.printf("NO \"no such mechanism\"")
		return nil
	}
	var response []byte
	if len(args) > 1 {
		var err error
		if response, err = decodeSASL(args[1]); err != nil {
			s.conn.printf("NO \"not base64\"")
			return nil
		}
	}
	for {
		challenge, done, err := server.Next(response)
		if err != nil {
			s.conn.printf("NO \"authentication failed\"")
			return nil
		}
		if done {
			return s.ok("logged in to " + s.backend.config.Name)
		}
		s.conn.printf("%s", quoteSieve(base64.StdEncoding.EncodeToString(challenge)))
		line, err := s.readStrings()
		if err != nil {
			return err
		}
		if len(line) != 1 {
			s.conn.printf("NO \"one string is expected\"")
			return nil
		}
		if response, err = decodeSASL(line[0]); err != nil {
			s.conn.printf("NO \"cancelled or not base64\"")
			return nil
		}
	}
}

// login opens the account if the password is right.
func (s *sieveSession) login(authzid, user, password string) error {
	a, err := s.backend.authenticate(authzid, user, password)
	if err != nil {
		return err
	}
	s.account = a
	s.backend.record(Sieve, a, nil)
	return nil
}

func (s *sieveSession) noop(args []string) error {
	if len(args) > 0 {
		s.conn.printf("OK (TAG %s) \"done\"", quoteSieve(args[0]))
		return nil
	}
	return s.ok("done")
}

func (s *sieveSession) logout([]string) error {
	s.ok("bye from " + s.backend.config.Name)
	return errQuit
}

func (s *sieveSession) haveSpace([]string) error { return s.ok("there is space") }

func (s *sieveSession) check([]string) error { return s.ok("scripts are not checked here") }

func (s *sieveSession) put(args []string) error {
	name, script := args[0], args[1]
	unlock := s.lock()
	defer unlock()
	if _, exists := s.account.scripts[name]; name == "" || !exists && len(s.account.scripts) >= maxScripts {
		s.conn.printf("NO (QUOTA/MAXSCRIPTS) \"no name, or too many scripts\"")
		return nil
	}
	s.account.scripts[name] = script
	return s.ok("stored")
}

func (s *sieveSession) get(args []string) error {
	unlock := s.lock()
	defer unlock()
	script, exists := s.account.scripts[args[0]]
	if !exists {
		return s.missing()
	}
	s.conn.printf("{%d}\r\n%s", len(script), script)
	return s.ok("done")
}

func (s *sieveSession) list([]string) error {
	unlock := s.lock()
	defer unlock()
	names := make([]string, 0, len(s.account.scripts))
	for name := range s.account.scripts {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		mark := ""
		if name == s.account.active {
			mark = " ACTIVE"
		}
		s.conn.printf("%s%s", quoteSieve(name), mark)
	}
	return s.ok("done")
}

// setActive makes a script the active one; an empty name makes none.
func (s *sieveSession) setActive(args []string) error {
	unlock := s.lock()
	defer unlock()
	if _, exists := s.account.scripts[args[0]]; args[0] != "" && !exists {
		return s.missing()
	}
	s.account.active = args[0]
	return s.ok("done")
}

func (s *sieveSession) remove(args []string) error {
	unlock := s.lock()
	defer unlock()
	if _, exists := s.account.scripts[args[0]]; !exists {
		return s.missing()
	}
	if s.account.active == args[0] {
		s.conn.printf("NO (ACTIVE) \"the script is active\"")
		return nil
	}
	delete(s.account.scripts, args[0])
	return s.ok("gone")
}

func (s *sieveSession) rename(args []string) error {
	unlock := s.lock()
	defer unlock()
	script, exists := s.account.scripts[args[0]]
	if !exists {
		return s.missing()
	}
	if _, taken := s.account.scripts[args[1]]; taken || args[1] == "" {
		s.conn.printf("NO (ALREADYEXISTS) \"the name is taken\"")
		return nil
	}
	delete(s.account.scripts, args[0])
	s.account.scripts[args[1]] = script
	if s.account.active == args[0] {
		s.account.active = args[1]
	}
	return s.ok("renamed")
}

// missing answers that there is no such script.
func (s *sieveSession) missing() error {
	s.conn.printf("NO (NONEXISTENT) \"no such script\"")
	return nil
}

// lock keeps other sessions of the account from its scripts.
func (s *sieveSession) lock() (unlock func()) {
	s.account.mu.Lock()
	return s.account.mu.Unlock
}
