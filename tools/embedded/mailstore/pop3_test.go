package mailstore_test

import (
	"strings"
	"testing"

	"mailmux/tools/embedded/mailstore"
)

func TestPOP3(t *testing.T) {
	disk := newStorage(t)
	if err := disk.Deliver("ann@example.com", []byte("Subject: two\r\n\r\nx\r\n")); err != nil {
		t.Fatal(err)
	}
	b := newBackend(t, mailstore.Config{}, disk)
	addr := listen(t, b, mailstore.POP3, nil)
	d := dial(t, addr)
	d.expect("+OK east.example.com POP3 ready [XCLIENT]")
	d.ask("-ERR", "STAT")
	d.ask("-ERR", "NONSENSE")
	d.ask("+OK", "CAPA")
	if got := d.until("."); !strings.Contains(got, "SASL PLAIN LOGIN\r\n") || strings.Contains(got, "STLS") {
		t.Errorf("CAPA: %q", got)
	}
	d.ask("+OK", "XCLIENT ADDR=192.0.2.7 PORT=4711 SESSION=abc TTL=6")
	d.ask("-ERR", "PASS sesame")
	d.ask("+OK", "USER ann@example.com")
	d.ask("-ERR [AUTH]", "PASS wrong")
	d.ask("+OK", "USER ann@example.com")
	d.ask("+OK logged in to east.example.com, 2 messages", "PASS sesame")
	if logins := b.Logins(); len(logins) != 1 || logins[0].Identity["addr"] != "192.0.2.7" {
		t.Errorf("logins %v", logins)
	}
	d.ask("+OK 2 97", "STAT")
	d.ask("+OK", "LIST")
	if got := d.until("."); got != "1 78\r\n2 19\r\n.\r\n" {
		t.Errorf("LIST: %q", got)
	}
	d.ask("+OK 2 2", "UIDL 2")
	d.ask("+OK 78 octets", "RETR 1")
	if got := d.until(".\r\n"); !strings.HasSuffix(got, "\r\n\r\nfirst\r\n..second\r\n.\r\n") {
		t.Errorf("RETR: %q", got)
	}
	d.ask("+OK", "TOP 1 1")
	if got := d.until(".\r\n"); !strings.HasSuffix(got, "\r\n\r\nfirst\r\n.\r\n") {
		t.Errorf("TOP: %q", got)
	}
	d.ask("-ERR", "RETR 3")
	d.ask("-ERR", "TOP 1 -1")

	second := dial(t, addr)
	second.expect("+OK")
	second.ask("-ERR [IN-USE]", "AUTH PLAIN %s", plain("", "ann@example.com", "sesame"))

	d.ask("+OK", "DELE 1")
	d.ask("-ERR", "RETR 1")
	d.ask("+OK 1 19", "STAT")
	d.ask("+OK", "RSET")
	d.ask("+OK 2 97", "STAT")
	d.ask("+OK", "DELE 1")
	d.ask("+OK bye", "QUIT")
	d.closed()
	if messages, err := disk.Messages("ann@example.com"); err != nil || len(messages) != 1 || messages[0].UID != 2 {
		t.Errorf("after QUIT: %v, %v", messages, err)
	}
	second.ask("+OK", "AUTH PLAIN %s", plain("", "ann@example.com", "sesame"))
	second.ask("+OK", "DELE 1")
	second.conn.Close() // without QUIT nothing is deleted
	if messages, err := disk.Messages("ann@example.com"); err != nil || len(messages) != 1 {
		t.Errorf("after a cut: %v, %v", messages, err)
	}
}

func TestPOP3TLSAndSASL(t *testing.T) {
	server, client := newTLS(t)
	b := newBackend(t, mailstore.Config{TLS: server, RequireTLS: true}, newStorage(t))
	addr := listen(t, b, mailstore.POP3, nil)
	d := dial(t, addr)
	d.expect("+OK")
	d.ask("-ERR", "USER ann@example.com")
	d.ask("-ERR", "AUTH PLAIN %s", plain("", "ann@example.com", "sesame"))
	d.ask("+OK", "STLS")
	d.secure(client)
	d.ask("-ERR", "STLS")
	d.ask("-ERR", "AUTH CRAM-MD5")
	d.ask("-ERR", "AUTH PLAIN *")
	d.ask("+ VXNlcm5hbWU6", "AUTH LOGIN")
	d.ask("+ UGFzc3dvcmQ6", "Ym9iQGV4YW1wbGUuY29t")
	d.ask("+OK logged in", "b3Blbg==")

	d = dial(t, addr)
	d.expect("+OK")
	d.send("STLS\r\nCAPA")
	d.closed()

	d = dial(t, listen(t, b, mailstore.POP3, server))
	d.secure(client)
	d.expect("+OK")
	d.ask("-ERR", "STLS")
	d.send("%s", strings.Repeat("x", 9000))
	d.expect("-ERR line too long")
	d.closed()
}
