package integration

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"mailmux/integration/stage"
)

// smarthost is a server for other sites: it keeps what it takes, as sender, recipients and text.
type smarthost struct {
	addr string

	mu    sync.Mutex
	mails []string
}

func startSmarthost(t *testing.T) *smarthost {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &smarthost{addr: l.Addr().String()}
	server := smtp.NewServer(s)
	server.Domain = "relay.example.net"
	var work sync.WaitGroup
	work.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { server.Close(); work.Wait() })
	return s
}

func (s *smarthost) NewSession(*smtp.Conn) (smtp.Session, error) {
	return &smarthostSession{smarthost: s}, nil
}

// took waits for a mail with a text, for ten seconds at most.
func (s *smarthost) took(text string) []string {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var found []string
		s.mu.Lock()
		for _, m := range s.mails {
			if strings.Contains(m, text) {
				found = append(found, m)
			}
		}
		s.mu.Unlock()
		if len(found) > 0 || time.Now().After(end) {
			return found
		}
	}
}

type smarthostSession struct {
	*smarthost
	envelope []string
}

func (s *smarthostSession) Mail(from string, _ *smtp.MailOptions) error {
	s.envelope = []string{"<" + from + ">"}
	return nil
}

func (s *smarthostSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "unknown@") {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "nobody of that name"}
	}
	s.envelope = append(s.envelope, "<"+to+">")
	return nil
}

func (s *smarthostSession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mails = append(s.mails, strings.Join(s.envelope, " ")+"\n"+string(text))
	return err
}

func (s *smarthostSession) Reset()        {}
func (s *smarthostSession) Logout() error { return nil }

// outgoingFront is a daemon that takes the backends' mail from 127.0.0.1, and has an MX listener, too.
func outgoingFront(t *testing.T, w *stage.World, more string, relays ...string) (d *daemon, out, mx string) {
	t.Helper()
	d = ownDaemon(t, w, func(s *setup) {
		out, mx = fmt.Sprintf("%s:%d", s.IP, stage.PortSMTP), fmt.Sprintf("%s:%d", s.IP, stage.PortLMTP)
		s.Listeners = append(s.Listeners, fmt.Sprintf(`{service: outgoing, address: "%s", identity_from: [127.0.0.0/8]}`, out),
			fmt.Sprintf(`{service: smtp, address: "%s"}`, mx))
		s.Greets = append(s.Greets, mx)
		var list []string
		for _, r := range relays {
			list = append(list, fmt.Sprintf(`{address: "%s", tls: "off"}`, r))
		}
		s.More = "delivery: {member_timeout: 2s" + more + "}\nspool: {dir: " + s.Dir + "/spool, first_retry: 200ms, max_retry: 1s, min_free: 1MiB}\n" +
			"outgoing: {networks: [127.0.0.1/32], smarthosts: [" + strings.Join(list, ", ") + "]}"
	})
	return d, out, mx
}

// What a backend forwards goes straight to its home where the directory knows the recipient, and else to the first
// smarthost that can be reached; what that refuses for good comes back to the sender.
func TestOutgoing(t *testing.T) {
	w := world(t)
	relay := startSmarthost(t)
	_, out, _ := outgoingFront(t, w, ", local_domains: [example.com, example.org]", "127.0.0.1:1", relay.addr)
	m := mark(t, "forward")
	c := carry(t, out, "EHLO")
	c.expect("MAIL FROM:<ann@example.com>", "250")
	c.expect("RCPT TO:<friend@elsewhere.example>", "250 2.1.5")
	c.expect("RCPT TO:<unknown@elsewhere.example>", "250 2.1.5")
	c.expect("RCPT TO:<bob@example.com>", "250 2.1.5")
	c.expect("RCPT TO:<nobody@example.com>", "550 5.1.1") // ours, and nobody's
	c.expect("RCPT TO:<held@example.com>", "450 4.2.1")
	c.expect("RCPT TO:<gone@example.com>", "550 5.2.1")
	c.expect("RCPT TO:<friend>", "550 5.1.1") // no domain to send it to
	c.expect("DATA", "354")
	c.send(stuffed(letter(m + "-0.")))
	if got := c.reply(); !strings.HasPrefix(got, "250 2.0.0 Queued as ") {
		t.Fatal(got)
	}
	arrived(t, w.Back2, "bob@example.com", m, 1)
	mails := relay.took(m)
	if len(mails) != 1 || !strings.HasPrefix(mails[0], "<ann@example.com> <friend@elsewhere.example>\n") || !strings.Contains(mails[0], "\n..two dots, and") {
		t.Errorf("the smarthost took %q", mails)
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && len(mailbox(t, w.Back1, "ann@example.com", "nobody of that name")) == 0; {
		time.Sleep(20 * time.Millisecond)
	}
	if notes := mailbox(t, w.Back1, "ann@example.com", "nobody of that name"); len(notes) != 1 || !strings.Contains(notes[0], "unknown@elsewhere.example") {
		t.Errorf("ann has %d notifications: %q", len(notes), notes)
	}

	// A loop of two mailboxes that forward to each other ends by its hops.
	c.expect("MAIL FROM:<ann@example.com>", "250")
	c.expect("RCPT TO:<friend@elsewhere.example>", "250")
	c.expect("DATA", "354")
	c.send(strings.Repeat("Received: from a by b\r\n", 51) + stuffed(letter(m)))
	if got := c.reply(); !strings.HasPrefix(got, "554 5.4.6") {
		t.Errorf("a message that goes round in circles: %s", got)
	}
}

// Nobody outside of the backends' networks gets a greeting, whatever it says of itself, and mail from other sites leaves
// for nobody but the directory's accounts, though a smarthost is there.
func TestOutgoingIsNoOpenRelay(t *testing.T) {
	w := world(t)
	relay := startSmarthost(t)
	_, out, mx := outgoingFront(t, w, "", relay.addr)
	for _, from := range []string{"127.0.0.2", "127.0.1.1"} {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
		nc, err := dialer.Dial("tcp", out)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
		// Sent ahead, with an identity from a network of identity_from.
		_, _ = io.WriteString(nc, "EHLO x\r\nXCLIENT ADDR=127.0.0.1\r\nEHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<friend@elsewhere.example>\r\nDATA\r\n")
		all, _ := io.ReadAll(nc) // a reset behind the refusal is the client's own fault
		nc.Close()
		if got := string(all); !strings.HasPrefix(got, "554 5.7.1") || strings.Contains(got, "250") || strings.Contains(got, "354") {
			t.Errorf("from %s: %q", from, got)
		}
	}
	c := carry(t, mx, "EHLO")
	c.expect("MAIL FROM:<someone@example.net>", "250")
	for _, to := range []string{"friend@elsewhere.example", "friend%elsewhere.example@example.com", `"friend@elsewhere.example"@example.com`, "@example.com:friend@elsewhere.example"} {
		c.expect("RCPT TO:<"+to+">", "550 5.")
	}
	c.expect("QUIT", "221")
	relay.mu.Lock()
	defer relay.mu.Unlock()
	if len(relay.mails) != 0 {
		t.Errorf("%d messages left: %q", len(relay.mails), relay.mails)
	}
}
