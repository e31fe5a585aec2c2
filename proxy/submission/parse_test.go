package submission

import (
	"bytes"
	"errors"
	"testing"

	"mailmux/proxy/auth"
)

func TestLookup(t *testing.T) {
	for line, want := range map[string]string{
		"EHLO pc":            "pc",
		"ehlo\tpc  ":         "pc",
		"StartTLS":           "",
		"AUTH PLAIN  AGE=":   "PLAIN  AGE=",
		"MAIL FROM:<a@b.cd>": "FROM:<a@b.cd>",
	} {
		verb, args := split([]byte(line))
		if _, ok := lookup(verb); !ok || string(args) != want {
			t.Errorf("%q: verb %q known %v, arguments %q", line, verb, ok, args)
		}
	}
	for _, line := range []string{"", " EHLO pc", "EHLO\rpc", "EHLO\x00", "STARTTLSX", "EHL", "GET / HTTP/1.1", "éhlo"} {
		verb, _ := split([]byte(line))
		if _, ok := lookup(verb); ok {
			t.Errorf("%q: known", line)
		}
	}
}

func TestParseAuth(t *testing.T) {
	for _, tt := range []struct {
		in, mechanism string
		initial       []byte
		err           error
	}{
		{"PLAIN", "PLAIN", nil, nil},
		{"PLAIN AGEAYg==", "PLAIN", []byte("\x00a\x00b"), nil},
		{"plain   AGEAYg==", "plain", []byte("\x00a\x00b"), nil},
		{"EXTERNAL =", "EXTERNAL", []byte{}, nil},
		{"", "", nil, errArguments},
		{"PLAIN AGEAYg", "PLAIN", nil, auth.ErrMalformed},
		{"PLAIN AGEA Yg==", "PLAIN", nil, auth.ErrMalformed},
		{"PLAIN AGEA\rYg==", "PLAIN", nil, auth.ErrMalformed},
		{"PLAIN *", "PLAIN", nil, auth.ErrMalformed},
	} {
		mechanism, initial, err := parseAuth([]byte(tt.in))
		if mechanism != tt.mechanism || !errors.Is(err, tt.err) || err == nil && tt.err != nil ||
			!bytes.Equal(initial, tt.initial) || (initial == nil) != (tt.initial == nil) {
			t.Errorf("%q: %q %q %v", tt.in, mechanism, initial, err)
		}
	}
}

func TestParseChunk(t *testing.T) {
	for in, want := range map[string]int{"0": 0, "86 LAST": 86, "1048576": maxChunk, "000000000000000000000001": 1} {
		if got, ok := parseChunk([]byte(in)); !ok || got != want {
			t.Errorf("%q: %d %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "LAST", "-1", "1048577", "99999999999999999999999999", "1x"} {
		if got, ok := parseChunk([]byte(in)); ok {
			t.Errorf("%q: %d", in, got)
		}
	}
}

// FuzzLine: whatever a client says, nothing that could end a line or start another command gets behind the parsers.
func FuzzLine(f *testing.F) {
	for _, seed := range []string{"EHLO pc", "AUTH PLAIN AGEAYg==", "AUTH X =", "BDAT 10 LAST"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if bytes.IndexByte(line, '\n') >= 0 {
			return // no line
		}
		verb, args := split(line)
		lookup(verb)
		if mechanism, initial, err := parseAuth(args); err == nil && (mechanism == "" || initial != nil && bytes.IndexByte(line, ' ') < 0) {
			t.Errorf("AUTH %q %q", mechanism, initial)
		}
		if n, ok := parseChunk(args); ok && (n < 0 || n > maxChunk) {
			t.Errorf("BDAT %d", n)
		}
	})
}
