package integration

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// SCRAM is relayed: the exchange is between client and backend, each verifies the other, and the frontend could not log
// in by itself. Channel binding cannot go through it, and a client that insists on it is refused before any backend
// hears of it.
func TestScramRelay(t *testing.T) {
	t.Parallel()
	d := front(t)
	hashes := map[string]*talk.Scram{"SCRAM-SHA-1": {Hash: sha1.New}, "SCRAM-SHA-256": {Hash: sha256.New}}
	for _, p := range talk.Protocols() {
		for name, like := range hashes {
			for _, initial := range []bool{true, false} {
				s := &talk.Scram{Hash: like.Hash, User: "bob@example.com", Password: "open"}
				r, err := d.dial(t, p, talk.StartTLS).Authenticate(name, s, initial)
				if err != nil || !r.OK {
					t.Errorf("%s %s: %+v, %v", p, name, r, err)
				}
				// Some protocols carry the server's signature in the OK; where it was a challenge it was verified.
				if p == talk.IMAP && !s.Verified {
					t.Errorf("%s %s: the server's signature did not come", p, name)
				}
			}
			for _, header := range []string{"p=tls-unique,,", "p=tls-exporter,,", "p=tls-server-end-point,,"} {
				s := &talk.Scram{Hash: like.Hash, User: "bob@example.com", Password: "open", GS2: header}
				r, err := d.dial(t, p, talk.StartTLS).Authenticate(name, s, true)
				if err != nil {
					t.Errorf("%s %s %s: %v", p, name, header, err)
				}
				if r.OK {
					t.Errorf("%s %s %s is taken: %s", p, name, header, r.Final)
				}
			}
		}
	}
	b, err := os.ReadFile(d.Log)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), `"open"`) {
		t.Error("the log has the password")
	}
}

// A refused bearer token brings the backend's reason to the client, in JSON, and the client's empty answer back to the
// backend (RFC 7628 3.2.3).
func TestBearerErrorRelay(t *testing.T) {
	t.Parallel()
	d := front(t)
	for _, p := range talk.Protocols() {
		for _, name := range []string{"OAUTHBEARER", "XOAUTH2"} {
			t.Run(string(p)+"/"+name, func(t *testing.T) {
				c := d.dial(t, p, talk.StartTLS)
				r, reason, err := c.Bearer(name, "ann@example.com", "expired", true)
				if err != nil {
					t.Fatal(err)
				}
				refused(t, p, r, toldAuth)
				var parsed struct{ Status string }
				if err := json.Unmarshal([]byte(reason), &parsed); err != nil || parsed.Status == "" {
					t.Errorf("the reason %q is not the backend's JSON: %v", reason, err)
				}
				// A token of another user must not do either.
				r, _, err = c.Bearer(name, "ann@example.com", stage.TokenOf("bob@example.com"), true)
				if err != nil {
					t.Fatal(err)
				}
				if r.OK {
					t.Fatal("bob's token opens ann's mailbox")
				}
				login(t, c, name+"-IR", d.W.Account("ann@example.com"), stage.Back1)
			})
		}
	}
}

// With master logins the password is verified here by an LDAP bind, and a client certificate alone is enough for
// EXTERNAL; the backend is logged in to as a master user, in both of its forms.
func TestMasterLogin(t *testing.T) {
	t.Parallel()
	w := world(t)
	for _, format := range []string{"authzid", "separator"} {
		t.Run(format, func(t *testing.T) {
			d := ownDaemon(t, w, func(s *setup) {
				s.Backend = "  login: master\n  master: {user: " + stage.MasterUser + ", password_file: " + s.Dir + "/master.secret, format: " + format + "}"
				s.TLS = "  client_ca_file: " + w.CA.File
				s.Mechs = "plain, login, external"
			})
			for _, p := range talk.Protocols() {
				t.Run(string(p), func(t *testing.T) { masterLogins(t, d, p) })
			}
		})
	}
}

func masterLogins(t *testing.T, d *daemon, p talk.Protocol) {
	for _, to := range legs(d.W) {
		login(t, d.dial(t, p, talk.StartTLS), "PLAIN-IR", to.account, to.server)
	}
	for _, password := range []string{"wrong", "", " "} {
		r, err := d.dial(t, p, talk.StartTLS).Login("PLAIN-IR", "ann@example.com", password)
		if err != nil {
			t.Fatal(err)
		}
		refused(t, p, r, toldAuth)
	}
	files, err := d.W.CA.IssueClient("ann@example.com")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	external := func(identity string) (*talk.Conn, talk.Reply) {
		c := d.dialWith(t, p, d.addr(p, talk.StartTLS), talk.Options{TLS: talk.StartTLS, Cert: &pair})
		r, err := c.Login("EXTERNAL-IR", identity, "")
		if err != nil {
			t.Fatalf("EXTERNAL as %q: %v", identity, err)
		}
		return c, r
	}
	for _, identity := range []string{"", "ann@example.com"} {
		c, r := external(identity)
		if !r.OK {
			t.Fatalf("EXTERNAL as %q is refused: %s", identity, r.Final)
		}
		where(t, c, stage.Back1)
	}
	if _, r := external("bob@example.com"); r.OK {
		t.Error("ann's certificate opens bob's mailbox")
	}
	// Without a certificate EXTERNAL is no way in.
	r, err := d.dial(t, p, talk.StartTLS).Login("EXTERNAL-IR", "ann@example.com", "")
	if err != nil {
		t.Fatal(err)
	}
	if r.OK {
		t.Error("EXTERNAL without a certificate logs in")
	}
}

// An authorization identity says whose mailbox is meant. Whether the one who authenticates may act for another is the
// backend's decision: one account may not for another, a master user of the backend may, and is led to the home host of
// the account meant.
func TestAuthorizationIdentity(t *testing.T) {
	t.Parallel()
	d := front(t)
	for _, p := range talk.Protocols() {
		t.Run(string(p), func(t *testing.T) {
			c := d.dial(t, p, talk.StartTLS)
			for _, message := range []string{"bob@example.com\x00ann@example.com\x00sesame", "bob@example.com\x00" + stage.MasterUser + "\x00wrong"} {
				r, err := c.Authenticate("PLAIN", talk.Said(message), true)
				if err != nil {
					t.Fatal(err)
				}
				refused(t, p, r, toldAuth)
			}
			for _, message := range []string{"bob@example.com\x00bob@example.com\x00open", "bob@example.com\x00" + stage.MasterUser + "\x00" + stage.MasterPassword} {
				c := d.dial(t, p, talk.StartTLS)
				if r, err := c.Authenticate("PLAIN", talk.Said(message), true); err != nil || !r.OK {
					t.Fatalf("%q: %+v, %v", message, r, err)
				}
				where(t, c, stage.Back2)
			}
		})
	}
}
