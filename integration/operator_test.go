package integration

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// command runs one of mailmux's commands and wants it to end with 0.
func (d *daemon) command(t testing.TB, args ...string) string {
	t.Helper()
	out, code, err := d.Run(t.Context(), args[0], args[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	if code != 0 {
		t.Fatalf("mailmux %s ends with %d:\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// An operator looks an account up, sees its sessions, takes a backend out of service and puts it back, and ends a
// session.
func TestOperator(t *testing.T) {
	t.Parallel()
	w := world(t)
	d := ownDaemon(t, w, nil)
	ann, bob := w.Account("ann@example.com"), w.Account("bob@example.com")
	t.Run("check", func(t *testing.T) {
		d.command(t, "check")
		out, _, err := d.Run(t.Context(), "check", "-online")
		if err != nil {
			t.Fatal(err)
		}
		// One host of this configuration is dead on purpose, and so named.
		if !strings.Contains(out, stage.FakeHost("dead")) {
			t.Errorf("check -online does not name the dead member:\n%s", out)
		}
	})
	t.Run("lookup", func(t *testing.T) {
		out := d.command(t, "lookup", "ANN@example.net")
		for _, want := range []string{"ann@example.com", stage.AccountDN(ann.Login), "hostServer", stage.Back1, w.Back1.IP, "(uid=ann@example.com)"} {
			if !strings.Contains(out, want) {
				t.Errorf("lookup does not tell %q:\n%s", want, out)
			}
		}
		out, code, err := d.Run(t.Context(), "lookup", "nobody@example.com")
		if err != nil || code != 4 {
			t.Errorf("lookup of nobody ends with %d, %v:\n%s", code, err, out)
		}
	})
	t.Run("who and kick", func(t *testing.T) {
		c := d.dial(t, talk.IMAP, talk.StartTLS)
		login(t, c, "PLAIN-IR", ann, stage.Back1)
		if out := d.command(t, "who"); !strings.Contains(out, ann.Login) || !strings.Contains(out, stage.Back1) {
			t.Errorf("who does not show the session:\n%s", out)
		}
		var parsed any
		if out := d.command(t, "who", "-json"); json.Unmarshal([]byte(out), &parsed) != nil {
			t.Errorf("who -json is not JSON:\n%s", out)
		}
		d.command(t, "kick", "-account", ann.Login)
		if rest, err := c.Rest(); err != nil {
			t.Errorf("the session does not end: %q, %v", rest, err)
		}
		if out := d.command(t, "who"); strings.Contains(out, ann.Login) {
			t.Errorf("who still shows the session:\n%s", out)
		}
	})
	t.Run("withdraw and ready", func(t *testing.T) {
		stay := d.dial(t, talk.IMAP, talk.StartTLS)
		login(t, stay, "PLAIN-IR", bob, stage.Back2)
		d.command(t, "withdraw", stage.Back2)
		if out := d.command(t, "status"); !strings.Contains(out, stage.Back2) {
			t.Errorf("status does not show the host:\n%s", out)
		}
		for _, p := range talk.Protocols() {
			r, err := d.dial(t, p, talk.StartTLS).Login("PLAIN-IR", "o'hara@example.com", w.Account("o'hara@example.com").Password)
			if err != nil {
				t.Fatal(err)
			}
			refused(t, p, r, toldTemp)
		}
		where(t, stay, stage.Back2)
		d.command(t, "ready", stage.Back2)
		login(t, d.dial(t, talk.IMAP, talk.StartTLS), "PLAIN-IR", bob, stage.Back2)
	})
	t.Run("a name that nobody has", func(t *testing.T) {
		out, code, err := d.Run(t.Context(), "withdraw", "back9.example.com")
		if err != nil || code == 0 {
			t.Errorf("ends with %d, %v:\n%s", code, err, out)
		}
	})
	t.Run("metrics", func(t *testing.T) {
		text, err := d.Get(t.Context(), "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(text, ann.Login) || strings.Contains(text, `="127.`) && strings.Contains(text, "client=") {
			t.Error("a metric is labelled with a user or a client")
		}
		if !strings.Contains(text, "mailmux_") {
			t.Errorf("no metric of mailmux:\n%s", text)
		}
	})
}

// Two frontends that take each other for the home of an account find out by the count of hops, and tell the client that
// it is a temporary matter. Nothing is left running in a circle.
func TestLoopBetweenFrontends(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	hosts := map[string]string{"a": w.Net.IP(60), "b": w.Net.IP(61)}
	text := fmt.Sprintf("  loop-a.example.com: {members: [%s], check: {mode: off}}\n  loop-b.example.com: {members: [%s], check: {mode: off}}", hosts["a"], hosts["b"])
	// Each has a directory of its own that says the other is the home.
	daemons := make(map[string]*daemon)
	for i, name := range []string{"a", "b"} {
		other := map[string]string{"a": "loop-b.example.com", "b": "loop-a.example.com"}[name]
		d, err := startDaemon(w, builtProgram(t, "mailmux"), filepath.Join(w.Dir, "loop"+name), 60+i, func(s *setup) {
			s.Hosts = text
			s.Servers = "ldif:" + writeLDIF(t, s.Dir, stage.Account{Login: "ann@example.com", Password: "sesame", Host: other})
			s.TrustAll = true
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Stop)
		showDaemonLog(t, d)
		daemons[name] = d
	}
	for _, p := range talk.Protocols() {
		c := daemons["a"].dial(t, p, talk.StartTLS)
		r, err := c.Login("PLAIN-IR", "ann@example.com", "sesame")
		if err != nil {
			t.Fatal(err)
		}
		refused(t, p, r, toldTemp)
		c.Close()
	}
	for name, d := range daemons {
		events, err := d.Events("session")
		if err != nil {
			t.Fatal(err)
		}
		if n := len(events); n > 4*8 {
			t.Errorf("frontend %s saw %d sessions of four logins", name, n)
		}
		settled(t, d, usage{})
	}
}
