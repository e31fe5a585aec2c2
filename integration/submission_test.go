package integration

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// Before AUTH only a few commands are allowed, and each of the others gets the code that its RFC says.
func TestSubmissionBeforeAuth(t *testing.T) {
	t.Parallel()
	d := front(t)
	steps := []struct{ command, want string }{
		{"NOOP", "250"},
		{"RSET", "250"},
		{"HELO client.example.net", "250"},
		{"EHLO client.example.net", "250"},
		{"MAIL FROM:<ann@example.com>", "530"}, // RFC 4954 section 6
		{"RCPT TO:<bob@example.com>", "5"},
		{"DATA", "5"},
		{"VRFY ann", "5"},
		{"AUTH NONSENSE", "504"}, // RFC 4954 section 4
		{"AUTH PLAIN !!!", "501"},
	}
	c := d.dial(t, talk.Submission, talk.StartTLS)
	for i, s := range steps {
		if i > 0 && i%4 == 0 { // too many bad commands end a session
			c = d.dial(t, talk.Submission, talk.StartTLS)
		}
		r, err := c.Command(s.command)
		if err != nil {
			t.Fatalf("%s: %v", s.command, err)
		}
		if !strings.HasPrefix(r.Final, s.want) {
			t.Errorf("%s is answered %q, want %s", s.command, r.Final, s.want)
		}
	}
}

// After AUTH every extension of the backend works, since its bytes are passed on: BDAT with binary chunks, DSN, 8BITMIME
// and SMTPUTF8 through Postfix, BURL's absence included; and the capabilities are the backend's own.
func TestSubmissionExtensions(t *testing.T) {
	t.Parallel()
	d := front(t)
	needPostfix(t, d.W)
	c := d.dial(t, talk.Submission, talk.StartTLS)
	login(t, c, "PLAIN-IR", d.W.Account("pete@example.com"), stage.PostHost)
	r, err := c.Command("EHLO client.example.net")
	if err != nil {
		t.Fatal(err)
	}
	offer := strings.Join(append(r.Lines, r.Final), "\n")
	for _, ext := range []string{"CHUNKING", "DSN", "SMTPUTF8", "8BITMIME", "PIPELINING", "SIZE"} {
		if !strings.Contains(offer, ext) {
			t.Errorf("the backend's %s is missing:\n%s", ext, offer)
		}
	}
	subject := "chunks " + rand.Text()
	head := fmt.Sprintf("From: pete@example.com\r\nTo: letters@example.com\r\nSubject: %s\r\n\r\n", subject)
	body := strings.Repeat("caf\u00e9 \r\n.\r\n", 2000)
	script := "MAIL FROM:<pete@example.com> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x1\r\nRCPT TO:<letters@example.com> NOTIFY=FAILURE\r\n" +
		fmt.Sprintf("BDAT %d\r\n%sBDAT %d LAST\r\n%s", len(head), head, len(body), body)
	if err := c.Send(script); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		r, err := c.Reply("")
		if err != nil {
			t.Fatal(err)
		}
		if !r.OK {
			t.Fatalf("answer %d: %s", i, r.Final)
		}
	}
	waitForMail(t, d.W.Back1, "letters@example.com", subject)
}

// Postfix is told the client's address by XCLIENT and logs it.
func TestSubmissionIdentityAtPostfix(t *testing.T) {
	t.Parallel()
	d := front(t)
	needPostfix(t, d.W)
	from := d.W.Net.IP(stage.HostClient + 55)
	c := d.dialWith(t, talk.Submission, d.addr(talk.Submission, talk.StartTLS), talk.Options{TLS: talk.StartTLS, Source: from})
	login(t, c, "LOGIN", d.W.Account("pete@example.com"), stage.PostHost)
	send(t, c, "pete@example.com", "letters@example.com")
	eventually(t, "the client's address in Postfix's log", func() error {
		if log := d.W.Logs(1 << 20)[stage.PostHost]; !strings.Contains(log, "["+from+"], sasl_method=PLAIN, sasl_username=pete@example.com") {
			return fmt.Errorf("no line with client=…[%s] in %d bytes", from, len(log))
		}
		return nil
	})
}

// The whole ManageSieve session works on the home backend, and STARTTLS makes the frontend say its capabilities once
// more, without STARTTLS and with the mechanisms (RFC 5804 2.2).
func TestManageSieve(t *testing.T) {
	t.Parallel()
	d := front(t)
	addr := fmt.Sprintf("%s:%d", d.IP, stage.PortSieve+strict)
	c := d.dialWith(t, talk.Sieve, addr, talk.Options{})
	if !slices.Contains(c.Capabilities(), `"STARTTLS"`) {
		t.Errorf("STARTTLS is not offered: %q", c.Capabilities())
	}
	if err := c.StartTLS(); err != nil {
		t.Fatal(err)
	}
	again := strings.Join(c.Capabilities(), "\n")
	if strings.Contains(again, `"STARTTLS"`) || !strings.Contains(again, "PLAIN") {
		t.Errorf("the capabilities behind STARTTLS are\n%s", again)
	}
	login(t, c, "PLAIN-IR", d.W.Account("bob@example.com"), stage.Back2)
	script := "require \"fileinto\";\r\nkeep;\r\n"
	for _, command := range []string{
		"HAVESPACE \"main\" 100",
		fmt.Sprintf("PUTSCRIPT \"main\" {%d+}\r\n%s", len(script), script),
		"SETACTIVE \"main\"",
		"LISTSCRIPTS",
		"GETSCRIPT \"main\"",
		"SETACTIVE \"\"",
		"DELETESCRIPT \"main\"",
	} {
		r, err := c.Command(command)
		if err != nil {
			t.Fatal(err)
		}
		if !r.OK {
			t.Errorf("%q is refused: %s", command, r.Final)
		}
		if command == "LISTSCRIPTS" && !slices.Contains(r.Lines, `"main" ACTIVE`) {
			t.Errorf("the script is not there: %q", r.Lines)
		}
	}
	if err := c.Quit(); err != nil {
		t.Error(err)
	}
}
