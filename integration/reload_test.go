package integration

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// Reloads under load: clients log in and out without a pause and others stay, while the configuration is read again and
// again, also a faulty one. No login fails and no session is lost.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	w := world(t)
	d := ownDaemon(t, w, nil)
	text, err := d.text()
	if err != nil {
		t.Fatal(err)
	}
	accounts := []stage.Account{w.Account("ann@example.com"), w.Account("bob@example.com"), w.Account("carl@example.com")}
	stay := make([]*talk.Conn, 20)
	for i := range stay {
		p := talk.Protocols()[i%4]
		stay[i] = d.dial(t, p, talk.Modes()[i%3])
		if r, err := stay[i].Login("PLAIN-IR", accounts[i%3].Login, accounts[i%3].Password); err != nil || !r.OK {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var logins atomic.Int64
	var clients sync.WaitGroup
	failures := make(chan error, 8)
	for i := range 8 {
		clients.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				if err := d.visit(talk.Protocols()[n%4], talk.Modes()[n%3], accounts[n%3]); err != nil {
					failures <- err
					return
				}
				logins.Add(1)
			}
		})
	}
	reloads := 0
	for reloads < 20 {
		config := text
		if reloads%4 == 3 {
			config = strings.Replace(text, "hosts:", "hosts: 17\nnonsense:", 1)
		}
		if err := d.Configure(config); err != nil {
			t.Fatal(err)
		}
		before := logins.Load()
		if err := d.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		reloads++
		eventually(t, "ten logins behind a reload", func() error {
			if n := logins.Load() - before; n < 10 && len(failures) == 0 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
	}
	cancel()
	clients.Wait()
	close(failures)
	for err := range failures {
		t.Errorf("a login fails: %v", err)
	}
	for i, c := range stay {
		if _, err := c.Where(); err != nil {
			t.Errorf("session %d, %s, is lost: %v", i, c.Proto, err)
		}
	}
	t.Logf("%d logins and 20 standing sessions during %d reloads, %d of them with a faulty file", logins.Load(), reloads, reloads/4)
}

// visit is one whole session.
func (d *daemon) visit(p talk.Protocol, mode talk.Mode, a stage.Account) error {
	c, err := talk.Dial(p, d.addr(p, mode), talk.Options{TLS: mode, Roots: d.W.CA.Pool})
	if err != nil {
		return err
	}
	defer c.Close()
	r, err := c.Login("PLAIN-IR", a.Login, a.Password)
	if err == nil && !r.OK {
		err = &refusal{r.Final}
	}
	if err != nil {
		return fmt.Errorf("%s over %s as %s: %w", p, mode, a.Login, err)
	}
	return c.Quit()
}

// A reload takes new certificates and a new host table, for new sessions only.
func TestReloadTakesEffect(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	d := ownDaemon(t, w, nil)
	ann := w.Account("ann@example.com")
	old := d.dial(t, talk.IMAP, talk.Implicit)
	login(t, old, "PLAIN-IR", w.Account("dora@example.org"), stage.Back1)
	next, err := w.CA.Issue("mail.example.com", "renewed.example.com")
	if err != nil {
		t.Fatal(err)
	}
	text, err := d.text()
	if err != nil {
		t.Fatal(err)
	}
	text = strings.NewReplacer(w.Front.Cert, next.Cert, w.Front.Key, next.Key,
		"back1.example.com: {members: ["+w.Back1.IP+"]}", "back1.example.com: {members: ["+w.Back2.IP+"]}").Replace(text)
	if err := d.Configure(text); err != nil {
		t.Fatal(err)
	}
	if out, code, err := d.Run(t.Context(), "reload"); err != nil || code != 0 {
		t.Fatalf("mailmux reload ends with %d, %v:\n%s", code, err, out)
	}
	eventually(t, "the new certificate", func() error {
		c, err := talk.Dial(talk.IMAP, d.addr(talk.IMAP, talk.Implicit), talk.Options{TLS: talk.Implicit, Roots: w.CA.Pool, ServerName: "renewed.example.com"})
		if err == nil {
			c.Close()
		}
		return err
	})
	login(t, d.dial(t, talk.IMAP, talk.Implicit), "PLAIN-IR", ann, stage.Back2)
	where(t, old, stage.Back1)
}

// A faulty configuration is refused with every fault, its key and its line, and the old one stays.
func TestReloadOfFaultyFile(t *testing.T) {
	t.Parallel()
	d := ownDaemon(t, world(t), nil)
	text, err := d.text()
	if err != nil {
		t.Fatal(err)
	}
	faulty := strings.Replace(strings.Replace(text, "connections: 2", "conections: 2", 1), "hostname: mail.example.com", "hostname: mail.example.com\ntypo: 1", 1)
	if err := d.Configure(faulty); err != nil {
		t.Fatal(err)
	}
	out, code, err := d.Run(t.Context(), "reload")
	if err != nil {
		t.Fatal(err)
	}
	if code == 0 {
		t.Errorf("mailmux reload says 0 to a faulty file:\n%s", out)
	}
	out, code, err = d.Run(t.Context(), "check")
	if err != nil {
		t.Fatal(err)
	}
	if code != 2 || !strings.Contains(out, ":2: typo") || !strings.Contains(out, ":12: directory.conections") {
		t.Errorf("mailmux check ends with %d and does not name both faults with their lines:\n%s", code, out)
	}
	login(t, d.dial(t, talk.IMAP, talk.Implicit), "PLAIN-IR", d.W.Account("ann@example.com"), stage.Back1)
}

// The certificate is chosen by the server name that the client asks for, and TLS below 1.2 is refused.
func TestCertificateByServerName(t *testing.T) {
	t.Parallel()
	d := front(t)
	for _, p := range talk.Protocols() {
		for _, mode := range []talk.Mode{talk.StartTLS, talk.Implicit} {
			for _, name := range []string{"mail.example.com", "mail.example.org"} {
				t.Run(string(p)+"/"+string(mode)+"/"+name, func(t *testing.T) {
					login(t, d.dialWith(t, p, d.addr(p, mode), talk.Options{TLS: mode, ServerName: name}), "PLAIN-IR", d.W.Account("ann@example.com"), stage.Back1)
				})
			}
		}
	}
	dialer := &tls.Dialer{Config: &tls.Config{RootCAs: d.W.CA.Pool, ServerName: "mail.example.com", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := dialer.DialContext(ctx, "tcp", d.addr(talk.IMAP, talk.Implicit))
	if err == nil {
		c.Close()
		t.Error("TLS 1.1 is accepted")
	} else if errors.Is(err, context.DeadlineExceeded) {
		t.Error("TLS 1.1 is not answered")
	}
}
