package mailstore_test

import (
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2/imapclient"

	"mailmux/tools/embedded/mailstore"
)

func TestIMAPCapabilitiesAndID(t *testing.T) {
	server, _ := newTLS(t)
	b := newBackend(t, mailstore.Config{TLS: server}, newStorage(t))
	d := dial(t, listen(t, b, mailstore.IMAP, nil))
	if greeting := d.expect("* OK [CAPABILITY "); !strings.Contains(greeting, " AUTH=PLAIN AUTH=LOGIN ID STARTTLS] ") {
		t.Errorf("greeting %q", greeting)
	}
	d.ask("* CAPABILITY IMAP4rev1 SASL-IR LITERAL- AUTH=PLAIN AUTH=LOGIN ID STARTTLS", "1 CAPABILITY")
	d.expect("1 OK")
	d.ask(`* ID ("name" "east.example.com")`, `2 ID ("x-originating-ip" "192.0.2.7" "Name" "a \"b\" c" "x" NIL)`)
	d.expect("2 OK")
	d.ask("* ID", "3 ID NIL")
	d.expect("3 OK")
	d.ask("4 NO", "4 LOGIN ann@example.com wrong")
	if got := d.ask("5 OK [CAPABILITY ", "5 LOGIN ann@example.com sesame"); strings.Contains(got, "STARTTLS") ||
		!strings.Contains(got, " ID] Logged in to east.example.com") || strings.Contains(got, "AUTH=") {
		t.Errorf("login: %q", got)
	}
	if got := d.ask("* CAPABILITY ", "6 CAPABILITY"); strings.Contains(got, "STARTTLS") || !strings.Contains(got, "MOVE") {
		t.Errorf("capabilities after login: %q", got)
	}
	d.expect("6 OK")
	d.ask("* ID", "7 ID NIL") // mail programs ask after the login, too
	d.expect("7 OK")
	logins := b.Logins()
	if len(logins) != 1 || logins[0].Account != "ann@example.com" || logins[0].Identity["x-originating-ip"] != "192.0.2.7" ||
		logins[0].Identity["name"] != `a "b" c` {
		t.Errorf("logins %v", logins)
	}
}

func TestIMAPLogins(t *testing.T) {
	b := newBackend(t, mailstore.Config{MasterUser: "master", MasterPassword: "secret"}, newStorage(t))
	addr := listen(t, b, mailstore.IMAP, nil)
	for _, test := range []struct{ lines, want string }{
		{"1 LOGIN ann@example.com sesame", "1 OK"},
		{`1 LOGIN "ANN@example.com" "sesame"`, "1 OK"},
		{"1 LOGIN {15+}\r\nann@example.com {6+}\r\nsesame", "1 OK"},
		{"1 LOGIN {15+}\r\nann@example.com {5+}\r\n1 ID ", "1 NO"}, // a literal is not a command
		{"1 LOGIN ann@example.com open", "1 NO"},
		{"1 LOGIN \"ann@example.com*master\" secret", "1 OK"},
		{"1 LOGIN \"ann@example.com*master\" wrong", "1 NO"},
		{"1 LOGIN master secret", "1 NO"},
		{"1 AUTHENTICATE PLAIN " + plain("", "ann@example.com", "sesame"), "1 OK"},
		{"1 AUTHENTICATE PLAIN " + plain("ann@example.com", "ann@example.com", "sesame"), "1 OK"},
		{"1 AUTHENTICATE PLAIN " + plain("bob@example.com", "ann@example.com", "sesame"), "1 NO"},
		{"1 AUTHENTICATE PLAIN " + plain("bob@example.com", "master", "secret"), "1 OK"},
		{"1 AUTHENTICATE PLAIN " + plain("bob@example.com", "master", ""), "1 NO"},
		{"1 AUTHENTICATE PLAIN " + plain("eve@example.com", "master", "secret"), "1 NO"},
		{"1 AUTHENTICATE PLAIN\r\n" + plain("", "bob@example.com", "open"), "1 OK"},
		{"1 AUTHENTICATE LOGIN\r\nYm9iQGV4YW1wbGUuY29t\r\nb3Blbg==", "1 OK"},
		{"1 AUTHENTICATE SCRAM-SHA-1", "1 NO"},
	} {
		d := dial(t, addr)
		d.expect("* OK")
		d.send("%s", test.lines)
		if got := d.until("1 "); !strings.Contains("\n"+got, "\n"+test.want) {
			t.Errorf("%q: got %q, want %s", test.lines, got, test.want)
		}
	}
}

func TestIMAPTLS(t *testing.T) {
	server, client := newTLS(t)
	b := newBackend(t, mailstore.Config{TLS: server, RequireTLS: true}, newStorage(t))
	addr := listen(t, b, mailstore.IMAP, nil)
	d := dial(t, addr)
	if greeting := d.expect("* OK"); !strings.Contains(greeting, "STARTTLS LOGINDISABLED") || strings.Contains(greeting, "AUTH=") {
		t.Errorf("greeting %q", greeting)
	}
	d.ask("1 NO [PRIVACYREQUIRED]", "1 LOGIN ann@example.com sesame")
	d.ask("2 OK", "2 STARTTLS")
	d.secure(client)
	if got := d.ask("* CAPABILITY ", "3 CAPABILITY"); strings.Contains(got, "STARTTLS") || !strings.Contains(got, "AUTH=PLAIN") {
		t.Errorf("capabilities under TLS: %q", got)
	}
	d.expect("3 OK")
	d.ask("4 NO", "4 STARTTLS")
	d.ask("5 OK", "5 LOGIN ann@example.com sesame")

	d = dial(t, addr)
	d.expect("* OK")
	d.send("1 STARTTLS\r\n2 NOOP")
	d.closed()

	c, err := imapclient.DialTLS(listen(t, b, mailstore.IMAP, server), &imapclient.Options{TLSConfig: client})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Login("ann@example.com", "sesame").Wait(); err != nil {
		t.Error(err)
	}
}

// TestIMAPSeesDeliveries: a message arrives while a session has the mailbox open.
func TestIMAPSeesDeliveries(t *testing.T) {
	disk := newStorage(t)
	d := dial(t, listen(t, newBackend(t, mailstore.Config{}, disk), mailstore.IMAP, nil))
	d.expect("* OK")
	d.ask("1 OK", "1 LOGIN ann@example.com sesame")
	d.send("2 SELECT INBOX")
	d.until("2 OK")
	d.send("3 IDLE")
	d.expect("+ ")
	if err := disk.Deliver("ann@example.com", []byte("Subject: two\r\n\r\nx\r\n")); err != nil {
		t.Fatal(err)
	}
	d.until("* 2 EXISTS")
	d.send("DONE")
	d.until("3 OK")
	d.send("4 APPEND INBOX {26+}\r\nSubject: three\r\n\r\nx ID (\r\n") // a line of a literal looks like a command
	d.until("4 OK")
	d.send("5 FETCH 3 BODY[TEXT]")
	if got := d.until("5 OK"); !strings.Contains(got, "x ID (") {
		t.Errorf("appended message: %q", got)
	}
}
