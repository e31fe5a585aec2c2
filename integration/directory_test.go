package integration

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// The directory goes away in the middle, first frozen, then killed: accounts that are remembered log in, beyond the
// time that the memory is fresh; others get a temporary error and never an answer that would make a mail program
// forget its password; when the directory is back everybody logs in, without a restart.
func TestDirectoryOutage(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	d := ownDaemon(t, w, func(s *setup) { s.Directory = "  cache: {ttl: 100ms, negative_ttl: 100ms, stale: 1h}" })
	ann, bob := w.Account("ann@example.com"), w.Account("bob@example.com")
	remember := func(a stage.Account) {
		login(t, d.dial(t, talk.IMAP, talk.StartTLS), "PLAIN-IR", a, stage.Back1)
	}
	outage := func(t *testing.T, unknown stage.Account) {
		for _, p := range talk.Protocols() {
			began := time.Now()
			login(t, d.dial(t, p, talk.StartTLS), "PLAIN-IR", ann, stage.Back1)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("%s: a remembered account waits %s", p, took)
			}
			for name, a := range map[string]stage.Account{"known to the directory": unknown, "unknown": {Login: "nobody@example.com", Password: "x"}} {
				r, err := d.dial(t, p, talk.StartTLS).Login("PLAIN-IR", a.Login, a.Password)
				if err != nil {
					t.Fatalf("%s, %s: %v", p, name, err)
				}
				refused(t, p, r, toldTemp)
			}
		}
	}
	recovery := func(t *testing.T, a stage.Account, want string) {
		eventually(t, "the login of "+a.Login+" once the directory is back", func() error {
			c, err := talk.Dial(talk.IMAP, d.addr(talk.IMAP, talk.Plain), talk.Options{})
			if err != nil {
				return err
			}
			defer c.Close()
			r, err := c.Login("PLAIN-IR", a.Login, a.Password)
			if err == nil && !r.OK {
				refused(t, talk.IMAP, r, toldTemp)
				err = &refusal{r.Final}
			}
			return err
		})
		login(t, d.dial(t, talk.IMAP, talk.Plain), "PLAIN-IR", a, want)
	}
	remember(ann)
	t.Run("frozen", func(t *testing.T) {
		if err := w.Slapd.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		outage(t, bob)
		if err := w.Slapd.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		recovery(t, bob, stage.Back2)
	})
	t.Run("killed", func(t *testing.T) {
		w.Slapd.Kill()
		outage(t, w.Account("o'hara@example.com"))
		if err := w.Slapd.Restart(); err != nil {
			t.Fatal(err)
		}
		recovery(t, w.Account("o'hara@example.com"), stage.Back2)
	})
}

// The directory is asked over TLS too, and its certificate is verified.
func TestDirectoryOverTLS(t *testing.T) {
	t.Parallel()
	w := world(t)
	ldaps := strings.NewReplacer("ldap://", "ldaps://", fmt.Sprint(stage.PortLDAP), fmt.Sprint(stage.PortLDAPS)).Replace(w.Slapd.URL)
	stranger, err := stage.NewAuthority(t.TempDir(), "stranger")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, servers, more string
		works               bool
	}{
		{"ldaps", ldaps, "  tls_ca_file: " + w.CA.File, true},
		{"starttls", w.Slapd.URL, "  starttls: true\n  tls_ca_file: " + w.CA.File, true},
		{"a stranger's certificate", ldaps, "  tls_ca_file: " + stranger.File, false},
		{"the second server answers", "ldap://" + w.Net.Addr(99, 389) + ", " + w.Slapd.URL, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := ownDaemon(t, w, func(s *setup) { s.Servers, s.Directory = c.servers, c.more })
			for _, p := range talk.Protocols() {
				session := d.dial(t, p, talk.StartTLS)
				if c.works {
					login(t, session, "PLAIN-IR", w.Account("bob@example.com"), stage.Back2)
					continue
				}
				r, err := session.Login("PLAIN-IR", "bob@example.com", "open")
				if err != nil {
					t.Fatal(err)
				}
				refused(t, p, r, toldTemp)
			}
		})
	}
}

// refusal is a login that was refused, as an error.
type refusal struct{ final string }

func (r *refusal) Error() string { return "the login is refused: " + r.final }

// A change in the directory is followed: the next login behind the end of the cache's time goes to the new home host;
// and at once when the old one refuses the password.
func TestChangedHost(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	d := ownDaemon(t, w, func(s *setup) { s.Directory = "  cache: {ttl: 300ms}" })
	dora := w.Account("dora@example.org")
	login(t, d.dial(t, talk.IMAP, talk.StartTLS), "PLAIN-IR", dora, stage.Back1)
	if err := w.Slapd.SetHost(t.Context(), dora.Login, stage.Back2); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the session of dora on the new host", func() error {
		c := d.dial(t, talk.IMAP, talk.StartTLS)
		defer c.Close()
		r, err := c.Login("PLAIN-IR", dora.Login, dora.Password)
		if err != nil {
			return err
		}
		if !r.OK {
			return &refusal{r.Final}
		}
		if at, err := c.Where(); err != nil || at != stage.Back2 {
			return &refusal{"still on " + at}
		}
		return nil
	})
}
