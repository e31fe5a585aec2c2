package integration

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// told is what a client reads for one cause in each protocol: the beginning of the line.
type told map[talk.Protocol]string

// The rows of the table of what a client is told.
var (
	toldAuth = told{talk.IMAP: "NO [AUTHENTICATIONFAILED]", talk.POP3: "-ERR [AUTH]", talk.Submission: "535 5.7.8", talk.Sieve: "NO "}
	toldTemp = told{talk.IMAP: "NO [UNAVAILABLE]", talk.POP3: "-ERR [SYS/TEMP]", talk.Submission: "454 4.7.0", talk.Sieve: "NO (TRYLATER)"}
	toldGone = told{talk.IMAP: "NO [CONTACTADMIN]", talk.POP3: "-ERR [SYS/PERM]", talk.Submission: "525 5.7.13", talk.Sieve: "NO "}
	toldOwn  = told{talk.IMAP: "NO [LIMIT] come back on Thursday", talk.POP3: "-ERR [IN-USE] come back on Thursday",
		talk.Submission: "454 4.7.99 come back on Thursday", talk.Sieve: `NO (QUOTA) "come back on Thursday"`}
	toldPlain = told{talk.IMAP: "NO [PRIVACYREQUIRED]", talk.POP3: "-ERR ", talk.Submission: "538 5.7.11", talk.Sieve: "NO (ENCRYPT-NEEDED)"}
	toldLimit = told{talk.IMAP: "* BYE [UNAVAILABLE]", talk.POP3: "-ERR [SYS/TEMP]", talk.Submission: "421 4.7.0", talk.Sieve: "BYE (TRYLATER)"}
	toldEnd   = told{talk.IMAP: "* BYE", talk.POP3: "-ERR [SYS/TEMP]", talk.Submission: "421 4.3.2", talk.Sieve: "BYE (TRYLATER)"}
)

// leak is what no client may read: names and addresses of servers, and words of the directory.
var leak = regexp.MustCompile(`(?i)127\.\d+|ldap|uid=|dc=|\bback\d|fake\.example|nowhere|dial|refused by|x509|certificate|EOF|connect:|i/o|panic`)

// refused checks a refusal against a row of the table.
func refused(t testing.TB, p talk.Protocol, r talk.Reply, row told) {
	t.Helper()
	if r.OK {
		t.Fatalf("the login is taken: %s", r.Final)
	}
	if !strings.HasPrefix(r.Final, row[p]) {
		t.Errorf("the client reads %q, want %q first", r.Final, row[p])
	}
	if found := leak.FindString(r.Final); found != "" {
		t.Errorf("the client reads %q: that tells %q", r.Final, found)
	}
}

// What a client is told, for every cause that an account or a member can be, in every protocol. The session goes on
// behind each: the next login may be right.
func TestRefusals(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	f := startFakes(t, w)
	d := ownDaemon(t, w, nil)
	fake := func(b string) [2]string { return [2]string{stage.FakeLogin(b), stage.FakePassword} }
	causes := []struct {
		name string
		who  [2]string
		row  told
	}{
		{"unknown user", [2]string{"nobody@example.com", "sesame"}, toldAuth},
		{"unknown domain", [2]string{"ann@elsewhere.example.net", "sesame"}, toldAuth},
		{"wrong password", [2]string{"ann@example.com", "wrong"}, toldAuth},
		{"empty password", [2]string{"ann@example.com", ""}, toldAuth},
		{"account on hold", [2]string{"held@example.com", "held"}, toldTemp},
		{"account disabled", [2]string{"gone@example.com", "gone"}, toldGone},
		{"unknown status", [2]string{"odd@example.com", "odd"}, toldTemp},
		{"two entries match", [2]string{"twin@example.com", "twin"}, toldTemp},
		{"home host unknown", [2]string{"lost@example.com", "lost"}, toldTemp},
		{"no home host", [2]string{"homeless@example.com", "homeless"}, toldTemp},
		{"home host is this frontend", [2]string{"self@example.com", "self"}, toldTemp},
		{"member dead", fake("dead"), toldTemp},
		{"member closes", fake("closing"), toldTemp},
		{"member talks garbage", fake("garbage"), toldTemp},
		{"member talks endlessly", fake("endless"), toldTemp},
		{"member without TLS", fake("notls"), toldTemp},
		{"member with another name", fake("wrongname"), toldTemp},
		{"member refuses with a code", fake("refusing"), toldOwn},
	}
	before, err := d.Descriptors()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("told", func(t *testing.T) {
		for _, p := range talk.Protocols() {
			for _, c := range causes {
				t.Run(string(p)+"/"+c.name, func(t *testing.T) {
					t.Parallel()
					s := d.dial(t, p, talk.Plain)
					r, err := s.Login("PLAIN-IR", c.who[0], c.who[1])
					if err != nil {
						t.Fatal(err)
					}
					refused(t, p, r, c.row)
					login(t, s, "PLAIN-IR", w.Account("ann@example.com"), stage.Back1)
				})
			}
			// The deadline of the hand-over has to pass here.
			t.Run(string(p)+"/member says nothing", func(t *testing.T) {
				t.Parallel()
				r, err := d.dial(t, p, talk.Plain).Login("PLAIN-IR", stage.FakeLogin("silent"), stage.FakePassword)
				if err != nil {
					t.Fatal(err)
				}
				refused(t, p, r, toldTemp)
			})
		}
	})
	eventually(t, "the connections of all these sessions", func() error {
		// Those to the directory come on top, but are fewer than the sessions and the members that they tried.
		if n, err := d.Descriptors(); err != nil || n > before+20 {
			return fmt.Errorf("%d descriptors are open, %d were before (%v)", n, before, err)
		}
		return nil
	})
	if heard := f.heardBy("wrongname"); strings.Contains(heard, "AUTH") || strings.Contains(heard, "PASS") {
		t.Errorf("a member with the wrong name was told:\n%s", heard)
	}
	if heard := f.heardBy("notls"); strings.Contains(heard, "AUTH") || strings.Contains(heard, "PASS") || strings.Contains(heard, "LOGIN ") {
		t.Errorf("a member without TLS was told:\n%s", heard)
	}
}

// The answers to an unknown user and to a wrong password differ in nothing but the session's id.
func TestUnknownUserLooksLikeWrongPassword(t *testing.T) {
	t.Parallel()
	d := front(t)
	for _, p := range talk.Protocols() {
		for _, m := range []string{"PLAIN-IR", "LOGIN"} {
			t.Run(string(p)+"/"+m, func(t *testing.T) {
				a, err := d.dial(t, p, talk.StartTLS).Login(m, "nobody@example.com", "wrong")
				if err != nil {
					t.Fatal(err)
				}
				b, err := d.dial(t, p, talk.StartTLS).Login(m, "ann@example.com", "wrong")
				if err != nil {
					t.Fatal(err)
				}
				if x, y := withoutID(a.Final), withoutID(b.Final); x != y {
					t.Errorf("unknown user: %q, wrong password: %q", a.Final, b.Final)
				}
			})
		}
	}
}

// withoutID takes the session's id out of a line.
func withoutID(line string) string {
	return regexp.MustCompile(`session [a-z0-9-]+`).ReplaceAllString(line, "session ID")
}

// Where TLS is required no login comes in without it, and none is offered.
func TestPlaintextLogin(t *testing.T) {
	t.Parallel()
	d := front(t)
	for _, p := range talk.Protocols() {
		t.Run(string(p), func(t *testing.T) {
			addr := fmt.Sprintf("%s:%d", d.IP, backendPort(p, talk.Plain)+strict)
			c := d.dialWith(t, p, addr, talk.Options{})
			offer := c.Greeting + strings.Join(c.Capabilities(), "\n")
			switch p {
			case talk.IMAP, talk.POP3:
				verb := map[talk.Protocol]string{talk.IMAP: "CAPABILITY", talk.POP3: "CAPA"}[p]
				r, err := c.Command(verb)
				if err != nil {
					t.Fatal(err)
				}
				offer += strings.Join(r.Lines, "\n")
			}
			if strings.Contains(offer, "PLAIN") {
				t.Errorf("a login is offered in the clear:\n%s", offer)
			}
			if p == talk.IMAP && !strings.Contains(offer, "LOGINDISABLED") {
				t.Errorf("LOGINDISABLED is missing (RFC 3501 6.2.3):\n%s", offer)
			}
			r, err := c.Login("PLAIN-IR", "ann@example.com", "sesame")
			if err != nil {
				t.Fatal(err)
			}
			refused(t, p, r, toldPlain)
			if p == talk.IMAP || p == talk.POP3 {
				c := d.dialWith(t, p, addr, talk.Options{})
				if r, err = c.Login(talk.Command, "ann@example.com", "sesame"); err != nil {
					t.Fatal(err)
				}
				refused(t, p, r, toldPlain)
			}
			if p == talk.Submission {
				c := d.dialWith(t, p, addr, talk.Options{})
				if r, err = c.Command("MAIL FROM:<ann@example.com>"); err != nil {
					t.Fatal(err)
				}
				refused(t, p, r, told{p: "530 5.7.0"})
			}
			login(t, d.dialWith(t, p, addr, talk.Options{TLS: talk.StartTLS}), "PLAIN-IR", d.W.Account("ann@example.com"), stage.Back1)
		})
	}
}

// A client over a limit is told so at once, and may come when another one has gone.
func TestLimitPerAddress(t *testing.T) {
	t.Parallel()
	w := world(t)
	d := ownDaemon(t, w, func(s *setup) { s.Limits = "per_address: 1" })
	for i, p := range talk.Protocols() {
		t.Run(string(p), func(t *testing.T) {
			from := w.Net.IP(stage.HostClient + i)
			first := d.dialWith(t, p, d.addr(p, talk.Plain), talk.Options{Source: from})
			second, err := talk.Connect(p, d.addr(p, talk.Plain), talk.Options{Source: from})
			if err != nil {
				t.Fatal(err)
			}
			defer second.Close()
			all, err := second.Rest()
			if err != nil {
				t.Fatal(err)
			}
			refused(t, p, talk.Reply{Final: strings.TrimRight(all, "\r\n")}, toldLimit)
			first.Close()
			eventually(t, "a session in the place of the one that ended", func() error {
				c, err := talk.Dial(p, d.addr(p, talk.Plain), talk.Options{Source: from})
				if err == nil {
					c.Close()
				}
				return err
			})
		})
	}
}

// A stop tells the clients that have not logged in yet.
func TestStopBeforeLogin(t *testing.T) {
	t.Parallel()
	d := ownDaemon(t, world(t), nil)
	open := make(map[talk.Protocol]*talk.Conn)
	for _, p := range talk.Protocols() {
		open[p] = d.dial(t, p, talk.StartTLS)
		noop(t, open[p])
	}
	if err := d.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for p, c := range open {
		all, err := c.Rest()
		if err != nil {
			t.Errorf("%s: %v", p, err)
		}
		lines := strings.Split(strings.TrimRight(all, "\r\n"), "\r\n")
		refused(t, p, talk.Reply{Final: lines[len(lines)-1]}, toldEnd)
	}
}
