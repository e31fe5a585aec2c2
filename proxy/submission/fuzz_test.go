package submission

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"mailmux/proxy"
	"mailmux/proxy/prototest"
)

// clientStates are what a client has said before it turns hostile.
var clientStates = []string{
	"",
	"EHLO pc\r\n",
	"EHLO pc\r\nAUTH PLAIN\r\n",
	"EHLO pc\r\nAUTH LOGIN\r\nYW5u\r\n",
	"XCLIENT TTL=5\r\n",
}

// FuzzSession: whatever a client says in any state, it hears replies with our texts, and a member hears base64.
func FuzzSession(f *testing.F) {
	for i := range clientStates {
		f.Add(uint8(i), []byte("NOOP\r\nMAIL FROM:<a@b>\r\nBDAT 3\r\nabc\r\n"))
		f.Add(uint8(i), []byte("AGFubkBleGFtcGxlLmNvbQBzZXNhbWU=\r\n"))
		f.Add(uint8(i), []byte("EHLO x\r\nAUTH PLAIN AGFubkBleGFtcGxlLmNvbQBzZXNhbWU=\r\nRSET\r\n"))
		f.Add(uint8(i), []byte("STARTTLS\r\n\x16\x03\x01"))
	}
	files := prototest.NewFiles(f)
	f.Fuzz(func(t *testing.T, state uint8, words []byte) {
		synctest.Test(t, func(t *testing.T) {
			w := prototest.NewWorld(t, New(), "submission", files, prototest.Setting{Key: "listener.identity_from", Value: "192.0.2.0/24"})
			told := make(chan []byte, 100)
			stop := make(chan struct{})
			go func() {
				defer close(told)
				for {
					select {
					case d := <-w.Dials:
						io.WriteString(d.Conn, "220 store\r\n250-store\r\n250 AUTH PLAIN LOGIN\r\n535 5.7.8 no\r\n")
						d.Conn.CloseWrite()
						b, _ := io.ReadAll(d.Conn)
						told <- b
					case <-stop:
						return
					}
				}
			}()
			c := w.Connect()
			go func() {
				io.WriteString(c, clientStates[int(state)%len(clientStates)])
				c.Write(words)
				c.CloseWrite()
			}()
			heard, _ := io.ReadAll(c)
			if !bytes.Contains(bytes.ToUpper(words), []byte("STARTTLS")) { // else an alert of TLS may follow
				checkReplies(t, string(heard))
			}
			c.Close()
			w.Server.Close()
			close(stop)
			for b := range told {
				checkTold(t, string(b))
			}
		})
	})
}

// checkReplies wants SMTP replies, each ended by CRLF and without control characters.
func checkReplies(t *testing.T, heard string) {
	t.Helper()
	if strings.Contains(heard, byes[proxy.CauseTemporary]) {
		t.Errorf("the session ended by a panic: %q", heard)
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(heard, "\r\n"), "\r\n") {
		if len(line) < 4 || line[0] < '2' || line[0] > '5' || line[3] != ' ' && line[3] != '-' ||
			strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("the client hears %q", line)
		}
	}
}

// checkTold wants the commands that we say to this member, and nothing else.
func checkTold(t *testing.T, told string) {
	t.Helper()
	for line := range strings.SplitSeq(strings.TrimSuffix(told, "\r\n"), "\r\n") {
		initial, ok := strings.CutPrefix(line, "AUTH PLAIN ")
		if line != "" && line != "EHLO frontend.example.com" && (!ok || strings.ContainsAny(initial, "\x00\r\n ")) {
			t.Errorf("the member hears %q", line)
		}
	}
}

// memberStates are what a member has said before it turns hostile.
var memberStates = []string{
	"",
	"220 store\r\n",
	"220 store\r\n250-store\r\n250-XCLIENT ADDR\r\n250 AUTH PLAIN\r\n",
	"220 store\r\n250-store\r\n250-XCLIENT ADDR SESSION\r\n250 AUTH PLAIN\r\n220 store\r\n",
	"220 store\r\n250-store\r\n250 AUTH PLAIN\r\n",
	"220 store\r\n250-store\r\n250 AUTH PLAIN\r\n334 \r\n",
}

// FuzzLogin: whatever a member says in any state of the login, the client hears one proper reply to its AUTH.
func FuzzLogin(f *testing.F) {
	for i := range memberStates {
		f.Add(uint8(i), []byte("220 x\r\n250-x\r\n250 AUTH PLAIN\r\n235 ok\r\n"))
		f.Add(uint8(i), []byte("454-4.7.0 \x1b\r\n454 4.7.0 \xff\r\n"))
		f.Add(uint8(i), []byte("235-a\x00\r\n235 b\r\n250 spliced"))
		f.Add(uint8(i), []byte("334 AAAA\r\n334 \r\n535 5.7.8\r\n"))
	}
	files := prototest.NewFiles(f)
	f.Fuzz(func(t *testing.T, state uint8, words []byte) {
		synctest.Test(t, func(t *testing.T) {
			w := prototest.NewWorld(t, New(), "submission", files)
			c := w.Connect()
			io.WriteString(c, "HELO pc\r\nAUTH PLAIN AGFubkBleGFtcGxlLmNvbQBzZXNhbWU=\r\n")
			d := <-w.Dials
			w.RefuseDials(true)
			go io.Copy(io.Discard, d.Conn)
			io.WriteString(d.Conn, memberStates[int(state)%len(memberStates)])
			d.Conn.Write(words)
			d.Conn.CloseWrite()
			c.CloseWrite()
			heard, _ := io.ReadAll(c)
			rest, ok := strings.CutPrefix(string(heard), "220 frontend.example.com ESMTP ready\r\n250 frontend.example.com\r\n")
			if strings.HasPrefix(rest, "2") { // behind the reply's lines, the splice follows
				rest, _, _ = strings.Cut(rest, "\r\n")
			}
			if !ok || rest == "" {
				t.Errorf("the client hears %q", heard)
			}
			checkReplies(t, rest)
			c.Close()
			d.Conn.Close()
			w.Server.Close()
		})
	})
}
