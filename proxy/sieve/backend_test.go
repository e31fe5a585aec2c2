package sieve

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"mailmux/proxy"
	"mailmux/proxy/backend"
	"mailmux/proxy/prototest"
	"mailmux/proxy/wire"
)

// newTape is a member that says its lines and hangs up.
func newTape(says string) (*prototest.Tape, *wire.Conn) { return prototest.NewTape(says, 4096) }

func TestReadResponse(t *testing.T) {
	for says, want := range map[string]string{
		"OK\r\n":                                     "OK",
		"ok \"Logged in.\"\r\n":                      `OK "Logged in."`,
		"OK (SASL \"dj1yeQ==\") \"in\"\r\n":          `OK (SASL "dj1yeQ==") "in"`,
		"OK (SASL {8}\r\ndj1yeQ==)\r\n":              `OK (SASL "dj1yeQ==")`,
		"NO {9}\r\nline\r\ntwo\r\n":                  `NO "line  two"`,
		"NO (LIMIT/CONNECTIONS) \"a \\\"b\\\"\"\r\n": `NO (LIMIT/CONNECTIONS) "a \"b\""`,
		"NO (A (B \"c\") 4) \"x\"\r\n":               `NO (A (B "c") 4) "x"`,
		"BYE (TRYLATER) \"x\x1b\"\r\n":               `BYE (TRYLATER) "x "`,

		"OK (\r\n":           "error",
		"OK ()\r\n":          "error",
		"OK (\"a\")\r\n":     "error",
		"OK (A\r\n":          "error",
		"OK )\r\n":           "error",
		"OK \"a\" \"b\"\r\n": "error",
		"OK text\r\n":        "error",
		"\"OK\"\r\n":         "error",
		"\r\n":               "error",
		"+OK ready\r\n":      "error",
		"OK" + strings.Repeat(" (", 100) + "\r\n": "error",
		"": "error",
	} {
		_, c := newTape(says)
		got := "error"
		r, err := readResponse(c)
		if err == nil {
			got = r.line()
		}
		if got != want {
			t.Errorf("%.40q: %s (%v), want %s", says, got, err, want)
		}
	}
}

func TestReadListing(t *testing.T) {
	_, c := newTape("\"IMPLEMENTATION\" \"Example\"\r\n\"sasl\" \"PLAIN  LOGIN\"\r\n\"SIEVE\" {8}\r\nfileinto\r\n" +
		"\"X\" \"" + strings.Repeat("x", 4090) + "\"\r\n\"Y\" {5000}\r\n" + strings.Repeat("y", 5000) + "\r\n" +
		"\"StartTLS\"\r\n\"XCLIENT\"\r\n\"MAXREDIRECTS\" 5\r\nOK \"ready\"\r\n")
	l, err := readListing(c)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"IMPLEMENTATION Example", "sasl PLAIN  LOGIN", "SIEVE fileinto", "X " + strings.Repeat("x", 4090), "StartTLS", "XCLIENT", "MAXREDIRECTS 5"}
	if !slices.Equal(l.lines, want) || !l.starttls || !l.xclient || !slices.Equal(l.sasl, []string{"PLAIN", "LOGIN"}) {
		t.Errorf("got %+v", l)
	}
	for _, says := range []string{
		"BYE (TRYLATER) \"busy\"\r\n", "NO\r\n", "* OK IMAP\r\n", "+OK ready\r\n", "\"SASL\r\n", "",
		strings.Repeat("\"X\"\r\n", 1000), "\"X\" {16385}\r\n",
	} {
		_, c := newTape(says)
		if l, err := readListing(c); err == nil {
			t.Errorf("%.40q is the listing %+v", says, l)
		}
	}
}

func TestAnswered(t *testing.T) {
	for line, want := range map[string]string{
		"OK \"in\"\r\n":                          "welcome OK \"in\"",
		"NO \"bad password for ann\"\r\n":        "rejected",
		"NO\r\n":                                 "rejected",
		"NO (AUTH-TOO-WEAK) \"x\"\r\n":           "rejected",
		"NO (TRYLATER) \"x\"\r\n":                "reply NO (TRYLATER) \"x\"",
		"NO (QUOTA/MAXSIZE) \"x\"\r\n":           "reply NO (QUOTA/MAXSIZE) \"x\"",
		"NO (ENCRYPT-NEEDED)\r\n":                "reply NO (ENCRYPT-NEEDED)",
		"NO (TRANSITION-NEEDED) \"x\"\r\n":       "reply NO (TRANSITION-NEEDED) \"x\"",
		"NO (REFERRAL \"sieve://10.0.0.2\")\r\n": `reply NO (TRYLATER) "Account is temporarily unavailable"`,
		"BYE (TRYLATER) \"x\"\r\n":               "bye",
	} {
		_, c := newTape(line)
		r, err := readResponse(c)
		if err != nil {
			t.Fatal(err)
		}
		s := &session{}
		err = s.answered(r)
		var reply *proxy.Reply
		got := "?"
		switch {
		case err == nil:
			got = "welcome " + s.welcome
		case errors.As(err, &reply):
			got = "reply " + reply.Text
		case errors.Is(err, proxy.ErrRejected):
			got = "rejected"
		case errors.Is(err, errBye):
			got = "bye"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", line, got, want)
		}
	}
}

func TestConverse(t *testing.T) {
	for _, tc := range []struct {
		name     string
		exchange *prototest.Exchange
		says     string
		want     string
		asked    []string
		line     string
		err      error
	}{
		{name: "at once", exchange: &prototest.Exchange{}, says: "OK\r\n", line: "OK"},
		{
			name: "challenges", exchange: &prototest.Exchange{Answers: []string{"b", ""}}, says: "\"YzE=\"\r\n{0}\r\n\r\nOK \"in\"\r\n",
			want: "\"Yg==\"\r\n\"\"\r\n", asked: []string{"c1", ""}, line: `OK "in"`,
		},
		{
			name: "a long answer", exchange: &prototest.Exchange{Answers: []string{strings.Repeat("x", 900)}}, says: "\"\"\r\nNO\r\n",
			want: "{1200+}\r\n" + strings.Repeat("eHh4", 300) + "\r\n", asked: []string{""}, line: "NO",
		},
		{name: "no base64", exchange: &prototest.Exchange{}, says: "\"?\"\r\n", err: proxy.ErrProtocol},
		{name: "hangs up", exchange: &prototest.Exchange{}, says: "", err: io.EOF},
	} {
		tape, c := newTape(tc.says)
		r, err := converse(c, tc.exchange)
		line := ""
		if r != nil {
			line = r.line()
		}
		if !errors.Is(err, tc.err) || tape.Heard.String() != tc.want || !slices.Equal(tc.exchange.Asked, tc.asked) || line != tc.line {
			t.Errorf("%s: %q, %v, heard %q, asked %q", tc.name, line, err, tape.Heard.String(), tc.exchange.Asked)
		}
	}
	_, c := newTape(strings.Repeat("\"YQ==\"\r\n", 1000))
	exchange := &prototest.Exchange{Answers: slices.Repeat([]string{"a"}, 1000)}
	if _, err := converse(c, exchange); !errors.Is(err, proxy.ErrProtocol) || len(exchange.Asked) > maxChallenges {
		t.Errorf("an endless member: %v after %d challenges", err, len(exchange.Asked))
	}
}

func TestBegin(t *testing.T) {
	for _, tc := range []struct {
		initial []byte
		want    string
	}{
		{nil, "AUTHENTICATE \"X\"\r\n"},
		{[]byte{}, "AUTHENTICATE \"X\" \"\"\r\n"},
		{[]byte("a"), "AUTHENTICATE \"X\" \"YQ==\"\r\n"},
		{bytes.Repeat([]byte("x"), 900), "AUTHENTICATE \"X\" {1200+}\r\n" + strings.Repeat("eHh4", 300) + "\r\n"},
	} {
		tape, c := newTape("")
		begin(c, "X", tc.initial)
		if err := c.Flush(); err != nil || tape.Heard.String() != tc.want {
			t.Errorf("heard %q, %v; want %q", tape.Heard.String(), err, tc.want)
		}
	}
}

func TestProbe(t *testing.T) {
	const listing = "\"SASL\" \"PLAIN\"\r\n\"SIEVE\" \"fileinto\"\r\nOK\r\n"
	shown := []string{"SASL PLAIN", "SIEVE fileinto"}
	for _, tc := range []struct {
		name, says, heard string
		probe             backend.Probe
		want              []string
		together          bool // everything comes at once
		err               error
	}{
		{name: "well", says: listing + "OK \"bye\"\r\n", heard: "LOGOUT\r\n", want: shown},
		{
			name: "logs in", probe: backend.Probe{User: "probe", Password: "secret"}, says: listing + "OK\r\nOK\r\n",
			heard: "AUTHENTICATE \"PLAIN\" \"AHByb2JlAHNlY3JldA==\"\r\nLOGOUT\r\n", want: shown,
		},
		{
			name: "login refused", probe: backend.Probe{User: "probe", Password: "secret"}, says: listing + "NO\r\n",
			heard: "AUTHENTICATE \"PLAIN\" \"AHByb2JlAHNlY3JldA==\"\r\n", err: errRefused,
		},
		{name: "busy", says: "BYE (TRYLATER) \"busy\"\r\n", err: proxy.ErrProtocol},
		{name: "no STARTTLS", probe: backend.Probe{Mode: backend.StartTLS}, says: listing, err: proxy.ErrProtocol},
		{
			name: "injected behind STARTTLS", probe: backend.Probe{Mode: backend.StartTLS}, together: true,
			says: "\"STARTTLS\"\r\nOK\r\nOK\r\n" + listing, err: wire.ErrInjected,
		},
	} {
		tape, _ := newTape(tc.says)
		if tc.together {
			tape.Packets = []string{tc.says}
		}
		got, err := New().Probe(t.Context(), tape, tc.probe)
		if !errors.Is(err, tc.err) || !slices.Equal(got, tc.want) || tape.Heard.String() != tc.heard {
			t.Errorf("%s: %q, %v, heard %q", tc.name, got, err, tape.Heard.String())
		}
	}
}

// What a member says never puts a control character before a client, and never goes on for ever.
func FuzzMember(f *testing.F) {
	f.Add("\"SASL\" \"PLAIN\"\r\nOK\r\n\"YQ==\"\r\nOK (SASL \"YQ==\") \"in\"\r\n")
	f.Add("OK\r\nNO (LIMIT \"x\x1b\") {3}\r\n\r\nx\r\n")
	f.Fuzz(func(t *testing.T, says string) {
		_, c := newTape(says)
		l, err := readListing(c)
		if err != nil {
			return
		}
		if len(l.lines) > maxCapabilities {
			t.Errorf("%d capabilities", len(l.lines))
		}
		for _, line := range common([][]string{l.lines}) {
			if strings.ContainsFunc(line, prototest.IsControl) {
				t.Errorf("a client would see %q", line)
			}
		}
		r, err := converse(c, &prototest.Exchange{Answers: []string{"b"}})
		if err != nil {
			return
		}
		s := &session{}
		var reply *proxy.Reply
		shown := ""
		if err := s.answered(r); err == nil {
			shown = s.welcome
		} else if errors.As(err, &reply) {
			shown = reply.Text
		}
		if strings.ContainsFunc(shown, prototest.IsControl) || reply != nil && !strings.HasPrefix(shown, "NO (") {
			t.Errorf("a client would see %q", shown)
		}
		if _, err := readResponseOf(shown); shown != "" && err != nil {
			t.Errorf("a client could not read %q: %v", shown, err)
		}
	})
}

func readResponseOf(line string) (*response, error) {
	_, c := newTape(line + "\r\n")
	return readResponse(c)
}
