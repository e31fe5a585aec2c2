package mailstore_test

import (
	"errors"
	"net/smtp"
	"strings"
	"testing"

	"mailmux/tools/embedded/mailstore"
)

func TestSubmission(t *testing.T) {
	server, client := newTLS(t)
	disk := newStorage(t)
	other := mailstore.NewStorage("disk2")
	if err := other.AddAccount("carl@example.com", "x"); err != nil {
		t.Fatal(err)
	}
	b := newBackend(t, mailstore.Config{TLS: server, Send: func(from string, to []string, message []byte) error {
		if from != "ann@example.com" || len(to) != 1 {
			return errors.New("unexpected envelope")
		}
		return other.Deliver(to[0], message)
	}}, disk)
	addr := listen(t, b, mailstore.Submission, nil)
	secured := func() *smtp.Client {
		t.Helper()
		c, err := smtp.Dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.Mail("ann@example.com"); err == nil || !strings.HasPrefix(err.Error(), "530") {
			t.Errorf("MAIL before AUTH: %v", err)
		}
		if err := c.StartTLS(client); err != nil {
			t.Fatal(err)
		}
		return c
	}
	err := secured().Auth(smtp.PlainAuth("", "ann@example.com", "wrong", "127.0.0.1"))
	if err == nil || !strings.HasPrefix(err.Error(), "535") {
		t.Errorf("wrong password: %v", err)
	}
	c := secured()
	if err := c.Auth(smtp.PlainAuth("", "ann@example.com", "sesame", "127.0.0.1")); err != nil {
		t.Fatal(err)
	}
	send := func(to string) error {
		if err := c.Mail("ann@example.com"); err != nil {
			return err
		}
		if err := c.Rcpt(to); err != nil {
			return err
		}
		w, err := c.Data()
		if err != nil {
			return err
		}
		if _, err := w.Write([]byte(letter)); err != nil {
			return err
		}
		return w.Close()
	}
	if err := send("carl@example.com"); err != nil {
		t.Error(err)
	}
	if err := send("nobody@example.com"); err == nil || !strings.HasPrefix(err.Error(), "451") {
		t.Errorf("send that fails: %v", err)
	}
	messages, err := other.Messages("carl@example.com")
	if err != nil || len(messages) != 1 || !strings.Contains(string(messages[0].Raw), "by east.example.com with ESMTPA") {
		t.Errorf("%v, %v", messages, err)
	}
}

func TestSubmissionToOwnStorage(t *testing.T) {
	disk := newStorage(t)
	b := newBackend(t, mailstore.Config{}, disk)
	d := dial(t, listen(t, b, mailstore.Submission, nil))
	d.expect("220 east.example.com")
	d.send("EHLO client.example.com")
	d.until("250 ")
	d.ask("504", "AUTH SCRAM-SHA-1")
	d.ask("235", "AUTH PLAIN %s", plain("", "ann@example.com", "sesame"))
	d.ask("250", "MAIL FROM:<ann@example.com>")
	d.ask("550", "RCPT TO:<eve@elsewhere.example>")
	d.ask("250", "RCPT TO:<bob@example.com>")
	d.ask("354", "DATA")
	d.ask("250 2.0.0 sent by east.example.com", "Subject: x\r\n\r\ny\r\n.")
	if messages, err := disk.Messages("bob@example.com"); err != nil || len(messages) != 1 {
		t.Errorf("%v, %v", messages, err)
	}
}

func TestLMTP(t *testing.T) {
	disk := newStorage(t)
	b := newBackend(t, mailstore.Config{}, disk)
	d := dial(t, listen(t, b, mailstore.LMTP, nil))
	d.expect("220 east.example.com")
	d.send("LHLO mx.example.com")
	d.until("250 ")
	d.ask("250", "MAIL FROM:<>")
	d.ask("250", "RCPT TO:<ann@example.com>")
	d.ask("550 5.1.1", "RCPT TO:<eve@example.com>")
	d.ask("250", "RCPT TO:<bob@example.com>")
	d.ask("354", "DATA")
	b.Detach(disk)
	d.ask("451 4.2.0", "Subject: x\r\n\r\ny\r\n.")
	d.expect("451 4.2.0")
	b.Attach(disk)
	d.ask("250", "MAIL FROM:<>")
	d.ask("250", "RCPT TO:<ann@example.com>")
	d.ask("250", "RCPT TO:<bob@example.com>")
	d.ask("354", "DATA")
	d.ask("250", "Subject: x\r\n\r\ny\r\n.")
	d.expect("250")
	for _, login := range []string{"ann@example.com", "bob@example.com"} {
		messages, err := disk.Messages(login)
		if err != nil || !strings.Contains(string(messages[len(messages)-1].Raw), "with LMTP") {
			t.Errorf("%s: %v, %v", login, messages, err)
		}
	}
}
