package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mailmux/integration/stage"
)

// recorder is a member by LMTP that offers what it is told to, takes everything, and keeps what it hears.
type recorder struct {
	mu    sync.Mutex
	heard strings.Builder
}

func playRecorder(t testing.TB, addr, extensions string) *recorder {
	t.Helper()
	rec := &recorder{}
	scripted(t, addr, func(nc net.Conn) {
		r := bufio.NewReader(nc)
		answer, text := "220 recorder ready", false
		for {
			if answer != "" {
				_, _ = io.WriteString(nc, answer+"\r\n") // the reader notices when the peer is gone
			}
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			rec.mu.Lock()
			rec.heard.WriteString(line)
			rec.mu.Unlock()
			switch verb, _, _ := strings.Cut(strings.TrimSpace(line), " "); {
			case text && line != ".\r\n":
				answer = ""
			case verb == "LHLO":
				answer = "250-recorder\r\n" + extensions + "250 PIPELINING"
			case verb == "DATA":
				answer, text = "354 go on", true
			case verb == "XCLIENT":
				answer = "220 recorder ready"
			default:
				answer, text = "250 2.0.0 OK", false
			}
		}
	})
	return rec
}

// take gives what was heard since the last time.
func (r *recorder) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.heard.String()
	r.heard.Reset()
	return s
}

// What members have is passed on to them; what they have not is left out where nothing is lost by that, and refused where
// something would be (RFC 6152, 6531, 3461). A message of 8 bits is not sent to a member of 7, one that only says so is.
func TestMXExtensions(t *testing.T) {
	w := world(t)
	rich := playRecorder(t, memberAddress(t, w, "recording", stage.PortLMTP), "250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-SIZE\r\n250-XCLIENT ADDR PORT HELO TTL SESSION\r\n")
	poor := playRecorder(t, memberAddress(t, w, "refusing", stage.PortLMTP), "")
	_, addr := lmtpFront(t, w, "")
	bring := func(mail, rcpt, text string) string {
		t.Helper()
		c := carry(t, addr, "LHLO")
		defer c.n.Close()
		c.expect("MAIL FROM:<ann@example.net>"+mail, "250")
		c.expect("RCPT TO:<"+rcpt+">", "250")
		c.expect("DATA", "354")
		c.send("Subject: x\r\n\r\n" + text + "\r\n.\r\n")
		return c.reply()
	}
	richly, poorly := stage.FakeLogin("recording"), stage.FakeLogin("refusing")
	for _, c := range []struct{ mail, rcpt, text, want, hears string }{
		{" BODY=8BITMIME SIZE=100", richly, "gr\xc3\xbc\xc3\x9fe", "250", "MAIL FROM:<ann@example.net> BODY=8BITMIME SIZE=100\r\n"},
		{" BODY=8BITMIME", poorly, "plain after all", "250", "MAIL FROM:<ann@example.net>\r\n"},
		{" BODY=8BITMIME", poorly, "gr\xc3\xbc\xc3\x9fe", "554 5.6.3", ""},
		{" SIZE=100", poorly, "text", "250", "MAIL FROM:<ann@example.net>\r\n"},
	} {
		if got := bring(c.mail, c.rcpt, c.text); !strings.HasPrefix(got, c.want) {
			t.Errorf("%+v: %s", c, got)
		}
		heard := rich.take() + poor.take()
		if !strings.Contains(heard, c.hears) || c.hears == "" && strings.Contains(heard, "MAIL") {
			t.Errorf("%+v: the member hears %q", c, heard)
		}
		if c.rcpt == richly && !strings.Contains(heard, "XCLIENT HELO=mta.example.net") {
			t.Errorf("a member that takes XCLIENT is not told who the client is: %q", heard)
		}
	}
	// Not every member has them: they are not offered, and a sender that uses them all the same is told.
	c := carry(t, addr, "LHLO")
	offer := c.expect("LHLO x", "250")
	for _, extension := range []string{"DSN", "SMTPUTF8"} {
		if strings.Contains(offer, extension) {
			t.Errorf("%s is offered: %s", extension, offer)
		}
	}
	for _, extension := range []string{"PIPELINING", "8BITMIME", "CHUNKING", "ENHANCEDSTATUSCODES", "SIZE 52428800"} {
		if !strings.Contains(offer, extension) {
			t.Errorf("%s is not offered: %s", extension, offer)
		}
	}
	c.expect("MAIL FROM:<ann@example.net> SMTPUTF8", "555 5.5.4")
	c.expect("MAIL FROM:<ann@example.net> RET=HDRS", "555 5.5.4")
	c.expect("MAIL FROM:<\u00e4nn@example.net>", "553 5.6.7")
}

// With a queue DSN is offered whatever the members have: Dovecot has none, and the sender is told all the same of what it asked
// for, and of nothing else.
func TestMXNotifiesInPlaceOfMembers(t *testing.T) {
	w := world(t)
	_, addr := spoolFront(t, w, filepath.Join(t.TempDir(), "spool"), ", min_free: 1MiB")
	c := carry(t, addr, "EHLO")
	if offer := c.expect("EHLO x", "250"); !strings.Contains(offer, "DSN") {
		t.Errorf("DSN is not offered: %s", offer)
	}
	m := mark(t, "dsn")
	c.expect("MAIL FROM:<bob@example.com> RET=HDRS ENVID="+m, "250")
	c.expect("RCPT TO:<ann@example.com> NOTIFY=SUCCESS ORCPT=rfc822;a+2Bnn@example.com", "250")
	c.expect("RCPT TO:<eve@example.com> NOTIFY=NEVER", "250")
	c.expect("DATA", "354")
	c.send(stuffed(letter(m)))
	if got := c.reply(); !strings.HasPrefix(got, "250 2.0.0 Queued as ") {
		t.Error(got)
	}
	c.expect("QUIT", "221")
	var told []string
	for deadline := time.Now().Add(20 * time.Second); len(told) == 0 && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		told = mailbox(t, w.Back2, "bob@example.com", "Original-Envelope-Id: "+m)
	}
	if len(told) != 1 || !strings.Contains(told[0], "Action: delivered") || !strings.Contains(told[0], "Original-Recipient: rfc822;a+nn@example.com") ||
		strings.Contains(told[0], "eve@") {
		t.Errorf("bob is told %q", told)
	}
	for _, login := range []string{"ann@example.com", "eve@example.com"} {
		if n := len(mailbox(t, w.Back1, login, m)); n != 1 {
			t.Errorf("%s has %d copies", login, n)
		}
	}
}

// A client that talks before it is greeted is no mail server; one that waits is greeted after the pause.
func TestMXGreetingDelay(t *testing.T) {
	w := world(t)
	_, addr := mxFront(t, w, ", greeting_delay: 400ms")
	began := time.Now()
	c := carry(t, addr, "EHLO")
	if took := time.Since(began); took < 400*time.Millisecond {
		t.Errorf("greeted after %s", took)
	}
	c.expect("QUIT", "221")
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second)) // a fault shows at the next read
	if _, err := io.WriteString(nc, "EHLO x\r\nMAIL FROM:<>\r\n"); err != nil {
		t.Fatal(err)
	}
	answers, _ := io.ReadAll(nc) // it may end with a reset
	if got := string(answers); !strings.HasPrefix(got, "554 5.5.1 ") || strings.Contains(got, "250") {
		t.Errorf("a client that talks first reads %q", got)
	}
}

// One address may bring so many messages a minute; the next one is for later, and another service is not concerned.
func TestMXRate(t *testing.T) {
	w := world(t)
	_, addr := mxFront(t, w, ", messages_per_minute: 5")
	// A minute may end in the middle: then the count begins anew, once.
	refused := 0
	c := carry(t, addr, "EHLO")
	for range 12 {
		got := c.expect("MAIL FROM:<>", "")
		switch {
		case strings.HasPrefix(got, "450 4.7.0"):
			refused++
		case !strings.HasPrefix(got, "250"):
			t.Fatal(got)
		}
		c.expect("RSET", "250")
	}
	if refused < 2 || refused > 7 {
		t.Errorf("%d of 12 messages were refused for now", refused)
	}
}

// A sender is told once of the delay and once of the end, by mail with the null sender (RFC 3464), and not at all if it did
// not want to be.
func TestSpoolTellsSenders(t *testing.T) {
	w := world(t)
	dir := filepath.Join(t.TempDir(), "spool")
	_, addr := spoolFront(t, w, dir, ", delay_warning: 300ms, max_age: 2s")
	c := carry(t, addr, "EHLO")
	m := mark(t, "told")
	c.expect("MAIL FROM:<ann@example.com>", "250")
	c.expect("RCPT TO:<"+stage.FakeLogin("dead")+">", "250")
	c.expect("RCPT TO:<eve@example.com>", "250")
	c.expect("DATA", "354")
	c.send(stuffed(letter(m)))
	if got := c.reply(); !strings.HasPrefix(got, "250 2.0.0 Queued as ") {
		t.Fatal(got)
	}
	c.expect("MAIL FROM:<>", "250")
	c.expect("RCPT TO:<"+stage.FakeLogin("dead")+">", "250")
	c.expect("DATA", "354")
	c.send(stuffed(letter(m)))
	if got := c.reply(); !strings.HasPrefix(got, "250 2.0.0 Queued as ") {
		t.Fatal(got)
	}
	emptied(t, dir, 20*time.Second)
	actions := map[string]int{}
	for _, text := range mailbox(t, w.Back1, "ann@example.com", m) {
		text = strings.ReplaceAll(text, "\r\n", "\n")
		_, status, _ := strings.Cut(text, "Content-Type: message/delivery-status")
		_, action, _ := strings.Cut(status, "\nAction: ")
		action, _, _ = strings.Cut(action, "\n")
		actions[action]++
		for _, want := range []string{"Return-Path: <>", "Content-Type: multipart/report; report-type=delivery-status", "Auto-Submitted: auto-replied",
			"Reporting-MTA: dns; mail.example.com", "Final-Recipient: rfc822; " + stage.FakeLogin("dead"), "Subject: " + m} {
			if !strings.Contains(text, want) {
				t.Errorf("the notification (%s) has no %q:\n%s", action, want, text)
			}
		}
		_, ours, _ := strings.Cut(text, "This is the mail system")
		if ours, _, _ = strings.Cut(ours, "Content-Type: text/rfc822-headers"); strings.Contains(ours, "127.") {
			t.Errorf("the notification tells an address of ours:\n%s", ours)
		}
	}
	if len(actions) != 2 || actions["delayed"] != 1 || actions["failed"] != 1 {
		t.Errorf("ann was told %v", actions)
	}
	if n := len(mailbox(t, w.Back1, "eve@example.com", m)); n != 1 {
		t.Errorf("eve has %d copies", n)
	}
}

// Real Dovecots log the client's address, as XCLIENT tells it, not the frontend's.
func TestMXTellsDovecotWhoTheClientIs(t *testing.T) {
	w := world(t)
	_, addr := mxFront(t, w, ", idle_timeout: 100ms") // it logs who it was when the connection ends
	from := w.Net.IP(stage.HostClient + 7)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second)) // a fault shows at the next read
	m := mark(t, "whose")
	r := bufio.NewReader(nc)
	for _, step := range []struct{ send, want string }{{"", "220"}, {"EHLO client.example.net\r\n", "250 "}, {"MAIL FROM:<someone@example.net>\r\n", "250 "},
		{"RCPT TO:<ann@example.com>\r\n", "250 "}, {"DATA\r\n", "354"}, {stuffed(letter(m)), "250 "}} {
		if _, err := io.WriteString(nc, step.send); err != nil {
			t.Fatal(err)
		}
		for line := ""; !strings.HasPrefix(line, step.want); {
			if line, err = r.ReadString('\n'); err != nil || line[0] > '3' {
				t.Fatalf("%q: %q, %v", step.send, line, err)
			}
		}
	}
	got := mailbox(t, w.Back1, "ann@example.com", m)
	if len(got) != 1 || !strings.Contains(got[0], "from client.example.net (["+from+"])") {
		t.Errorf("the copy does not say where it comes from: %q", got)
	}
	eventually(t, "Dovecot names the client", func() error {
		if log := w.Logs(20_000)[stage.Back1]; !strings.Contains(log, from) {
			return fmt.Errorf("its log has no %s", from)
		}
		return nil
	})
}
