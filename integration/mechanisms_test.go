package integration

import (
	"testing"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// legs are three accounts whose home hosts are reached in the clear, with STARTTLS and with implicit TLS, and the
// Dovecot where each of them has to arrive.
func legs(w *stage.World) map[string]struct {
	account stage.Account
	server  string
} {
	return map[string]struct {
		account stage.Account
		server  string
	}{
		"off":      {w.Account("ann@example.com"), stage.Back1},
		"starttls": {w.Account("bob@example.com"), stage.Back2},
		"implicit": {w.Account("carl@example.com"), stage.Back1},
	}
}

// Every mechanism of every protocol, over every kind of TLS on the client's leg and on the backend's, leads to the
// account's own server.
func TestEveryMechanism(t *testing.T) {
	t.Parallel()
	d := front(t)
	for _, p := range talk.Protocols() {
		for _, mode := range talk.Modes() {
			for _, m := range talk.Mechanisms(p) {
				for leg, to := range legs(d.W) {
					t.Run(string(p)+"/"+string(mode)+"/"+m+"/backend-"+leg, func(t *testing.T) {
						c := d.dial(t, p, mode)
						login(t, c, m, to.account, to.server)
						if err := c.Quit(); err != nil {
							t.Errorf("ending the session: %v", err)
						}
					})
				}
			}
		}
	}
}

// A client may abort an exchange with "*" and then log in on the same connection (RFC 3501 6.2.2, RFC 5034 section 4,
// RFC 4954 section 4, RFC 5804 2.1).
func TestAbortedExchange(t *testing.T) {
	t.Parallel()
	d := front(t)
	for _, p := range talk.Protocols() {
		t.Run(string(p), func(t *testing.T) {
			c := d.dial(t, p, talk.StartTLS)
			abort := map[talk.Protocol][2]string{
				talk.IMAP:       {"x AUTHENTICATE PLAIN\r\n", "*\r\n"},
				talk.POP3:       {"AUTH PLAIN\r\n", "*\r\n"},
				talk.Submission: {"AUTH PLAIN\r\n", "*\r\n"},
				talk.Sieve:      {"AUTHENTICATE \"PLAIN\"\r\n", "\"*\"\r\n"},
			}[p]
			if err := c.Send(abort[0]); err != nil {
				t.Fatal(err)
			}
			if line, err := c.ReadLine(); err != nil {
				t.Fatalf("no challenge: %v", err)
			} else if line == "" {
				t.Fatal("the challenge is an empty line")
			}
			if err := c.Send(abort[1]); err != nil {
				t.Fatal(err)
			}
			r, err := c.Reply("x")
			if err != nil {
				t.Fatal(err)
			}
			if r.OK {
				t.Fatalf("an aborted exchange ends with %q", r.Final)
			}
			login(t, c, "PLAIN-IR", d.W.Account("ann@example.com"), stage.Back1)
		})
	}
}

// A wrong password does not end the session, and the right one behind it is taken.
func TestSecondTry(t *testing.T) {
	t.Parallel()
	d := front(t)
	for _, p := range talk.Protocols() {
		for _, m := range []string{"PLAIN-IR", "LOGIN", "SCRAM-SHA-256"} {
			t.Run(string(p)+"/"+m, func(t *testing.T) {
				c := d.dial(t, p, talk.StartTLS)
				r, err := c.Login(m, "ann@example.com", "not sesame")
				if err != nil {
					t.Fatal(err)
				}
				if r.OK {
					t.Fatalf("a wrong password is taken: %s", r.Final)
				}
				login(t, c, m, d.W.Account("ann@example.com"), stage.Back1)
			})
		}
	}
}
