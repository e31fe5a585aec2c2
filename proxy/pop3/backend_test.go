package pop3

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"mailmux/proxy"
	"mailmux/proxy/auth"
	"mailmux/proxy/backend"
	"mailmux/proxy/prototest"
	"mailmux/proxy/wire"
)

// newTape is a member that says its lines and hangs up.
func newTape(says string) (*prototest.Tape, *wire.Conn) { return prototest.NewTape(says, 1024) }

func TestRefusal(t *testing.T) {
	for line, want := range map[string]string{
		"-ERR":                                       "rejected",
		"-ERR bad password for ann on store7":        "rejected",
		"-ERR [AUTH] user ann unknown":               "rejected",
		"-ERR [auth/x] user ann unknown":             "rejected",
		"-ERR [not a code] x":                        "rejected",
		"-ERR [IN-USE] locked":                       "-ERR [IN-USE] locked",
		"-ERR [SYS/TEMP] \x07later":                  "-ERR [SYS/TEMP] ?later",
		"-ERR [LOGIN-DELAY] wait":                    "-ERR [LOGIN-DELAY] wait",
		"-ERR [REFERRAL/ann@10.0.0.2:110] go there.": "-ERR [SYS/TEMP] Account is temporarily unavailable",
	} {
		err := refusal([]byte(line))
		var reply *proxy.Reply
		got := "?"
		switch {
		case errors.As(err, &reply):
			got = reply.Text
		case errors.Is(err, proxy.ErrRejected):
			got = "rejected"
		}
		if got != want {
			t.Errorf("refusal(%q) = %s, want %s", line, got, want)
		}
	}
}

func TestReadGreeting(t *testing.T) {
	for line, want := range map[string]string{
		"+OK ready\r\n":                      "plain",
		"+OK\r\n":                            "plain",
		"+OK [XCLIENT] Dovecot ready.\r\n":   "xclient",
		"+OK see [XCLIENT]\r\n":              "plain",
		"-ERR [SYS/TEMP] too many\r\n":       "error",
		"* OK IMAP4rev1\r\n":                 "error",
		"+OKAY\r\n":                          "error",
		"":                                   "error",
		"+OK no end":                         "error",
		"+OK" + strings.Repeat("x", 5000):    "error",
		"220 smtp.example.com ESMTP ready\r": "error",
	} {
		_, c := newTape(line)
		xclient, err := readGreeting(c)
		got := "plain"
		if err != nil {
			got = "error"
		} else if xclient {
			got = "xclient"
		}
		if got != want {
			t.Errorf("greeting %.40q: %s (%v), want %s", line, got, err, want)
		}
	}
}

func TestEnterByPassword(t *testing.T) {
	told := auth.Told{User: "ann", Password: " open sesame "}
	for _, tc := range []struct {
		name    string
		says    string
		member  member
		want    string // what the member hears
		writes  int
		welcome string
		err     error
	}{
		{
			name: "one step at a time", says: "+OK\r\n+OK in\r\n",
			want: "USER ann\r\nPASS  open sesame \r\n", writes: 2, welcome: "+OK in",
		},
		{
			name: "at once, XCLIENT refused", says: "-ERR no\r\n+OK\r\n+OK in\r\n", member: member{xclient: true, ahead: true},
			want: "USER ann\r\nPASS  open sesame \r\n", writes: 1, welcome: "+OK in",
		},
		{
			name: "at once, USER refused", says: "+OK\r\n-ERR who?\r\n-ERR no\r\n", member: member{xclient: true, ahead: true},
			want: "USER ann\r\nPASS  open sesame \r\n", writes: 1, err: proxy.ErrRejected,
		},
		{
			name: "at once, without XCLIENT", says: "+OK\r\n+OK in\r\n", member: member{ahead: true},
			want: "USER ann\r\nPASS  open sesame \r\n", writes: 1, welcome: "+OK in",
		},
		{name: "USER refused", says: "-ERR who?\r\n", want: "USER ann\r\n", writes: 1, err: proxy.ErrRejected},
		{name: "nonsense", says: "+OK\r\nBAD\r\n", want: "USER ann\r\nPASS  open sesame \r\n", writes: 2, err: proxy.ErrProtocol},
		{name: "hangs up", says: "+OK\r\n", want: "USER ann\r\nPASS  open sesame \r\n", writes: 2, err: io.EOF},
	} {
		tape, c := newTape(tc.says)
		m := tc.member
		m.Conn = c
		err := m.enterByPassword(told)
		if !errors.Is(err, tc.err) || tape.Heard.String() != tc.want || tape.Writes != tc.writes || m.welcome != tc.welcome {
			t.Errorf("%s: %v, heard %q in %d writes, welcome %q", tc.name, err, tape.Heard.String(), tape.Writes, m.welcome)
		}
	}
}

// The directory's login name could end the line, if nobody looked.
func TestEnterByPasswordIllegal(t *testing.T) {
	for _, told := range []auth.Told{{User: "ann\r\nDELE 1"}, {User: "ann", Password: "x\ny"}, {User: "a\x00b"}} {
		tape, c := newTape("+OK\r\n+OK\r\n")
		err := (&member{Conn: c}).enterByPassword(told)
		if proxy.CauseOf(err) != proxy.CauseTemporary || tape.Heard.Len() > 0 {
			t.Errorf("%q: %v, heard %q", told.User, err, tape.Heard.String())
		}
	}
}

func TestEnterByExchange(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 300)
	for _, tc := range []struct {
		name     string
		exchange *prototest.Exchange
		says     string
		want     string
		asked    []string
		welcome  string
		err      error
	}{
		{
			name: "initial response", exchange: &prototest.Exchange{Mechanism: "PLAIN", Initial: []byte("a")},
			says: "+OK in\r\n", want: "AUTH PLAIN YQ==\r\n", welcome: "+OK in",
		},
		{
			name: "empty initial response", exchange: &prototest.Exchange{Mechanism: "EXTERNAL", Initial: []byte{}},
			says: "+OK in\r\n", want: "AUTH EXTERNAL =\r\n", welcome: "+OK in",
		},
		{
			name: "too long for the line", exchange: &prototest.Exchange{Mechanism: "PLAIN", Initial: long}, says: "+ \r\n+OK in\r\n",
			want: "AUTH PLAIN\r\n" + strings.Repeat("eHh4", 100) + "\r\n", welcome: "+OK in",
		},
		{
			name: "challenges", exchange: &prototest.Exchange{Mechanism: "X", Initial: []byte("a"), Answers: []string{"b", ""}},
			says: "+ YzE=\r\n+\r\n+OK in\r\n", want: "AUTH X YQ==\r\nYg==\r\n\r\n", asked: []string{"c1", ""}, welcome: "+OK in",
		},
		{
			name: "refused after the error was relayed", exchange: &prototest.Exchange{Mechanism: "X", Initial: []byte("a"), Answers: []string{"\x01"}},
			says: "+ e30=\r\n-ERR [AUTH] no\r\n", want: "AUTH X YQ==\r\nAQ==\r\n", asked: []string{"{}"}, err: proxy.ErrRejected,
		},
		{
			name: "no base64", exchange: &prototest.Exchange{Mechanism: "X", Initial: []byte("a")},
			says: "+ ?\r\n", want: "AUTH X YQ==\r\n", err: proxy.ErrProtocol,
		},
	} {
		tape, c := newTape(tc.says)
		m := &member{Conn: c}
		err := m.enterByExchange(tc.exchange)
		if !errors.Is(err, tc.err) || tape.Heard.String() != tc.want || !slices.Equal(tc.exchange.Asked, tc.asked) || m.welcome != tc.welcome {
			t.Errorf("%s: %v, heard %q, asked %q, welcome %q", tc.name, err, tape.Heard.String(), tc.exchange.Asked, m.welcome)
		}
	}
}

func TestEnterByExchangeEndless(t *testing.T) {
	_, c := newTape(strings.Repeat("+ YQ==\r\n", 1000))
	exchange := &prototest.Exchange{Mechanism: "X", Initial: []byte("a"), Answers: slices.Repeat([]string{"a"}, 1000)}
	if err := (&member{Conn: c}).enterByExchange(exchange); !errors.Is(err, proxy.ErrProtocol) {
		t.Errorf("got %v, want ErrProtocol", err)
	}
	if len(exchange.Asked) > maxChallenges {
		t.Errorf("%d challenges were answered", len(exchange.Asked))
	}
}

func TestProbe(t *testing.T) {
	for _, tc := range []struct {
		name, says, heard string
		probe             backend.Probe
		want              []string
		together          bool // what follows the greeting comes at once
		err               error
	}{
		{
			name: "well", says: "+OK hi\r\n+OK list\r\nTOP\r\nSASL PLAIN\r\n.\r\n+OK bye\r\n", heard: "CAPA\r\nQUIT\r\n",
			want: []string{"TOP", "SASL PLAIN"},
		},
		{name: "knows no CAPA", says: "+OK hi\r\n-ERR what?\r\n+OK bye\r\n", heard: "CAPA\r\nQUIT\r\n"},
		{
			name: "logs in", probe: backend.Probe{User: "probe", Password: "secret"},
			says:  "+OK hi\r\n+OK list\r\n.\r\n+OK\r\n+OK in\r\n+OK bye\r\n",
			heard: "CAPA\r\nUSER probe\r\nPASS secret\r\nQUIT\r\n", want: []string{},
		},
		{
			name: "login refused", probe: backend.Probe{User: "probe", Password: "secret"},
			says: "+OK hi\r\n+OK list\r\n.\r\n+OK\r\n-ERR no\r\n", heard: "CAPA\r\nUSER probe\r\nPASS secret\r\n", err: errRefused,
		},
		{name: "busy", says: "-ERR [SYS/TEMP] busy\r\n", err: proxy.ErrProtocol},
		{name: "no STLS", probe: backend.Probe{Mode: backend.StartTLS}, says: "+OK hi\r\n-ERR no\r\n", heard: "STLS\r\n", err: proxy.ErrProtocol},
		{
			name: "injected behind STLS", probe: backend.Probe{Mode: backend.StartTLS}, says: "+OK hi\r\n+OK go\r\n+OK evil\r\n",
			heard: "STLS\r\n", together: true, err: wire.ErrInjected,
		},
		{name: "endless", says: "+OK hi\r\n+OK list\r\n" + strings.Repeat("X\r\n", 1000), heard: "CAPA\r\n", err: proxy.ErrProtocol},
	} {
		tape, _ := newTape(tc.says)
		if tc.together {
			tape.Packets = []string{tape.Packets[0], strings.Join(tape.Packets[1:], "")}
		}
		got, err := New().Probe(t.Context(), tape, tc.probe)
		if !errors.Is(err, tc.err) || !slices.Equal(got, tc.want) || (got == nil) != (tc.want == nil) || tape.Heard.String() != tc.heard {
			t.Errorf("%s: %q, %v, heard %q", tc.name, got, err, tape.Heard.String())
		}
	}
}

// What a member says never puts a control character before a client, and never goes on for ever.
func FuzzMember(f *testing.F) {
	f.Add("+OK\r\n+OK\r\n+OK Logged in.\r\n", true, true)
	f.Add("-ERR [IN-USE] \x1b\r\n", false, false)
	f.Add("+ YQ==\r\n-ERR\r\n", false, true)
	f.Fuzz(func(t *testing.T, says string, password, xclient bool) {
		_, c := newTape(says)
		m := &member{Conn: c, xclient: xclient, utf8: len(says)%2 == 0}
		var err error
		if password {
			err = m.enterByPassword(auth.Told{User: "ann", Password: "sesame"})
		} else {
			err = m.enterByExchange(&prototest.Exchange{Mechanism: "X", Initial: []byte("a"), Answers: []string{"b"}})
		}
		shown := m.welcome
		var reply *proxy.Reply
		if errors.As(err, &reply) {
			shown = reply.Text
		}
		if strings.ContainsFunc(shown, prototest.IsControl) || err == nil && !strings.HasPrefix(shown, "+OK") ||
			reply != nil && !strings.HasPrefix(shown, "-ERR [") {
			t.Errorf("a client would see %q (%v)", shown, err)
		}
		_, c = newTape(says)
		if list, err := readCapabilities(c); err == nil && len(list) > maxCapabilities {
			t.Errorf("%d capabilities", len(list))
		}
	})
}
