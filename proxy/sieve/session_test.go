package sieve

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"mailmux/proxy/prototest"
	"mailmux/proxy/wire"
)

// beginnings bring a session into each of its states.
var beginnings = []string{
	"",
	"AUTHENTICATE \"PLAIN\"\r\n",
	"AUTHENTICATE \"LOGIN\" \"YW5uQGV4YW1wbGUuY29t\"\r\n",
	"NOOP {5+}\r\n",
	"XCLIENT ADDR=203.0.113.5 PORT=1\r\n",
	"AUTHENTICATE \"PLAIN\" \"AGFubkBleGFtcGxlLmNvbQB3cm9uZw==\"\r\n", // with the password "wrong"
}

// Whatever a client sends, in whatever state: it is answered in the protocol's words, a member hears nothing but a
// login before its OK, and the session ends.
func FuzzSession(f *testing.F) {
	files := prototest.NewFiles(f)
	settings := []prototest.Setting{{Key: "listener.identity_from", Value: "192.0.2.0/24"}}
	for i := range beginnings {
		f.Add(uint8(i), "\"AGFubkBleGFtcGxlLmNvbQBzZXNhbWU=\"\r\nLISTSCRIPTS\r\n")
		f.Add(uint8(i), "{32+}\r\nAGFubkBleGFtcGxlLmNvbQBzZXNhbWU=\r\nCAPABILITY\r\nLOGOUT\r\n")
		f.Add(uint8(i), "\"*\"\r\nNOOP {4+}\r\n\"\r\n\\\r\nPUTSCRIPT \"a\" {3+}\r\na\r\n\r\nSTARTTLS\r\n")
	}
	f.Fuzz(func(t *testing.T, state uint8, says string) {
		synctest.Test(t, func(t *testing.T) {
			w := prototest.NewWorld(t, New(), "sieve", files, settings...)
			end := w.PlayMembers(playMember)
			answers := w.Say(t, beginnings[int(state)%len(beginnings)]+says)
			synctest.Wait()
			if err := end(); err != nil {
				t.Error(err)
			}
			text, _, _ := strings.Cut(answers, "OK \"welcome\"\r\n") // what follows is the member's
			checkAnswers(t, text)
		})
	})
}

// checkAnswers reads what mailmux says as a client does: capabilities, challenges and responses.
func checkAnswers(t *testing.T, answers string) {
	tape, _ := newTape(answers)
	c := wire.NewConn(tape, 1<<20)
	for {
		tokens, err := readTokens(c, false)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("the client hears %q: %v", answers, err)
		}
		if len(tokens) == 0 {
			t.Fatalf("the client hears an empty line in %q", answers)
		}
		if tokens[0].kind == quoted {
			continue
		}
		if _, err := responseOf(tokens); err != nil {
			t.Fatalf("the client hears %q: %v", answers, err)
		}
	}
}

// playMember lets everybody in but those with the password "wrong", and reports what is no login.
func playMember(nc *prototest.Conn) error {
	c := wire.NewConn(nc, 1<<20)
	c.Line(`"SASL" "PLAIN"`)
	c.Line(`OK`)
	tokens, err := readTokens(c, false)
	if err != nil {
		return nil
	}
	if len(tokens) != 3 || tokens[0].text != "AUTHENTICATE" || tokens[1].text != "PLAIN" || tokens[2].kind != quoted {
		return fmt.Errorf("a member hears %s", show(tokens))
	}
	message, err := base64.StdEncoding.DecodeString(tokens[2].text)
	words := strings.Split(string(message), "\x00")
	if err != nil || len(words) != 3 || strings.ContainsAny(string(message), "\r\n") {
		return fmt.Errorf("a member hears the credentials %q", message)
	}
	if words[2] == "wrong" {
		c.Line("NO")
		return c.Flush()
	}
	c.Line(`OK "welcome"`)
	if err := c.Flush(); err != nil {
		return nil
	}
	io.Copy(io.Discard, nc) // the rest is between it and the client
	return nil
}
