package integration

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"mailmux/integration/stage"
)

// mxFront is a daemon with an MX listener and no queue.
func mxFront(t *testing.T, w *stage.World, more string) (d *daemon, addr string) {
	t.Helper()
	d = ownDaemon(t, w, func(s *setup) {
		addr = fmt.Sprintf("%s:%d", s.IP, stage.PortSMTP)
		s.Listeners = append(s.Listeners, fmt.Sprintf(`{service: smtp, address: "%s"}`, addr))
		s.Greets = append(s.Greets, addr)
		s.More = "delivery: {member_timeout: 2s" + more + "}"
	})
	return d, addr
}

// Without a queue the first recipient's member has the transaction: those of another one are for the next, and the
// member's own answers are passed on. Each refusal has the code that design.md's table says.
func TestMXPassesAnswersOn(t *testing.T) {
	w := world(t)
	_, addr := mxFront(t, w, "")
	c := carry(t, addr, "EHLO")
	c.expect("MAIL FROM:<someone@example.net>", "250")
	for _, r := range []struct{ address, want string }{
		{"nobody@example.com", "550 5.1.1"},
		{"someone@elsewhere.example", "550 5.1.1"},
		{"held@example.com", "450 4.2.1"},
		{"gone@example.com", "550 5.2.1"},
		{"lost@example.com", "451 4.3.0"},
		{"twin@example.com", "451 4.3.0"},
		{"self@example.com", "451 4.4.1"}, // it takes no LMTP
		{stage.FakeLogin("dead"), "451 4.4.1"},
		{"ann@example.com", "250 2.1.5"},
		{"bob@example.com", "452 4.5.3"},
		{"eve@example.com", "250 2.1.5"},
	} {
		c.expect("RCPT TO:<"+r.address+">", r.want)
	}
	m := mark(t, "mx")
	c.expect("DATA", "354")
	c.send(stuffed(letter(m)))
	// Dovecot's own words, with the session's id of Dovecot.
	if got := c.reply(); !strings.HasPrefix(got, "250 2.0.0") || !strings.Contains(got, "Saved") {
		t.Errorf("the answer is %q, and not Dovecot's", got)
	}
	c.expect("MAIL FROM:<someone@example.net>", "250")
	c.expect("RCPT TO:<bob@example.com>", "250")
	c.expect("DATA", "354")
	c.send(stuffed(letter(m)))
	if got := c.reply(); !strings.HasPrefix(got, "250 2.0.0") {
		t.Error(got)
	}
	c.expect("QUIT", "221")
	for login, d := range map[string]*stage.Dovecot{"ann@example.com": w.Back1, "eve@example.com": w.Back1, "bob@example.com": w.Back2} {
		got := mailbox(t, d, login, m)
		if len(got) != 1 || !strings.Contains(got[0], "\n..two dots, and") || !strings.Contains(got[0], "with ESMTP") {
			t.Errorf("%s has %d copies: %s", login, len(got), got)
		}
	}
}

// Mail for domains that are not ours is refused before the directory is asked; postmaster always has a mailbox.
func TestMXIsNoOpenRelay(t *testing.T) {
	w := world(t)
	_, addr := mxFront(t, w, ", local_domains: [example.com], postmaster: ann@example.com")
	c := carry(t, addr, "EHLO")
	c.expect("MAIL FROM:<>", "250")
	for _, r := range []struct{ address, want string }{
		{"someone@elsewhere.example", "550 5.7.1"},
		{"someone%elsewhere.example@example.com", "550 5.1.1"},
		{`"someone@elsewhere.example"@example.com`, "550 5.1.1"},
		{"@example.com:someone@elsewhere.example", "550 5.7.1"},
		{"dora@example.org", "550 5.7.1"},
		{`"ann> NOTIFY=NEVER"@example.com`, "550 5.1.1"},
		{"ann@example.net", "250"}, // an alias of example.com
		{"postmaster", "250"},
		{"PostMaster@example.com", "250"},
	} {
		c.expect("RCPT TO:<"+r.address+">", r.want)
	}
}

// A backend that is a mail server is spoken to by SMTP, and its answer is the sender's.
func TestMXToSMTPMember(t *testing.T) {
	w := world(t)
	needPostfix(t, w)
	_, addr := mxFront(t, w, ", protocols: {post.example.com: smtp}")
	c := carry(t, addr, "EHLO")
	c.expect("MAIL FROM:<someone@example.net> SIZE=2000", "250")
	got := c.expect("RCPT TO:<pete@example.com>", "")
	if !strings.HasPrefix(got, "250") && !strings.Contains(got, "relay") {
		t.Errorf("Postfix's answer is not passed on: %q", got)
	}
}

// smugglers are the ends of data that one server or another has taken for one, and that are none.
var smugglers = map[string]string{
	"LF.LF": "\n.\n", "LF.CRLF": "\n.\r\n", "CRLF.LF": "\r\n.\n", "CR.CR": "\r.\r", "CR.CRLF": "\r.\r\n", "CRLF.CR": "\r\n.\r", "LF.CR": "\n.\r",
	"CR.LF": "\r.\n", "CRLF.CRCRLF": "\r\n.\r\r\n", "CRCRLF.CRLF": "\r\r\n.\r\n.", "CRLF.NULCRLF": "\r\n.\x00\r\n", "CRLFNUL.CRLF": "\r\n\x00.\r\n",
	"CRLF.spaceCRLF": "\r\n. \r\n", "LFLF.LF": "\n\n.\n",
}

// No end but CRLF.CRLF ends the data, for either service: what follows another one is never a second message. What has
// a bare CR or LF is refused, or arrives as one message where it is repaired.
func TestSmuggling(t *testing.T) {
	w := world(t)
	for _, policy := range []string{"refuse", "repair"} {
		_, addr := mxFront(t, w, ", bare_newlines: "+policy)
		for name, end := range smugglers {
			c := carry(t, addr, "EHLO")
			m := mark(t, "smuggle")
			c.expect("MAIL FROM:<someone@example.net>", "250")
			c.expect("RCPT TO:<ann@example.com>", "250")
			c.expect("DATA", "354")
			c.send("Subject: " + m + "\r\n\r\ntext" + end + "MAIL FROM:<thief@example.net>\r\nRCPT TO:<ann@example.com>\r\nDATA\r\nSubject: " + m +
				"\r\nX-Smuggled: yes\r\n\r\nsecond\r\n.\r\n")
			got := c.reply()
			bare := strings.Trim(strings.ReplaceAll(end, "\r\n", ""), "\x00. ") != ""
			want := "250"
			if bare && policy == "refuse" {
				want = "554 5.6.0"
			}
			if name == "CRCRLF.CRLF" { // a real end follows a bare CR: the rest are commands of the sender's own
				if !strings.HasPrefix(got, want) {
					t.Errorf("%s, %s: %q, want %s", policy, name, got, want)
				}
				c.n.Close()
				continue
			}
			if !strings.HasPrefix(got, want) {
				t.Errorf("%s, %s: %q, want %s", policy, name, got, want)
			}
			c.expect("NOOP", "250") // in step: nothing of the text was taken for a command
			copies := len(mailbox(t, w.Back1, "ann@example.com", m))
			if want == "250" && copies != 1 || want != "250" && copies != 0 {
				t.Errorf("%s, %s: %d messages arrived", policy, name, copies)
			}
			c.expect("QUIT", "221")
		}
	}
}

// Commands end with CRLF, too.
func TestMXRefusesBareNewlinesInCommands(t *testing.T) {
	w := world(t)
	_, addr := mxFront(t, w, "")
	for _, line := range []string{"NOOP\n", "NOOP\rMAIL FROM:<>\r\n", "MAIL FROM:<a@example.net>\nRCPT TO:<ann@example.com>\r\n"} {
		c := carry(t, addr, "EHLO")
		c.send(line)
		if got := c.reply(); !strings.HasPrefix(got, "500 5.5.2") {
			t.Errorf("%q: %s", line, got)
		}
	}
}

// A client that goes away in the middle of its message leaves nothing in the mailbox.
func TestMXDropsBrokenMessages(t *testing.T) {
	w := world(t)
	d, addr := mxFront(t, w, "")
	c := carry(t, addr, "EHLO")
	m := mark(t, "broken")
	c.expect("MAIL FROM:<someone@example.net>", "250")
	c.expect("RCPT TO:<ann@example.com>", "250")
	c.expect("DATA", "354")
	c.send("Subject: " + m + "\r\n\r\n" + strings.Repeat("half of it\r\n", 20000))
	c.n.Close()
	waitForEvent(t, d, "session", func(e stage.Event) bool { return e["service"] == "smtp" && e["outcome"] == "gone" })
	if n := len(mailbox(t, w.Back1, "ann@example.com", m)); n != 0 {
		t.Errorf("%d copies of a message that never came to its end", n)
	}
}

// waitForEvent waits for a line of the daemon's log.
func waitForEvent(t *testing.T, d *daemon, msg string, want func(stage.Event) bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		events, err := d.Events(msg)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if want(e) {
				return
			}
		}
	}
	t.Fatalf("the log has no such line: %s", msg)
}

// Real senders: Postfix's smtp-source, swaks with STARTTLS, and Python's smtplib.
func TestMXRealSenders(t *testing.T) {
	w := world(t)
	_, addr := mxFront(t, w, "")
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	run := func(argv ...string) {
		t.Helper()
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", argv[0], err, out)
		}
	}
	m := mark(t, "source")
	run(needProgram(t, "smtp-source", "postfix"), "-m", "200", "-s", "10", "-l", "3000", "-f", "x@example.net", "-t", "ann@example.com", "-S", m, addr)
	if n := len(mailbox(t, w.Back1, "ann@example.com", m)); n != 200 {
		t.Errorf("smtp-source: %d of 200 messages arrived", n)
	}
	m = mark(t, "swaks")
	run(needProgram(t, "swaks", "swaks"), "--server", host, "--port", port, "--tls", "--from", "x@example.net", "--to", "bob@example.com", "--header", "Subject: "+m)
	if got := mailbox(t, w.Back2, "bob@example.com", m); len(got) != 1 || !strings.Contains(got[0], "with ESMTPS") {
		t.Errorf("swaks: %d messages arrived, or not by TLS", len(got))
	}
	m = mark(t, "python")
	run(needProgram(t, "python3", "python3"), "-c", "import smtplib,sys\ns=smtplib.SMTP(sys.argv[1],int(sys.argv[2]))\ns.sendmail('x@example.net',['ann@example.com','eve@example.com'],'Subject: '+sys.argv[3]+'\\n\\n.\\n..\\nlast\\n')\ns.quit()", host, port, m)
	for _, login := range []string{"ann@example.com", "eve@example.com"} {
		if got := mailbox(t, w.Back1, login, m); len(got) != 1 || !strings.Contains(got[0], "\n.\n..\nlast") {
			t.Errorf("smtplib: %s has %q", login, got)
		}
	}
}

// With a queue mail for a member that is away is taken, kept over a restart of the frontend, and delivered when the member
// is back; those whose members are there have it at once.
func TestMXQueuesForMembersThatAreAway(t *testing.T) {
	w := ownWorld(t)
	var addr string
	d := ownDaemon(t, w, func(s *setup) {
		addr = fmt.Sprintf("%s:%d", s.IP, stage.PortSMTP)
		s.Listeners = append(s.Listeners, fmt.Sprintf(`{service: smtp, address: "%s"}`, addr))
		s.Greets = append(s.Greets, addr)
		s.More = "delivery: {member_timeout: 2s}\nspool: {dir: " + s.Dir + "/spool, first_retry: 200ms, max_retry: 1s, min_free: 1MiB}"
	})
	w.Back2.Stop()
	m := mark(t, "queued")
	c := carry(t, addr, "EHLO")
	for i := range 20 {
		c.expect("MAIL FROM:<someone@example.net>", "250")
		c.expect("RCPT TO:<ann@example.com>", "250")
		c.expect("RCPT TO:<bob@example.com>", "250")
		c.expect("RCPT TO:<nobody@example.com>", "550 5.1.1")
		c.expect("DATA", "354")
		c.send(stuffed(letter(fmt.Sprintf("%s-%d.", m, i))))
		if got := c.reply(); !strings.HasPrefix(got, "250 2.0.0 Queued as ") {
			t.Fatal(got)
		}
	}
	c.expect("QUIT", "221")
	if n := len(mailbox(t, w.Back1, "ann@example.com", m)); n != 20 {
		t.Errorf("ann has %d of 20 messages", n)
	}
	d.Kill()
	if err := d.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := w.Back2.Restart(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Back2.Stop)
	deadline := time.Now().Add(30 * time.Second)
	for len(mailbox(t, w.Back2, "bob@example.com", m)) < 20 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	for i := range 20 {
		for _, box := range []struct {
			d     *stage.Dovecot
			login string
		}{{w.Back1, "ann@example.com"}, {w.Back2, "bob@example.com"}} {
			if n := len(mailbox(t, box.d, box.login, fmt.Sprintf("The mark is %s-%d.", m, i))); n != 1 {
				t.Errorf("%s has message %d %d times", box.login, i, n)
			}
		}
	}
}

// playMember plays a member at the address of a fake one: it answers each line, and the end of a text, with what say returns;
// "" closes the connection. heard gives what it is told.
func playMember(t *testing.T, w *stage.World, behaviour string, say func(line string) string) (heard func() string) {
	t.Helper()
	var mu sync.Mutex
	var all strings.Builder
	scripted(t, memberAddress(t, w, behaviour, stage.PortLMTP), func(c net.Conn) {
		r := bufio.NewReader(c)
		for answer := "220 fake ready"; answer != ""; {
			fmt.Fprintf(c, "%s\r\n", answer)
			line, err := r.ReadString('\n')
			for answer[:3] == "354" && err == nil && line != ".\r\n" {
				line, err = r.ReadString('\n')
			}
			if err != nil {
				return
			}
			mu.Lock()
			all.WriteString(line)
			mu.Unlock()
			answer = say(line)
		}
	})
	return func() string { mu.Lock(); defer mu.Unlock(); return all.String() }
}

// A member that goes away behind a recipient that it took has lost the transaction: those who come later are not given
// another one, by which the first one's 250 would be a lie, and the message is not accepted.
func TestMXMemberDiesBetweenRecipients(t *testing.T) {
	w := world(t)
	_, addr := mxFront(t, w, "")
	heard := playMember(t, w, "recording", func(line string) string {
		switch {
		case strings.Contains(line, "+dies@"):
			return ""
		case line == "DATA\r\n":
			return "354 go on"
		}
		return "250 OK"
	})
	c := carry(t, addr, "EHLO")
	c.expect("MAIL FROM:<someone@example.net>", "250")
	c.expect("RCPT TO:<recording+one@fake.example.com>", "250")
	c.expect("RCPT TO:<recording+dies@fake.example.com>", "451 4.4.1")
	c.expect("RCPT TO:<recording+two@fake.example.com>", "451 4.4.1")
	c.expect("DATA", "354")
	c.send(stuffed(letter(mark(t, "dies"))))
	if got := c.reply(); !strings.HasPrefix(got, "451 4.4.1") {
		t.Errorf("a message that one of two accepted recipients would get is answered %q", got)
	}
	c.expect("MAIL FROM:<someone@example.net>", "250")
	c.expect("RCPT TO:<recording+two@fake.example.com>", "250")
	c.expect("QUIT", "221")
	if strings.Contains(heard(), "DATA") {
		t.Errorf("the member was sent a message: %q", heard())
	}
}

// A message has one answer, also when its member does not want it and it has a fault besides: a second one would be taken for
// that to the next command.
func TestMXAnswersOnce(t *testing.T) {
	w := world(t)
	_, addr := mxFront(t, w, "")
	playMember(t, w, "refusing", func(line string) string {
		if line == "DATA\r\n" {
			return "452 4.3.1 no room"
		}
		return "250 OK"
	})
	for text, want := range map[string]string{"bare\nnewline\r\n.\r\n": "554 5.6.0", "fine\r\n.\r\n": "452 4.3.1"} {
		c := carry(t, addr, "EHLO")
		c.expect("MAIL FROM:<someone@example.net>", "250")
		c.expect("RCPT TO:<"+stage.FakeLogin("refusing")+">", "250")
		c.expect("DATA", "354")
		c.send(text)
		if got := c.reply(); !strings.HasPrefix(got, want) {
			t.Errorf("%q: %q, want %s", text, got, want)
		}
		c.expect("RSET", "250")
		c.expect("QUIT", "221")
	}
}

// Messages that a frontend or a Postfix in front brings are counted for the clients that it names, from the first message of
// its session on, and not for itself.
func TestMXCountsForClients(t *testing.T) {
	w := world(t)
	var addr string
	ownDaemon(t, w, func(s *setup) {
		addr = fmt.Sprintf("%s:%d", s.IP, stage.PortSMTP)
		s.Listeners = append(s.Listeners, fmt.Sprintf(`{service: smtp, address: "%s", identity_from: [127.0.0.0/8]}`, addr))
		s.Greets = append(s.Greets, addr)
		s.More = "delivery: {messages_per_minute: 2}"
	})
	counted := func(client string) string {
		c := carry(t, addr, "EHLO")
		defer c.n.Close()
		c.expect("XCLIENT ADDR="+client, "220")
		c.expect("EHLO x", "250")
		return c.expect("MAIL FROM:<someone@example.net>", "")
	}
	for i := range 6 { // more than twice as many as may come from one within the minute, which may turn once
		if got := counted(fmt.Sprintf("192.0.2.%d", i)); !strings.HasPrefix(got, "250") {
			t.Errorf("the first message of client %d: %s", i, got)
		}
	}
	refused := 0
	for range 6 {
		if strings.HasPrefix(counted("192.0.2.99"), "450 4.7.0") {
			refused++
		}
	}
	if refused < 2 {
		t.Errorf("%d of one client's 6 messages are refused", refused)
	}
}

// A frontend in front brings the messages of several clients over one connection, and says each time whose the next ones are:
// the member is told of that client, and so is the reader of Received.
func TestMXClientsShareAConnection(t *testing.T) {
	w := world(t)
	rec := playRecorder(t, memberAddress(t, w, "recording", stage.PortLMTP), "250-8BITMIME\r\n250-XCLIENT ADDR PORT HELO TTL SESSION\r\n")
	var addr string
	ownDaemon(t, w, func(s *setup) {
		addr = fmt.Sprintf("%s:%d", s.IP, stage.PortSMTP)
		s.Listeners = append(s.Listeners, fmt.Sprintf(`{service: smtp, address: "%s", identity_from: [127.0.0.0/8]}`, addr))
		s.Greets = append(s.Greets, addr)
	})
	c := carry(t, addr, "EHLO")
	for _, client := range []struct{ claim, told string }{
		{"ADDR=192.0.2.1 PORT=1001 HELO=one.example", "HELO=one.example TTL=5 PORT=1001 ADDR=192.0.2.1 SESSION="},
		{"ADDR=192.0.2.2 TTL=3", "HELO=front.example TTL=2 ADDR=192.0.2.2 SESSION="},
		{"ADDR=192.0.2.1 PORT=1001 HELO=one.example", "HELO=one.example TTL=5 PORT=1001 ADDR=192.0.2.1 SESSION="},
	} {
		c.expect("XCLIENT "+client.claim, "220")
		c.expect("EHLO front.example", "250")
		for range 2 {
			c.expect("MAIL FROM:<someone@example.net>", "250")
			c.expect("RCPT TO:<"+stage.FakeLogin("recording")+">", "250")
			c.expect("DATA", "354")
			c.send(stuffed(letter(mark(t, "client"))))
			c.reply()
		}
		heard := rec.take()
		if strings.Count(heard, "XCLIENT ") != 1 || !strings.Contains(heard, "XCLIENT "+client.told) {
			t.Errorf("of %s the member hears %q", client.claim, heard)
		}
		helo, _, _ := strings.Cut(strings.TrimPrefix(client.told, "HELO="), " ")
		ip, _, _ := strings.Cut(strings.TrimPrefix(client.claim, "ADDR="), " ")
		if n := strings.Count(heard, "Received: from "+helo+" (["+ip+"])"); n != 2 {
			t.Errorf("%d of 2 messages have a Received field of %s at %s: %q", n, helo, ip, heard)
		}
	}
	c.expect("QUIT", "221")
}
