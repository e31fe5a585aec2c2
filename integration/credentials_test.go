package integration

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// awkward are the accounts whose names and passwords need quoting somewhere.
func awkward(w *stage.World) []stage.Account {
	var list []stage.Account
	for _, login := range []string{"j\u00fcrgen@example.com", "o'hara@example.com", "odd#{!}@example.com", "spacey@example.com",
		"long@example.com", "colon@example.com", "equals=sign@example.com", "eve@example.com"} {
		list = append(list, w.Account(login))
	}
	return list
}

// UTF-8, quotes, backslashes, spaces at the ends, braces, equal signs and very long passwords come through every
// protocol unchanged.
func TestAwkwardCredentials(t *testing.T) {
	t.Parallel()
	d := front(t)
	for _, p := range talk.Protocols() {
		for _, m := range []string{talk.Command, "PLAIN-IR", "PLAIN", "LOGIN", "SCRAM-SHA-256"} {
			if m == talk.Command && !slices.Contains(talk.Mechanisms(p), m) {
				continue
			}
			for _, a := range awkward(d.W) {
				if m == "SCRAM-SHA-256" && strings.HasPrefix(a.Login, "j\u00fc") {
					continue // SASLprep (RFC 4013) would be the client's part; talk has none
				}
				t.Run(string(p)+"/"+m+"/"+a.Login, func(t *testing.T) {
					want := stage.Back1
					if a.Host == stage.Back2 {
						want = stage.Back2
					}
					login(t, d.dial(t, p, talk.Implicit), m, a, want)
				})
			}
		}
	}
}

// IMAP strings may be literals, in the synchronising form of RFC 3501 and the others of RFC 7888, also when the two
// arguments differ in form, and when everything comes in one packet or byte by byte.
func TestIMAPLiterals(t *testing.T) {
	t.Parallel()
	d := front(t)
	a := d.W.Account("o'hara@example.com")
	user, password := len(a.Login), len(a.Password)
	forms := map[string]string{
		"both synchronising":     fmt.Sprintf("a LOGIN {%d}\r\n|%s {%d}\r\n|%s\r\n", user, a.Login, password, a.Password),
		"both non-synchronising": fmt.Sprintf("a LOGIN {%d+}\r\n%s {%d+}\r\n%s\r\n", user, a.Login, password, a.Password),
		"quoted, then literal":   fmt.Sprintf("a LOGIN \"%s\" {%d}\r\n|%s\r\n", a.Login, password, a.Password),
		"literal, then quoted":   fmt.Sprintf("a LOGIN {%d+}\r\n%s \"%s\"\r\n", user, a.Login, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(a.Password)),
		"lower case command":     fmt.Sprintf("a login {%d+}\r\n%s {%d+}\r\n%s\r\n", user, a.Login, password, a.Password),
	}
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			c := d.dial(t, talk.IMAP, talk.Implicit)
			for i, part := range strings.Split(form, "|") {
				if i > 0 { // the server has to ask for a synchronising literal
					if line, err := c.ReadLine(); err != nil || !strings.HasPrefix(line, "+") {
						t.Fatalf("no continuation request: %q, %v", line, err)
					}
				}
				if err := c.Send(part); err != nil {
					t.Fatal(err)
				}
			}
			loggedIn(t, c, "a", stage.Back2)
		})
		t.Run(name+", byte by byte", func(t *testing.T) {
			c := d.dial(t, talk.IMAP, talk.Plain)
			for i, part := range strings.Split(form, "|") {
				if i > 0 {
					if line, err := c.ReadLine(); err != nil || !strings.HasPrefix(line, "+") {
						t.Fatalf("no continuation request: %q, %v", line, err)
					}
				}
				for j := range len(part) {
					if err := c.Send(part[j : j+1]); err != nil {
						t.Fatal(err)
					}
				}
			}
			loggedIn(t, c, "a", stage.Back2)
		})
	}
}

// A literal beyond all bounds is refused before its bytes are read.
func TestHugeLiteral(t *testing.T) {
	t.Parallel()
	d := front(t)
	c := d.dial(t, talk.IMAP, talk.Implicit)
	r, err := c.Command("LOGIN {4294967296}")
	if err == nil && r.OK {
		t.Fatalf("a literal of 4 GiB is asked for: %s", r.Final)
	}
	if strings.HasPrefix(r.Final, "+") {
		t.Fatalf("a literal of 4 GiB is asked for: %s", r.Final)
	}
}

// loggedIn reads the answer to the IMAP command with the tag, and asks where the session is.
func loggedIn(t testing.TB, c *talk.Conn, tag, want string) {
	t.Helper()
	r, err := c.Reply(tag)
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK {
		t.Fatalf("the login is refused: %s", r.Final)
	}
	where(t, c, want)
}

// Control characters in names and passwords reach no backend in any form: there they could end a line and begin a
// command.
func TestControlCharactersReachNoBackend(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	f := startFakes(t, w)
	d := ownDaemon(t, w, nil)
	user := stage.FakeLogin("recording")
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	plain := func(user, password string) string { return b64("\x00" + user + "\x00" + password) }
	evil := []string{"x\r\nDELETE INBOX", "x\nDELETE INBOX", "x\rDELETE INBOX", "x\x00DELETE INBOX"}
	for _, p := range talk.Protocols() {
		for _, e := range evil {
			for _, ir := range []string{plain(user, e), plain(user+e, "x"), b64(user + e + "\x00" + user + "\x00x")} {
				t.Run(fmt.Sprintf("%s/%q", p, e), func(t *testing.T) {
					c := d.dial(t, p, talk.Plain)
					verb := map[talk.Protocol]string{talk.IMAP: "AUTHENTICATE PLAIN ", talk.POP3: "AUTH PLAIN ", talk.Submission: "AUTH PLAIN ", talk.Sieve: `AUTHENTICATE "PLAIN" "`}[p]
					end := ""
					if p == talk.Sieve {
						end = `"`
					}
					r, err := c.Command(verb + ir + end)
					if err != nil {
						t.Fatal(err)
					}
					if r.OK {
						t.Fatalf("the login is taken: %s", r.Final)
					}
				})
			}
		}
	}
	t.Run("IMAP literals", func(t *testing.T) {
		for _, e := range evil {
			c := d.dial(t, talk.IMAP, talk.Plain)
			if err := c.Send(fmt.Sprintf("a LOGIN %s {%d+}\r\n%s\r\n", user, len(e), e)); err != nil {
				t.Fatal(err)
			}
			r, err := c.Reply("a")
			if err == nil && r.OK {
				t.Errorf("the login is taken: %s", r.Final)
			}
		}
	})
	// That the member does hear of an honest login shows that the silence above means something.
	c := d.dial(t, talk.IMAP, talk.Plain)
	if r, err := c.Login("PLAIN-IR", user, stage.FakePassword); err != nil || r.OK {
		t.Fatalf("%+v, %v", r, err)
	}
	heard := f.heardBy("recording")
	if !strings.Contains(heard, "AUTHENTICATE") && !strings.Contains(heard, "LOGIN") {
		t.Fatalf("the recording member heard no honest login:\n%s", heard)
	}
	if strings.Contains(heard, "DELETE") {
		t.Errorf("the member heard what stands behind a control character:\n%s", heard)
	}
	for word := range strings.FieldsSeq(heard) {
		if raw, err := base64.StdEncoding.DecodeString(strings.Trim(word, `"`)); err == nil && strings.Contains(string(raw), "DELETE") {
			t.Errorf("the member was told %q", raw)
		}
	}
}

// Names that mean something to an LDAP filter match nothing, and the directory sees them escaped (RFC 4515).
func TestNamesAreNotPatterns(t *testing.T) {
	t.Parallel()
	d := front(t)
	names := []string{"*", "*@example.com", "a*@example.com", "ann@*", ")(uid=*", "ann@example.com)(|(uid=*", `\2a@example.com`, "an\x00n@example.com",
		"ann@example.com\x00", "ann@example.com*mailmux-master"}
	for _, p := range talk.Protocols() {
		for _, name := range names {
			t.Run(fmt.Sprintf("%s/%q", p, name), func(t *testing.T) {
				c := d.dial(t, p, talk.Implicit)
				r, err := c.Login("LOGIN", name, "sesame")
				if err != nil {
					t.Fatal(err)
				}
				if r.OK {
					t.Fatalf("%q logs in: %s", name, r.Final)
				}
			})
		}
	}
}

// Commands and data that a client sends without waiting, before, with and behind its login, are answered in order and
// none of them is lost.
func TestPipelining(t *testing.T) {
	t.Parallel()
	d := front(t)
	t.Run("imap", func(t *testing.T) {
		c := d.dial(t, talk.IMAP, talk.Implicit)
		err := c.Send("1 NOOP\r\n2 CAPABILITY\r\n3 ID NIL\r\n4 LOGIN ann@example.com sesame\r\n5 SELECT INBOX\r\n6 FETCH 1 BODY.PEEK[HEADER.FIELDS (SUBJECT)]\r\n7 NOOP\r\n8 LOGOUT\r\n")
		if err != nil {
			t.Fatal(err)
		}
		all, err := c.Rest()
		if err != nil {
			t.Fatal(err)
		}
		inOrder(t, all, "1 OK", "* CAPABILITY", "2 OK", "3 OK", "4 OK", "5 OK", "welcome to back1", "6 OK", "7 OK", "* BYE", "8 OK")
	})
	t.Run("pop3", func(t *testing.T) {
		c := d.dial(t, talk.POP3, talk.Implicit)
		if err := c.Send("CAPA\r\nUSER bob@example.com\r\nPASS open\r\nSTAT\r\nTOP 1 0\r\nQUIT\r\n"); err != nil {
			t.Fatal(err)
		}
		all, err := c.Rest()
		if err != nil {
			t.Fatal(err)
		}
		inOrder(t, all, "+OK", "\r\n.\r\n", "+OK", "+OK", "+OK ", "welcome to back2", "\r\n.\r\n", "+OK")
	})
	t.Run("submission", func(t *testing.T) {
		c := d.dial(t, talk.Submission, talk.Implicit)
		ir := base64.StdEncoding.EncodeToString([]byte("\x00ann@example.com\x00sesame"))
		if err := c.Send("NOOP\r\nAUTH PLAIN " + ir + "\r\nEHLO x.example.net\r\nNOOP\r\nQUIT\r\n"); err != nil {
			t.Fatal(err)
		}
		all, err := c.Rest()
		if err != nil {
			t.Fatal(err)
		}
		inOrder(t, all, "250 ", "235 ", "250-back1.example.com", "250 ", "221 ")
	})
	t.Run("sieve", func(t *testing.T) {
		c := d.dial(t, talk.Sieve, talk.Implicit)
		ir := base64.StdEncoding.EncodeToString([]byte("\x00ann@example.com\x00sesame"))
		if err := c.Send("NOOP \"one\"\r\nAUTHENTICATE \"PLAIN\" \"" + ir + "\"\r\nCAPABILITY\r\nLISTSCRIPTS\r\nLOGOUT\r\n"); err != nil {
			t.Fatal(err)
		}
		all, err := c.Rest()
		if err != nil {
			t.Fatal(err)
		}
		inOrder(t, all, "OK (TAG \"one\")", "OK", "\"IMPLEMENTATION\" \"back1.example.com\"", "OK", "OK", "OK")
	})
}

// inOrder finds the parts in the text, each behind the one before.
func inOrder(t testing.TB, text string, parts ...string) {
	t.Helper()
	rest := text
	for _, p := range parts {
		_, after, ok := strings.Cut(rest, p)
		if !ok {
			t.Fatalf("%q does not stand where it should in:\n%s", p, text)
		}
		rest = after
	}
}
