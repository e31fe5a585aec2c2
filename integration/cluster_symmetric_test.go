package integration

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"mailmux/integration/stage"
)

// symmetric is two servers, each with a frontend and a Dovecot at one address; half of the accounts live on either.
func symmetric(t testing.TB, change func(d *frontend)) (f *fleet, fronts []*frontend) {
	t.Helper()
	f = newFleet(t, 0, 8, false)
	for i := range f.Accounts {
		f.Accounts[i].Host = fmt.Sprintf("back%d.example.com", i%2+1)
	}
	for n := range 2 {
		f.addMember(t, n, "")
	}
	for n := range 2 {
		fronts = append(fronts, f.front(t, stage.HostBack1+n, func(d *frontend) {
			d.Base = 20000
			d.Hosts = fmt.Sprintf("  back1.example.com: {members: [%s]}\n  back2.example.com: {members: [%s]}", f.Members[0].IP, f.Members[1].IP)
			change(d)
		}))
	}
	return f, fronts
}

// everywhere logs every account in at every frontend, and wants it at home.
func everywhere(t testing.TB, f *fleet, fronts []*frontend) {
	t.Helper()
	for _, d := range fronts {
		for i, a := range f.Accounts {
			c, at := d.session(t, a)
			c.Close()
			if at != member(i%2) {
				t.Errorf("%s at %s is on %s, want %s", a.Login, d.Name, at, member(i%2))
			}
		}
	}
}

// Every server is frontend and backend, and the ports of the host table are Dovecot's: whichever server a client comes to,
// it is relayed to its Dovecot in one hop, also on the same machine.
func TestSymmetric(t *testing.T) {
	t.Parallel()
	f, fronts := symmetric(t, func(*frontend) {})
	everywhere(t, f, fronts)
	for _, d := range fronts {
		events, err := d.Events("session")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e["outcome"] == "ok" && !strings.HasPrefix(fmt.Sprint(e["client"]), "127.0.0.1:") {
				t.Errorf("a session came from another frontend: %v", e)
			}
		}
	}
}

// The host table names the frontends themselves, and each server's Dovecot is reached by its own frontend alone: the
// member that is our own listener is the Dovecot behind it, and nothing goes in a circle.
func TestSymmetricLocal(t *testing.T) {
	t.Parallel()
	f, fronts := symmetric(t, func(d *frontend) {
		d.Backend = "  ports: {imap: 20143, pop3: 20110, submission: 20587, lmtp: 20024}\n" +
			"  local: {ports: {imap: 10143, pop3: 10110, submission: 10587, lmtp: 10024}}"
	})
	everywhere(t, f, fronts)
	out := fronts[0].command(t, "lookup", f.Accounts[0].Login)
	if !strings.Contains(out, f.Members[0].Addr(stage.PortIMAP)) {
		t.Errorf("lookup does not show the Dovecot behind the frontend:\n%s", out)
	}
	f.Members[1].Kill()
	began := time.Now()
	for _, d := range fronts {
		_, _, err := tryLogin(d.addr(), f.Accounts[1])
		if err == nil || !strings.Contains(err.Error(), "UNAVAILABLE") {
			t.Errorf("with its Dovecot dead an account is told %v by %s", err, d.Name)
		}
	}
	t.Logf("both frontends refuse for the time being within %s", time.Since(began).Round(time.Millisecond))
	n := 0
	for _, d := range fronts {
		events, err := d.Events("session")
		if err != nil {
			t.Fatal(err)
		}
		n += len(events)
	}
	if most := 3*len(f.Accounts) + 20; n > most {
		t.Errorf("%d sessions, want at most %d: something goes in a circle", n, most)
	}
	if err := f.Members[1].Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the account logs in again", func() error {
		c, _, err := tryLogin(fronts[0].addr(), f.Accounts[1])
		if err == nil {
			c.Close()
		}
		return err
	})
}

// A host table that names the frontends without saying what is behind them is refused to every client for the time being,
// and not dialed.
func TestSymmetricLoop(t *testing.T) {
	t.Parallel()
	f, fronts := symmetric(t, func(d *frontend) { d.Backend = "  ports: {imap: 20143, pop3: 20110, submission: 20587}" })
	_, _, err := tryLogin(fronts[0].addr(), f.Accounts[0])
	if err == nil || !strings.Contains(err.Error(), "UNAVAILABLE") {
		t.Errorf("a member that is our own listener: %v", err)
	}
	eventually(t, "the checks find out, and lookup tells of it", func() error {
		if out := fronts[0].command(t, "lookup", f.Accounts[0].Login); !strings.Contains(out, "this frontend itself") {
			return errors.New(out)
		}
		return nil
	})
}
