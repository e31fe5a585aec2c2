package integration

import (
	"fmt"
	"strings"
	"testing"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// One person has many names: case, the default domain, an alias domain, the percent sign, an alternate address, the
// domain of the address or of the server name connected to. All of them lead to the same account, in every protocol.
func TestNames(t *testing.T) {
	t.Parallel()
	d := front(t)
	names := []struct {
		name, password, server, sni string
		org                         bool
	}{
		{name: "ann@example.com", password: "sesame", server: stage.Back1},
		{name: "ANN@Example.COM", password: "sesame", server: stage.Back1},
		{name: "ann", password: "sesame", server: stage.Back1},
		{name: "ann%example.com", password: "sesame", server: stage.Back1},
		{name: "ann@example.net", password: "sesame", server: stage.Back1},
		{name: "ann@example.com.", password: "sesame", server: stage.Back1},
		{name: "ann.other@example.com", password: "sesame", server: stage.Back1},
		{name: "juergen@example.com", password: d.W.Account("j\u00fcrgen@example.com").Password, server: stage.Back1},
		{name: "dora@example.org", password: "lamp", server: stage.Back1},
		{name: "dora", password: "lamp", server: stage.Back1, sni: "mail.example.org"},
	}
	for _, p := range talk.Protocols() {
		for _, n := range names {
			t.Run(string(p)+"/"+n.name+" "+n.sni, func(t *testing.T) {
				c := d.dialWith(t, p, d.addr(p, talk.StartTLS), talk.Options{TLS: talk.StartTLS, ServerName: n.sni})
				r, err := c.Login("PLAIN-IR", n.name, n.password)
				if err != nil {
					t.Fatal(err)
				}
				if !r.OK {
					t.Fatalf("refused: %s", r.Final)
				}
				where(t, c, n.server)
			})
		}
	}
	t.Run("dedicated address", func(t *testing.T) {
		c := d.dialWith(t, talk.IMAP, fmt.Sprintf("%s:%d", d.OrgIP(), stage.PortIMAP), talk.Options{TLS: talk.StartTLS})
		if r, err := c.Login(talk.Command, "dora", "lamp"); err != nil || !r.OK {
			t.Fatalf("%+v, %v", r, err)
		}
	})
	t.Run("dora is not of the default domain", func(t *testing.T) {
		r, err := d.dial(t, talk.IMAP, talk.StartTLS).Login(talk.Command, "dora", "lamp")
		if err != nil {
			t.Fatal(err)
		}
		refused(t, talk.IMAP, r, toldAuth)
	})
}

// Capabilities before the login are ours: a mechanism only where it may be used, no leak of what belongs to the
// backend's own leg. After the login the client gets the backend's, once.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	d := front(t)
	t.Run("imap in the OK", func(t *testing.T) {
		c := d.dial(t, talk.IMAP, talk.Implicit)
		r, err := c.Login(talk.Command, "bob@example.com", "open")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(r.Final, "[CAPABILITY ") || !strings.Contains(r.Final, " THREAD=REFERENCES") {
			t.Errorf("the OK has not the backend's capabilities: %s", r.Final)
		}
		for _, line := range r.Lines {
			if strings.HasPrefix(line, "* CAPABILITY") {
				t.Errorf("the capabilities come twice: %q and %q", line, r.Final)
			}
		}
		for _, word := range []string{"STARTTLS", "LOGINDISABLED", "AUTH="} {
			if strings.Contains(r.Final, word) {
				t.Errorf("%s belongs to the time before the login: %s", word, r.Final)
			}
		}
	})
	t.Run("imap when asked before", func(t *testing.T) {
		c := d.dial(t, talk.IMAP, talk.Implicit)
		r, err := c.Command("CAPABILITY")
		if err != nil {
			t.Fatal(err)
		}
		before := strings.Join(r.Lines, "\n")
		for _, word := range []string{"IMAP4rev1", "AUTH=PLAIN", "SASL-IR", "LITERAL+"} {
			if !strings.Contains(before, word) {
				t.Errorf("%s is missing under TLS: %s", word, before)
			}
		}
		if strings.Contains(before, "STARTTLS") {
			t.Errorf("STARTTLS is offered under TLS: %s", before)
		}
		if r, err = c.Login(talk.Command, "bob@example.com", "open"); err != nil || !r.OK {
			t.Fatalf("%+v, %v", r, err)
		}
		all := strings.Join(append(r.Lines, r.Final), "\n")
		if n := strings.Count(all, "CAPABILITY IMAP4rev1"); n != 1 {
			t.Errorf("the capabilities come %d times: %q", n, all)
		}
	})
	t.Run("pop3", func(t *testing.T) {
		for _, mode := range talk.Modes() {
			r, err := d.dial(t, talk.POP3, mode).Command("CAPA")
			if err != nil {
				t.Fatal(err)
			}
			all := strings.Join(r.Lines, "\n")
			if got := strings.Contains(all, "STLS"); got != (mode == talk.Plain) {
				t.Errorf("%s: STLS offered: %t in\n%s", mode, got, all)
			}
			if !strings.Contains(all, "SASL ") || !strings.Contains(all, "USER") {
				t.Errorf("%s: no login is offered in\n%s", mode, all)
			}
		}
	})
	t.Run("submission", func(t *testing.T) {
		for _, mode := range talk.Modes() {
			all := strings.Join(d.dial(t, talk.Submission, mode).Capabilities(), "\n")
			if got := strings.Contains(all, "STARTTLS"); got != (mode == talk.Plain) {
				t.Errorf("%s: STARTTLS offered: %t in\n%s", mode, got, all)
			}
			if !strings.Contains(all, "AUTH ") {
				t.Errorf("%s: no login is offered in\n%s", mode, all)
			}
			if strings.Contains(all, "XCLIENT") {
				t.Errorf("%s: XCLIENT is offered to a stranger in\n%s", mode, all)
			}
		}
	})
}
