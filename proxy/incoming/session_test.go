package incoming

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"mailmux/proxy/deliver"
	"mailmux/proxy/envelope"
	"mailmux/proxy/prototest"
	"mailmux/proxy/smtpwire"
)

// keeper takes every message, and shows the client what has come.
type keeper struct {
	session *Session
	jobs    []deliver.Job
}

func (k *keeper) Recipient(_ context.Context, job deliver.Job) smtpwire.Reply {
	k.jobs = append(k.jobs, job)
	return smtpwire.Reply{Code: 250, Text: "2.1.5 OK"}
}

func (k *keeper) Message(_ context.Context, text io.Reader, body *envelope.Body) error {
	if body == nil {
		body = k.session.Deliverer.NewBody()
		defer body.Close()
		if err := Take(text, body); err != nil {
			return err
		}
	}
	kept, err := io.ReadAll(body.Open())
	if err != nil {
		return err
	}
	for range k.answers() {
		k.session.Answer(smtpwire.Reply{Code: 250, Text: fmt.Sprintf("2.0.0 %s: %q", k.session.Sender.Address, kept)})
	}
	return nil
}

// answers is how many replies a message gets.
func (k *keeper) answers() int {
	if k.session.handler.dialect.LMTP {
		return len(k.jobs)
	}
	return 1
}

func (k *keeper) Reset() { k.jobs = nil }

// handler speaks a dialect, and keeps the messages.
func handler(lmtp bool) *Handler {
	d := deliver.New(deliver.Config{LocalDomains: []string{"example.com"}, MaxSize: 1000})
	return New(d, Dialect{LMTP: lmtp, Begin: func(s *Session) Receiver { return &keeper{session: s} }})
}

func TestSMTPScripts(t *testing.T) { prototest.Run(t, handler(false), "smtp", "testdata/smtp/*.txt") }

func TestLMTPScripts(t *testing.T) { prototest.Run(t, handler(true), "lmtp", "testdata/lmtp/*.txt") }

// Each cause has its answer to RCPT, and only a directory that says so makes a user unknown.
func TestRecipientIsRefused(t *testing.T) {
	files := prototest.NewFiles(t)
	for _, tc := range []struct {
		setting prototest.Setting
		want    string
	}{
		{prototest.Setting{Key: "account.status", Value: "active"}, "250 2.1.5 "},
		{prototest.Setting{Key: "account.status", Value: "hold"}, "450 4.2.1 "},
		{prototest.Setting{Key: "account.status", Value: "disabled"}, "550 5.2.1 "},
		{prototest.Setting{Key: "account.status", Value: "unknown"}, "450 4.2.1 "},
		{prototest.Setting{Key: "account.host", Value: "other.example"}, "451 4.3.0 "},
		{prototest.Setting{Key: "directory", Value: "down"}, "451 4.3.0 "},
		{prototest.Setting{Key: "directory", Value: "ambiguous"}, "451 4.3.0 "},
		{prototest.Setting{Key: "directory", Value: "nohost"}, "451 4.3.0 "},
	} {
		t.Run(tc.setting.Key+"="+tc.setting.Value, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := prototest.NewWorld(t, handler(false), "smtp", files, tc.setting)
				heard := w.Say(t, "EHLO mta.example.org\r\nMAIL FROM:<bob@example.org>\r\nRCPT TO:<ann@example.com>\r\nQUIT\r\n")
				w.Server.Close()
				lines := strings.Split(heard, "\r\n")
				if got := lines[len(lines)-3]; !strings.HasPrefix(got, tc.want) {
					t.Errorf("the sender hears %q, want %q…", got, tc.want)
				}
			})
		})
	}
}

// beginnings bring a session into each of its states.
var beginnings = []string{
	"",
	"EHLO mta.example.org\r\n",
	"EHLO mta.example.org\r\nMAIL FROM:<bob@example.org>\r\n",
	"EHLO mta.example.org\r\nMAIL FROM:<bob@example.org>\r\nRCPT TO:<ann@example.com>\r\n",
	"EHLO mta.example.org\r\nMAIL FROM:<bob@example.org>\r\nRCPT TO:<ann@example.com>\r\nDATA\r\n",
	"EHLO mta.example.org\r\nMAIL FROM:<bob@example.org>\r\nRCPT TO:<ann@example.com>\r\nBDAT 3\r\nabc",
	"XCLIENT ADDR=203.0.113.5 PORT=1\r\n",
}

// Whatever a client sends, in whatever state: every line that it hears is a reply, and the session ends.
func FuzzSession(f *testing.F) {
	files := prototest.NewFiles(f)
	trusted := prototest.Setting{Key: "listener.identity_from", Value: "192.0.2.0/24"}
	for i := range beginnings {
		for _, lmtp := range []bool{false, true} {
			f.Add(uint8(i), lmtp, "MAIL FROM:<>\r\nRCPT TO:<\"a b\"@example.com>\r\nDATA\r\n.\r\nRSET\r\nQUIT\r\n")
			f.Add(uint8(i), lmtp, "text\r\n..\r\n.\r\nNOOP\r\nVRFY ann\r\nBDAT 0 LAST\r\n")
			f.Add(uint8(i), lmtp, "BDAT 99999999999999999999\r\nHELP\nMAIL\r\nLHLO [IPV6:::1]\r\nSTARTTLS\r\n")
		}
	}
	f.Fuzz(func(t *testing.T, state uint8, lmtp bool, says string) {
		synctest.Test(t, func(t *testing.T) {
			service, begin := "smtp", beginnings[int(state)%len(beginnings)]
			if lmtp {
				service, begin = "lmtp", strings.Replace(begin, "EHLO", "LHLO", 1)
			}
			w := prototest.NewWorld(t, handler(lmtp), service, files, trusted)
			heard := w.Say(t, begin+says)
			w.Server.Close()
			if strings.Contains(strings.ToUpper(says), "STARTTLS") { // an alert of TLS may follow
				return
			}
			for line := range strings.Lines(heard) {
				text, whole := strings.CutSuffix(line, "\r\n")
				if !whole || len(text) < 4 || strings.Trim(text[:3], "0123456789") != "" || text[3] != ' ' && text[3] != '-' ||
					strings.ContainsFunc(text, prototest.IsControl) {
					t.Errorf("the client hears %q in %q", line, heard)
				}
			}
		})
	})
}
