package mailstore_test

import (
	"strings"
	"testing"

	"mailmux/tools/embedded/mailstore"
)

func TestSieve(t *testing.T) {
	server, client := newTLS(t)
	b := newBackend(t, mailstore.Config{TLS: server, RequireTLS: true}, newStorage(t))
	addr := listen(t, b, mailstore.Sieve, nil)
	d := dial(t, addr)
	if got := d.until("OK"); !strings.Contains(got, `"SASL" ""`) || !strings.Contains(got, `"STARTTLS"`) || !strings.Contains(got, "east.example.com") {
		t.Errorf("greeting %q", got)
	}
	d.ask("NO (ENCRYPT-NEEDED)", `AUTHENTICATE "PLAIN" "%s"`, plain("", "ann@example.com", "sesame"))
	d.ask("NO", "LISTSCRIPTS")
	d.ask("OK", "STARTTLS")
	d.secure(client)
	if got := d.until("OK"); !strings.Contains(got, `"SASL" "PLAIN LOGIN"`) || strings.Contains(got, `"STARTTLS"`) {
		t.Errorf("after STARTTLS %q", got)
	}
	d.ask("NO", `AUTHENTICATE "PLAIN" "%s"`, plain("", "ann@example.com", "wrong"))
	d.ask(`""`, `AUTHENTICATE "PLAIN"`)
	d.ask("NO", `"*"`)
	d.ask(`""`, `AUTHENTICATE "PLAIN"`)
	response := plain("", "ann@example.com", "sesame")
	d.ask("OK", "{%d+}\r\n%s", len(response), response)

	d.ask("OK", "PUTSCRIPT \"a \\\"b\\\"\" {5+}\r\nkeep;")
	d.ask("OK", `PUTSCRIPT "two" "stop;"`)
	d.ask("NO (NONEXISTENT)", `SETACTIVE "three"`)
	d.ask("OK", `SETACTIVE "two"`)
	d.send("LISTSCRIPTS")
	if got := d.until("OK"); got != "\"a \\\"b\\\"\"\r\n\"two\" ACTIVE\r\nOK \"done\"\r\n" {
		t.Errorf("LISTSCRIPTS: %q", got)
	}
	d.send(`GETSCRIPT "a \"b\""`)
	if got := d.until("OK"); !strings.HasPrefix(got, "{5}\r\nkeep;\r\n") {
		t.Errorf("GETSCRIPT: %q", got)
	}
	d.ask("NO (ACTIVE)", `DELETESCRIPT "two"`)
	d.ask("NO (ALREADYEXISTS)", `RENAMESCRIPT "two" "a \"b\""`)
	d.ask("OK", `RENAMESCRIPT "two" "three"`)
	d.ask("OK", `SETACTIVE ""`)
	d.ask("OK", `DELETESCRIPT "three"`)
	d.ask("NO (NONEXISTENT)", `GETSCRIPT "three"`)
	d.ask("OK (TAG \"x\")", `NOOP "x"`)
	d.ask("OK", `HAVESPACE "x" 100`)
	d.ask("NO", "PUTSCRIPT")
	d.ask("OK", "LOGOUT")
	d.closed()

	for _, bad := range []string{`NOOP "x`, "NOOP {99999999+}", "NOOP {3}", `NOOP "\`, "NOOP {+}"} {
		d := dial(t, addr)
		d.until("OK")
		d.ask("BYE", "%s", bad)
		d.closed()
	}
	d = dial(t, addr)
	d.until("OK")
	d.send("STARTTLS\r\nNOOP")
	d.closed()
}
