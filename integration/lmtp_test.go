package integration

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailmux/integration/stage"
)

// carrier is an MTA, as seen from the wire: commands out, replies in.
type carrier struct {
	t *testing.T
	c *textproto.Conn
	n net.Conn
}

// carry connects to a service that takes mail, and says hello.
func carry(t *testing.T, addr, hello string) *carrier {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(60 * time.Second)) // a fault shows at the next read
	c := &carrier{t: t, c: textproto.NewConn(nc), n: nc}
	if got := c.reply(); !strings.HasPrefix(got, "220 ") {
		t.Fatalf("greeting: %s", got)
	}
	c.expect(hello+" mta.example.net", "250")
	return c
}

// reply reads one reply: its code and the text of all lines.
func (c *carrier) reply() string {
	c.t.Helper()
	code, text, err := c.c.ReadResponse(0)
	if err != nil && code == 0 {
		c.t.Fatalf("read a reply: %v", err)
	}
	return fmt.Sprintf("%d %s", code, text)
}

// expect sends a line, and wants a reply that begins with prefix.
func (c *carrier) expect(line, prefix string) string {
	c.t.Helper()
	c.send(line + "\r\n")
	got := c.reply()
	if !strings.HasPrefix(got, prefix) {
		c.t.Errorf("%s: got %q, want %q", line, got, prefix)
	}
	return got
}

func (c *carrier) send(raw string) {
	c.t.Helper()
	if _, err := c.n.Write([]byte(raw)); err != nil {
		c.t.Fatal(err)
	}
}

// letter is a message that can be found again.
func letter(mark string) string {
	return "From: ann@example.net\r\nTo: somebody@example.com\r\nSubject: " + mark + "\r\nMessage-ID: <" + mark + "@example.net>\r\n\r\n" +
		"The mark is " + mark + ".\r\n..two dots, and\r\n.one\r\n"
}

// stuffed is a letter for DATA, with its end.
func stuffed(text string) string {
	return strings.ReplaceAll(text, "\r\n.", "\r\n..") + ".\r\n"
}

// mark makes names that no other test has.
func mark(t *testing.T, what string) string {
	return strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()) + "-" + what + fmt.Sprint(time.Now().UnixNano())
}

// mailbox returns the messages of an account on one server that hold a text.
func mailbox(t *testing.T, d *stage.Dovecot, login, text string) []string {
	t.Helper()
	var found []string
	for _, sub := range []string{"new", "cur"} {
		files, err := filepath.Glob(filepath.Join(d.MailDir, login, "Maildir", sub, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err == nil && strings.Contains(string(b), text) {
				found = append(found, string(b))
			}
		}
	}
	return found
}

// lmtpFront is a daemon with an LMTP listener.
func lmtpFront(t *testing.T, w *stage.World, more string) (d *daemon, addr string) {
	t.Helper()
	d = ownDaemon(t, w, func(s *setup) {
		addr = fmt.Sprintf("%s:%d", s.IP, stage.PortLMTP)
		s.Listeners = append(s.Listeners, fmt.Sprintf(`{service: lmtp, address: "%s"}`, addr))
		s.Greets = append(s.Greets, addr)
		s.More = "delivery: {member_timeout: 2s" + more + "}"
	})
	return d, addr
}

// A message for people on two Dovecots, one of them by STARTTLS, one known by another address, one with a detail, and for
// some who cannot have it: each recipient has a status of its own, in order, and each copy is in the right mailbox.
func TestLMTPReachesEachHome(t *testing.T) {
	w := world(t)
	d, addr := lmtpFront(t, w, "")
	c := carry(t, addr, "LHLO")
	c.expect("MAIL FROM:<ann@example.net> BODY=8BITMIME", "250 2.1.0")
	rcpts := []struct{ address, rcpt, data string }{
		{"ann@example.com", "250 2.1.5", "250 2.0.0"},
		{"nobody@example.com", "550 5.1.1", ""},
		{"BOB@Example.COM", "250 2.1.5", "250 2.0.0"},
		{"held@example.com", "450 4.2.1", ""},
		{"gone@example.com", "550 5.2.1", ""},
		{"lost@example.com", "451 4.3.0", ""},
		{"twin@example.com", "451 4.3.0", ""},
		{stage.FakeLogin("dead"), "250 2.1.5", "451 4.4.1"},
		{"ann.other@example.com", "250 2.1.5", "250 2.0.0"},
		{"carl+lists@example.net", "250 2.1.5", "250 2.0.0"}, // an alias domain, and a detail
		{"self@example.com", "250 2.1.5", "451 4.3.0"},
	}
	for _, r := range rcpts {
		c.expect("RCPT TO:<"+r.address+">", r.rcpt)
	}
	m := mark(t, "each")
	c.expect("DATA", "354")
	c.send(stuffed(letter(m)))
	for _, r := range rcpts {
		if r.data == "" {
			continue
		}
		if got := c.reply(); !strings.HasPrefix(got, r.data) {
			t.Errorf("%s: got %q, want %q", r.address, got, r.data)
		}
	}
	c.expect("QUIT", "221")

	for _, box := range []struct {
		d     *stage.Dovecot
		login string
		want  int
	}{{w.Back1, "ann@example.com", 1}, {w.Back2, "bob@example.com", 1}, {w.Back1, "carl@example.com", 1}, {w.Back2, "ann@example.com", 0}} {
		got := mailbox(t, box.d, box.login, m)
		if len(got) != box.want {
			t.Errorf("%s has %d copies on %s, want %d", box.login, len(got), box.d.HostName, box.want)
		}
		for _, text := range got {
			if !strings.Contains(text, "\n..two dots, and") || !strings.Contains(text, "\n.one") || !strings.Contains(text, "by mail.example.com (mailmux) with LMTP") {
				t.Errorf("the copy of %s is\n%s", box.login, text)
			}
		}
	}
	events, err := d.Events("delivery")
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != len(rcpts) {
		t.Errorf("%d delivery events, want one for each of %d recipients: %v", len(events), len(rcpts), events)
	}
}

// A member that says nothing holds up nobody else: the others have their status before its deadline, and so has the
// sender theirs.
func TestLMTPSlowMemberDelaysNobody(t *testing.T) {
	w := world(t)
	_, addr := lmtpFront(t, w, "")
	silent := memberAddress(t, w, "silent", stage.PortLMTP)
	scripted(t, silent, func(nc net.Conn) {
		defer nc.Close()
		_, _ = bufio.NewReader(nc).ReadString(0) // until the peer gives up
	})
	c := carry(t, addr, "LHLO")
	c.expect("MAIL FROM:<>", "250")
	c.expect("RCPT TO:<ann@example.com>", "250")
	c.expect("RCPT TO:<"+stage.FakeLogin("silent")+">", "250")
	c.expect("RCPT TO:<bob@example.com>", "250")
	m := mark(t, "slow")
	c.expect("DATA", "354")
	began := time.Now()
	c.send(stuffed(letter(m)))
	first := c.reply()
	firstTook := time.Since(began)
	second, third := c.reply(), c.reply()
	if !strings.HasPrefix(first, "250") || !strings.HasPrefix(second, "451 4.4.1") || !strings.HasPrefix(third, "250") {
		t.Errorf("replies: %q, %q, %q", first, second, third)
	}
	if took := time.Since(began); firstTook > time.Second || took < time.Second || took > 4*time.Second {
		t.Errorf("the first reply took %s, all took %s; the silent member has 2s", firstTook, took)
	}
	if len(mailbox(t, w.Back2, "bob@example.com", m)) != 1 {
		t.Error("bob's copy is not there")
	}
}

// memberAddress is where the member that a test plays is looked for.
func memberAddress(t *testing.T, w *stage.World, behaviour string, port int) string {
	t.Helper()
	for i, b := range stage.Behaviours() {
		if b == behaviour {
			return w.Net.Addr(stage.HostFake+i, port)
		}
	}
	t.Fatalf("no member %s", behaviour)
	return ""
}

// A message by BDAT, in chunks that break lines anywhere, arrives as it was, and so does a large one that does not fit
// into memory.
func TestLMTPChunksAndLargeMessages(t *testing.T) {
	w := world(t)
	_, addr := lmtpFront(t, w, ", memory_per_message: 4096")
	c := carry(t, addr, "LHLO")
	m := mark(t, "chunks")
	text := letter(m) + strings.Repeat("0123456789012345678901234567890123456789012345678901234567890123\r\n", 30000)
	c.expect("MAIL FROM:<ann@example.net> SIZE="+fmt.Sprint(len(text)), "250")
	c.expect("RCPT TO:<ann@example.com>", "250")
	c.expect("RCPT TO:<bob@example.com>", "250")
	for rest := text; ; {
		n := min(len(rest), 100_001)
		last := ""
		if n == len(rest) {
			last = " LAST"
		}
		c.send(fmt.Sprintf("BDAT %d%s\r\n%s", n, last, rest[:n]))
		rest = rest[n:]
		if last != "" {
			break
		}
		if got := c.reply(); !strings.HasPrefix(got, "250 ") {
			t.Fatal(got)
		}
	}
	for range 2 {
		if got := c.reply(); !strings.HasPrefix(got, "250 ") {
			t.Error(got)
		}
	}
	for _, box := range []struct {
		d     *stage.Dovecot
		login string
	}{{w.Back1, "ann@example.com"}, {w.Back2, "bob@example.com"}} {
		got := mailbox(t, box.d, box.login, m)
		if len(got) != 1 || !strings.HasSuffix(got[0], strings.ReplaceAll(text, "\r\n", "\n")) && !strings.HasSuffix(got[0], text) {
			t.Errorf("%s has %d copies, or not the whole text", box.login, len(got))
		}
	}
}

// Real Postfix in front hands its mail over by LMTP, and keeps what could not be delivered.
func TestLMTPBehindPostfix(t *testing.T) {
	w := world(t)
	needPostfix(t, w)
	_, addr := lmtpFront(t, w, "")
	ip, port, _ := strings.Cut(addr, ":")
	p, err := stage.StartPostfix(filepath.Join(w.Dir, "pf14"), w.Net, stage.PostfixOptions{HostName: "mta.example.com", TLS: w.Front,
		SASL: w.Back1.Socket, LMTP: ip + ":" + port, Host: 14})
	need(t, err)
	t.Cleanup(p.Stop)
	source := needProgram(t, "smtp-source", "postfix")
	m := mark(t, "postfix")
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for _, to := range []string{"ann@example.com", "bob@example.com"} {
		out, err := exec.CommandContext(ctx, source, "-m", "50", "-s", "5", "-f", "ann@example.net", "-t", to, "-S", m, p.Addr(stage.PortSMTP)).CombinedOutput()
		if err != nil {
			t.Fatalf("smtp-source: %v\n%s", err, out)
		}
	}
	for len(mailbox(t, w.Back1, "ann@example.com", m)) < 50 || len(mailbox(t, w.Back2, "bob@example.com", m)) < 50 {
		select {
		case <-ctx.Done():
			t.Fatalf("ann has %d of 50, bob has %d of 50\n%s", len(mailbox(t, w.Back1, "ann@example.com", m)), len(mailbox(t, w.Back2, "bob@example.com", m)), tailOf(p.Mail))
		case <-time.After(100 * time.Millisecond):
		}
	}
	if n := len(mailbox(t, w.Back1, "ann@example.com", m)); n != 50 {
		t.Errorf("ann has %d messages, want 50", n)
	}
}

func tailOf(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-3000):])
}
