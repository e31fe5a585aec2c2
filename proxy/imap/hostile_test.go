package imap

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"mailmux/proxy"
	"mailmux/proxy/auth"
	"mailmux/proxy/prototest"
	"mailmux/proxy/wire"
)

const password = "s3same-s3cret"

var refused = regexp.MustCompile(`(?i)` + proxy.ErrRejected.Error() + `|says BYE|says "\[(PRIVACYREQUIRED|REFERRAL)`)

// stated is a claim as the engine would make it.
type stated struct {
	told  bool
	creds *auth.Credentials
}

func (s stated) Told() (auth.Told, bool) {
	told, ok := s.creds.Backend("ann", nil)
	return told, ok && s.told
}

func (s stated) Exchange(offered []string) auth.Exchange {
	return s.creds.Exchange("ann", nil, offered)
}

// A backend may say anything: it is bounded, no control character of it reaches a client, and no error shows a password.
func FuzzBackend(f *testing.F) {
	for _, s := range []string{
		"* OK [CAPABILITY IMAP4rev1 ID SASL-IR LITERAL+] hi\r\nI OK\r\nL OK [CAPABILITY IMAP4rev1 AUTH=PLAIN IDLE] in\r\n",
		"* OK hi\r\n* CAPABILITY LOGINDISABLED AUTH=PLAIN\r\nC OK\r\n+ \r\nL OK [ALERT] in\r\n* CAPABILITY X\r\nQ OK\r\n",
		"* OK hi\r\nS OK\r\n* CAPABILITY AUTH=LOGIN LOGINDISABLED\r\nC OK\r\n+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\nL NO [LIMIT] a\x07b\r\n",
		"* OK [CAPABILITY A] hi\r\n* ID ({3}\r\nabc)\r\n* BYE [LIMIT] L LOGIN \"ann\" \"" + password + "\"\r\n",
		"* OK [CAPABILITY LITERAL-] hi\r\n* OK [ALERT] x\r\n* 1 EXISTS\r\nL BAD L LOGIN \"ann\" \"" + password + "\"\r\n",
		"* OK [CAPABILITY IMAP4rev1] hi\r\nL LOGIN \"ann\" \"" + password + "\"\r\n",
	} {
		for mode := range byte(16) {
			f.Add(s, mode)
		}
	}
	f.Fuzz(func(t *testing.T, says string, mode byte) {
		creds, err := auth.Password("ann", password)
		if err != nil {
			t.Fatal(err)
		}
		nc, client := &tape{text: says}, &tape{}
		s := &session{Session: &proxy.Session{Client: wire.NewConn(client, 8192)}, tag: "t", asked: mode&4 != 0}
		l := leg{c: wire.NewConn(nc, 8192), owesID: mode&8 != 0}
		err = loginOn(s, &l, stated{mode&1 != 0, creds}, mode&2 != 0)
		var reply *proxy.Reply
		switch {
		case err == nil:
			s.sayWelcome()
			s.Client.Flush()
			checkLines(t, client.said.String(), "t OK ")
		case errors.As(err, &reply):
			checkLines(t, "t "+reply.Text+"\r\n", "t NO [")
		case l.secret && strings.Contains(err.Error(), password) && !refused.MatchString(err.Error()):
			// A refusal in words is shown in the log on purpose; everything else may be an echo.
			t.Errorf("the error shows the password: %v", err)
		}
		if l.lines > maxLines+1 || l.bytes > maxBytes+8192 {
			t.Errorf("heard %d lines, %d bytes", l.lines, l.bytes)
		}
	})
}

// endless is an exchange that has an answer to everything.
type endless struct{}

func (endless) Start() (string, []byte, error)        { return auth.Plain, nil, nil }
func (endless) Next(challenge []byte) ([]byte, error) { return challenge, nil }

func TestExchangesEnd(t *testing.T) {
	l := leg{c: wire.NewConn(&tape{text: strings.Repeat("+ AA==\r\n", 100)}, 8192)}
	if _, err := l.authenticate(endless{}, auth.Plain, nil); !errors.Is(err, proxy.ErrProtocol) || l.lines != maxRounds {
		t.Errorf("%d rounds, %v", l.lines, err)
	}
}

// A token that would make too long a line is not sent as an initial response.
func TestLongInitialResponses(t *testing.T) {
	for size, want := range map[int]string{maxInitial / 4 * 3: tagLogin + " AUTHENTICATE PLAIN A", maxInitial/4*3 + 1: tagLogin + " AUTHENTICATE PLAIN\r\nAAAA"} {
		nc := &tape{text: "+ \r\n"}
		l := leg{c: wire.NewConn(nc, 8192), can: abilities{initial: true}}
		if _, err := l.authenticate(endless{}, auth.Plain, make([]byte, size)); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		if got := nc.said.String(); !strings.HasPrefix(got, want) {
			t.Errorf("%d bytes: %.60q", size, got)
		}
	}
}

// loginOn is enter for a leg without an engine.
func loginOn(s *session, l *leg, c claim, startTLS bool) error {
	if err := l.greeting(); err != nil {
		return err
	}
	if startTLS {
		if err := l.startTLS(func() error { return nil }); err != nil {
			return err
		}
	}
	if !l.can.known {
		if err := l.ask(); err != nil {
			return err
		}
	}
	text, err := l.login(c)
	if err != nil {
		return err
	}
	return s.accepted(l, text)
}

// checkLines wants lines without control characters, the last of which is tagged.
func checkLines(t *testing.T, said, last string) {
	t.Helper()
	lines := strings.SplitAfter(said, "\r\n")
	for i, line := range lines[:len(lines)-1] {
		text := strings.TrimSuffix(line, "\r\n")
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("control characters reach the client: %q", line)
		}
		if prefix := "* "; i < len(lines)-2 && !strings.HasPrefix(text, prefix) || i == len(lines)-2 && !strings.HasPrefix(text, last) {
			t.Errorf("the client hears %q", said)
		}
	}
	for _, leak := range []string{"STARTTLS", "LOGINDISABLED", "AUTH=", "SASL-IR"} {
		if i := strings.Index(said, "CAPABILITY "); i >= 0 {
			list, _, _ := strings.Cut(said[i:], "]")
			list, _, _ = strings.Cut(list, "\r\n")
			for _, name := range strings.Fields(list)[1:] {
				if strings.HasPrefix(strings.ToUpper(name), leak) {
					t.Errorf("the client learns %s in %q", name, said)
				}
			}
		}
	}
	if lines[len(lines)-1] != "" {
		t.Errorf("no line end: %q", said)
	}
}

// A client may say anything, in every state: each answer is a line of IMAP, nobody is dialed, and the session ends.
func FuzzClient(f *testing.F) {
	plain := base64.StdEncoding.EncodeToString([]byte("\x00ann\x00sesame"))
	for _, s := range []string{
		"a CAPABILITY\r\nb NOOP\r\nc LOGOUT\r\n", "a ID (\"name\" {1+}\r\nx \"x-proxy-ttl\" \"1\")\r\nb LOGIN {3+}\r\nann {0+}\r\n\r\n",
		"a AUTHENTICATE PLAIN " + plain + "\r\n", "a AUTHENTICATE LOGIN\r\n*\r\nb AUTHENTICATE SCRAM-SHA-1\r\nbiwsbj1hbm4scj14\r\n",
		"a LOGIN ann sesame\r\n", "GET / HTTP/1.1\r\n\r\n", "a STARTTLS\r\n\x16\x03\x01", "a SELECT {3+}\r\nb L {9999+}\r\n",
	} {
		for state := range byte(3) {
			f.Add(s, state)
		}
	}
	files := prototest.NewFiles(f)
	var worlds [3]*prototest.World
	for i, setting := range []prototest.Setting{{Key: "listener.allow_plaintext", Value: "false"}, {Key: "listener.tls", Value: "off"}, {Key: "listener.tls", Value: "implicit"}} {
		worlds[i] = prototest.NewWorld(f, New(), "imap", files, setting, prototest.Setting{Key: "limits.exempt", Value: "192.0.2.0/24"},
			prototest.Setting{Key: "auth.mechanisms", Value: "plain,login,scram-sha-1,xoauth2,oauthbearer"})
		worlds[i].FailLookups(proxy.ErrHeld)
	}
	f.Fuzz(func(t *testing.T, says string, state byte) {
		w := worlds[state%3]
		c := w.ConnectTLS(t, files, state%3 == 2)
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		go func() {
			io.WriteString(c, says)
			c.CloseWrite()
		}()
		heard, err := io.ReadAll(c)
		if err != nil {
			t.Fatalf("heard %q, and then: %v", heard, err)
		}
		for line := range bytes.Lines(heard) {
			text, ended := bytes.CutSuffix(line, []byte("\r\n"))
			tag, rest, _ := bytes.Cut(text, []byte(" "))
			if !ended || bytes.IndexFunc(text, control) >= 0 || len(tag) == 0 {
				t.Errorf("the client hears %q", line)
			}
			if bytes.Contains(rest, []byte("Internal error")) {
				t.Errorf("the session panicked: %q", heard)
			}
		}
		if len(w.Dials) > 0 {
			t.Error("a member was dialed")
		}
	})
}
