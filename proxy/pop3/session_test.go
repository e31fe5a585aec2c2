package pop3

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"unicode/utf8"

	"mailmux/proxy/prototest"
)

// beginnings bring a session into each of its states.
var beginnings = []string{
	"",
	"USER ann@example.com\r\n",
	"AUTH PLAIN\r\n",
	"AUTH LOGIN\r\nYW5uQGV4YW1wbGUuY29t\r\n",
	"XCLIENT ADDR=203.0.113.5 PORT=1\r\nUTF8\r\n",
	"USER ann@example.com\r\nPASS wrong\r\n",
}

// Whatever a client sends, in whatever state: it is answered in the protocol's words, a member hears nothing but a
// login before its +OK, and the session ends.
func FuzzSession(f *testing.F) {
	files := prototest.NewFiles(f)
	settings := []prototest.Setting{{Key: "listener.identity_from", Value: "192.0.2.0/24"}, {Key: "capabilities", Value: "UTF8"}}
	for i := range beginnings {
		f.Add(uint8(i), "PASS sesame\r\nSTAT\r\n")
		f.Add(uint8(i), "AGFubgBzZXNhbWU=\r\nCAPA\r\nQUIT\r\n")
		f.Add(uint8(i), "*\r\nUSER a\x00b\r\nPASS \r\nLANG\r\nNOOP\r\nSTLS\r\n")
	}
	f.Fuzz(func(t *testing.T, state uint8, says string) {
		synctest.Test(t, func(t *testing.T) {
			w := prototest.NewWorld(t, New(), "pop3", files, settings...)
			end := w.PlayMembers(playMember)
			answers := w.Say(t, beginnings[int(state)%len(beginnings)]+says)
			synctest.Wait()
			if err := end(); err != nil {
				t.Error(err)
			}
			text, _, _ := strings.Cut(answers, "+OK welcome\r\n") // what follows is the member's
			if !utf8.ValidString(text) || strings.ContainsFunc(strings.ReplaceAll(text, "\r\n", ""), prototest.IsControl) {
				t.Errorf("the client hears %q", text)
			}
		})
	})
}

// playMember lets everybody in but those with the password "wrong", and reports what is no login.
func playMember(c *prototest.Conn) error {
	io.WriteString(c, "+OK ready\r\n")
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil
		}
		verb, arg, _ := strings.Cut(strings.TrimSuffix(line, "\r\n"), " ")
		switch {
		case strings.ContainsAny(arg, "\x00\r\n"), !strings.HasSuffix(line, "\r\n"):
			return fmt.Errorf("a member hears %q", line)
		case verb == "USER", verb == "UTF8" && arg == "":
			io.WriteString(c, "+OK\r\n")
		case verb == "PASS" && arg == "wrong":
			io.WriteString(c, "-ERR [AUTH] no\r\n")
		case verb == "PASS", verb == "AUTH":
			io.WriteString(c, "+OK welcome\r\n")
			io.Copy(io.Discard, r) // the rest is between it and the client
			return nil
		default:
			return fmt.Errorf("a member hears %q", line)
		}
	}
}

// What mailmux itself costs for a session from the connection to the hand-over and its end, on connections in memory.
func BenchmarkLogin(b *testing.B) {
	w := prototest.NewWorld(b, New(), "pop3", prototest.NewFiles(b))
	end := w.PlayMembers(playMember)
	b.ReportAllocs()
	for b.Loop() {
		c := w.Connect()
		r := bufio.NewReader(c)
		expect(b, r, "+OK frontend.example.com ready")
		io.WriteString(c, "USER ann@example.com\r\n")
		expect(b, r, "+OK")
		io.WriteString(c, "PASS sesame\r\n")
		expect(b, r, "+OK welcome")
		c.Close()
	}
	b.StopTimer()
	if err := end(); err != nil {
		b.Error(err)
	}
}

func expect(b *testing.B, r *bufio.Reader, want string) {
	if line, err := r.ReadString('\n'); err != nil || line != want+"\r\n" {
		b.Fatalf("got %q, %v; want %q", line, err, want)
	}
}
