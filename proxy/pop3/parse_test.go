package pop3

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"mailmux/proxy/auth"
	"mailmux/proxy/prototest"
)

func TestSplit(t *testing.T) {
	for _, tc := range []struct{ line, verb, arg string }{
		{"QUIT", "QUIT", ""},
		{"USER ann", "USER", "ann"},
		{"PASS  open sesame ", "PASS", " open sesame "},
		{"", "", ""},
		{" QUIT", "", "QUIT"},
	} {
		verb, arg := split([]byte(tc.line))
		if string(verb) != tc.verb || string(arg) != tc.arg {
			t.Errorf("split(%q) = %q, %q; want %q, %q", tc.line, verb, arg, tc.verb, tc.arg)
		}
	}
}

func TestLookup(t *testing.T) {
	for _, verb := range []string{"CAPA", "capa", "xClient", "top"} {
		if _, ok := lookup([]byte(verb)); !ok {
			t.Errorf("%q is not known", verb)
		}
	}
	for _, verb := range []string{"", "CAP", "CAPAX", "GET", "XCLIENTXCLIENT", "USER\x00"} {
		if _, ok := lookup([]byte(verb)); ok {
			t.Errorf("%q is known", verb)
		}
	}
	if n := testing.AllocsPerRun(100, func() { lookup([]byte("pass")) }); n != 0 {
		t.Errorf("lookup makes %v allocations", n)
	}
}

// Every verb does something in a state, or says what has to come before it.
func TestCommandTable(t *testing.T) {
	const all = authorization | named
	for verb, c := range commands {
		if (c.run == nil) != (c.in == 0) {
			t.Errorf("%s: it has a method, or states, without the other", verb)
		}
		if c.in != all && c.early == nil {
			t.Errorf("%s: nothing to say where it is not allowed", verb)
		}
	}
}

func TestDecode(t *testing.T) {
	for text, want := range map[string]string{"=": "", "": "", "AGFubgBz": "\x00ann\x00s", "YQ==": "a"} {
		got, err := decode([]byte(text))
		if err != nil || got == nil || string(got) != want {
			t.Errorf("decode(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"*", "YQ", "==", "YQ==\x00", "Y Q=", "=="} {
		if got, err := decode([]byte(text)); !errors.Is(err, auth.ErrMalformed) {
			t.Errorf("decode(%q) = %q, %v; want ErrMalformed", text, got, err)
		}
	}
}

func TestResponseCode(t *testing.T) {
	for text, want := range map[string]string{
		"[AUTH] no":           "AUTH",
		"[SYS/TEMP] later":    "SYS/TEMP",
		"[IN-USE]":            "IN-USE",
		"no code":             "",
		"[not a code] text":   "",
		"[] text":             "",
		"[open":               "",
		"[a[b] c":             "",
		"[a\x01b] c":          "",
		"text [AUTH] further": "",
	} {
		if got := responseCode([]byte(text)); got != want {
			t.Errorf("responseCode(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for line, want := range map[string]string{
		"+OK Logged in.":       "+OK Logged in.",
		"+OK Grüße":            "+OK Grüße",
		"-ERR [IN-USE] \x1b[2": "-ERR [IN-USE] ?[2",
		"+OK a\rb\x00c\u0085d": "+OK a?b?c?d",
		"+OK \xff":             "+OK ?",
	} {
		if got := printable([]byte(line)); got != want {
			t.Errorf("printable(%q) = %q, want %q", line, got, want)
		}
	}
	long := printable([]byte("+OK " + strings.Repeat("ü", 300)))
	if len(long) > maxReply || len(long) < maxReply-2 || !utf8.ValidString(long) {
		t.Errorf("a long line has %d bytes, valid %v", len(long), utf8.ValidString(long))
	}
}

func TestCommon(t *testing.T) {
	for _, tc := range []struct {
		name  string
		lists [][]string
		want  []string
	}{
		{"nobody was seen", nil, []string{"RESP-CODES", "AUTH-RESP-CODE", "TOP", "UIDL", "PIPELINING"}},
		{
			"what all have",
			[][]string{{"TOP", "UIDL", "utf8 USER", "EXPIRE 5"}, {"PIPELINING", "UIDL", "UTF8", "top", "LANG"}},
			[]string{"RESP-CODES", "AUTH-RESP-CODE", "TOP", "UIDL", "UTF8"},
		},
		{"one has nothing", [][]string{{"TOP"}, {}}, []string{"RESP-CODES", "AUTH-RESP-CODE"}},
	} {
		if got := common(tc.lists); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

func FuzzLine(f *testing.F) {
	for _, s := range []string{"USER ann", "PASS a b ", "AUTH PLAIN =", "-ERR [AUTH] x", "[SYS/TEMP] y", "\x16\x03\x01"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if bytes.ContainsAny(line, "\n") {
			return
		}
		verb, arg := split(line)
		if c, ok := lookup(verb); ok && c.run == nil && c.early == nil {
			t.Errorf("%q is known and does nothing", verb)
		}
		if message, err := decode(arg); err == nil && message == nil {
			t.Error("an empty message became none")
		}
		if code := responseCode(line); strings.ContainsAny(code, " []\r") {
			t.Errorf("%q is no response code", code)
		}
		shown := printable(line)
		if len(shown) > maxReply+2*len(line) || !utf8.ValidString(shown) || strings.ContainsFunc(shown, prototest.IsControl) {
			t.Errorf("a client would see %q", shown)
		}
	})
}
