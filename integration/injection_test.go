package integration

import (
	"strings"
	"testing"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// Commands that an attacker on the wire puts behind STARTTLS would be taken for the client's own under TLS. They end
// the session (CVE-2011-0411 and its many kin).
func TestInjectionBehindStartTLS(t *testing.T) {
	t.Parallel()
	d := front(t)
	injected := map[talk.Protocol]string{
		talk.IMAP:       "a STARTTLS\r\nb LOGIN mallory@example.com x\r\n",
		talk.POP3:       "STLS\r\nUSER mallory@example.com\r\n",
		talk.Submission: "STARTTLS\r\nAUTH PLAIN AG1hbGxvcnkAeA==\r\n",
		talk.Sieve:      "STARTTLS\r\nNOOP \"injected\"\r\n",
	}
	for _, p := range talk.Protocols() {
		t.Run(string(p), func(t *testing.T) {
			c := d.dial(t, p, talk.Plain)
			if err := c.Send(injected[p]); err != nil {
				t.Fatal(err)
			}
			r, err := c.Reply("a")
			if err != nil || !r.OK {
				return // the session has ended, or STARTTLS is refused
			}
			if err := c.Handshake(); err != nil {
				return
			}
			if p == talk.Sieve { // its capabilities would come first
				if r, err = c.Reply(""); err != nil {
					return
				}
			}
			if rest, err := c.Rest(); rest != "" {
				t.Fatalf("an answer to the injected command comes under TLS: %q, %v", rest, err)
			}
			t.Error("the session goes on under TLS")
		})
	}
}

// The same on the other leg: an answer put behind the member's OK to STARTTLS ends the connection, and no credentials
// are told.
func TestInjectionByTheBackend(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	f := startFakes(t, w)
	d := ownDaemon(t, w, nil)
	for _, p := range talk.Protocols() {
		t.Run(string(p), func(t *testing.T) {
			r, err := d.dial(t, p, talk.StartTLS).Login("PLAIN-IR", stage.FakeLogin("injecting"), stage.FakePassword)
			if err != nil {
				t.Fatal(err)
			}
			refused(t, p, r, toldTemp)
		})
	}
	heard := f.heardBy("injecting")
	if !strings.Contains(heard, "STARTTLS") || !strings.Contains(heard, "STLS") {
		t.Errorf("the member was not asked for TLS:\n%s", heard)
	}
	for _, word := range []string{"AUTH", "LOGIN ", "PASS", "<TLS>"} {
		if strings.Contains(heard, word) {
			t.Errorf("the member heard %q:\n%s", word, heard)
		}
	}
}

// What a client says before STARTTLS counts for nothing behind it: an EHLO, an ID, a USER.
func TestForgottenByStartTLS(t *testing.T) {
	t.Parallel()
	d := front(t)
	t.Run("pop3 USER", func(t *testing.T) {
		c := d.dial(t, talk.POP3, talk.Plain)
		if r, err := c.Command("USER ann@example.com"); err != nil || !r.OK {
			t.Fatalf("%+v, %v", r, err)
		}
		if err := c.StartTLS(); err != nil {
			return // STLS behind USER may be refused as well
		}
		r, err := c.Command("PASS sesame")
		if err != nil {
			t.Fatal(err)
		}
		if r.OK {
			t.Errorf("a USER in the clear counts under TLS: %s", r.Final)
		}
	})
	t.Run("submission EHLO", func(t *testing.T) {
		c := d.dial(t, talk.Submission, talk.Plain)
		if r, err := c.Command("STARTTLS"); err != nil || !r.OK {
			t.Fatalf("%+v, %v", r, err)
		}
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		r, err := c.Command("AUTH PLAIN AGFubkBleGFtcGxlLmNvbQBzZXNhbWU=")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(r.Final, "503") {
			t.Errorf("AUTH without an EHLO under TLS is answered %q, want 503", r.Final)
		}
	})
}

// A browser that is made to speak to a mail port is cut off at its first line.
func TestForeignProtocol(t *testing.T) {
	t.Parallel()
	d := front(t)
	for _, p := range talk.Protocols() {
		t.Run(string(p), func(t *testing.T) {
			c, err := talk.Connect(p, d.addr(p, talk.Plain), talk.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.Send("POST / HTTP/1.1\r\nHost: mail\r\n\r\na LOGIN ann@example.com sesame\r\nUSER ann@example.com\r\nPASS sesame\r\n"); err != nil {
				t.Fatal(err)
			}
			all, _ := c.Rest() // a reset is as good as an end
			for _, taken := range []string{"a OK", "+OK Logged in", "235"} {
				if strings.Contains(all, taken) {
					t.Errorf("a login behind an HTTP request is taken:\n%s", all)
				}
			}
		})
	}
}
