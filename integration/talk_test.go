package integration

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// secretOf is what an account proves itself with in a mechanism.
func secretOf(mechanism string, a stage.Account) string {
	if strings.HasPrefix(mechanism, "OAUTHBEARER") || strings.HasPrefix(mechanism, "XOAUTH2") {
		return stage.TokenOf(a.Login)
	}
	return a.Password
}

// login logs an account in and asks where the session is.
func login(t testing.TB, c *talk.Conn, mechanism string, a stage.Account, want string) {
	t.Helper()
	r, err := c.Login(mechanism, a.Login, secretOf(mechanism, a))
	if err != nil {
		t.Fatalf("%s as %s: %v", mechanism, a.Login, err)
	}
	if !r.OK {
		t.Fatalf("%s as %s is refused: %s", mechanism, a.Login, r.Final)
	}
	where(t, c, want)
}

// where asks the backend for its name.
func where(t testing.TB, c *talk.Conn, want string) {
	t.Helper()
	got, err := c.Where()
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Fatalf("the session is on %s, want %s", got, want)
	}
}

// noop is a round trip before the login: behind it the server, too, is done with the handshake.
func noop(t testing.TB, c *talk.Conn) {
	t.Helper()
	command := map[talk.Protocol]string{talk.IMAP: "NOOP", talk.POP3: "CAPA", talk.Submission: "NOOP", talk.Sieve: "NOOP"}[c.Proto]
	if r, err := c.Command(command); err != nil || !r.OK {
		t.Fatalf("%s: %+v, %v", command, r, err)
	}
}

// send submits a message in an authenticated session and returns its subject, which is like no other.
func send(t testing.TB, c *talk.Conn, from, to string) string {
	t.Helper()
	subject := "note " + rand.Text()
	steps := []string{"MAIL FROM:<" + from + ">", "RCPT TO:<" + to + ">", "DATA",
		fmt.Sprintf("From: %s\r\nTo: %s\r\nSubject: %s\r\n\r\nGood day.\r\n.", from, to, subject)}
	for _, step := range steps {
		r, err := c.Command(step)
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		if !r.OK {
			t.Fatalf("%s is refused: %s", step, r.Final)
		}
	}
	return subject
}

// waitForMail waits until the account's INBOX on the server has a message with the subject.
func waitForMail(t testing.TB, d *stage.Dovecot, login, subject string) {
	t.Helper()
	eventually(t, "mail in the INBOX of "+login, func() error {
		files, err := filepath.Glob(filepath.Join(d.MailDir, login, "Maildir", "*", "*"))
		if err != nil {
			return err
		}
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "Subject: "+subject) {
				return nil
			}
		}
		return fmt.Errorf("none of %d messages has the subject %q", len(files), subject)
	})
}

// eventually calls check until it returns nil, for at most 20 seconds.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}
