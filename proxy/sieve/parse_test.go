package sieve

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"mailmux/proxy/auth"
	"mailmux/proxy/prototest"
	"mailmux/proxy/wire"
)

// show writes tokens down for comparison: atoms as they are, strings in angle brackets.
func show(tokens []token) string {
	var b strings.Builder
	for i, t := range tokens {
		if i > 0 {
			b.WriteByte(' ')
		}
		if t.kind == quoted {
			fmt.Fprintf(&b, "<%s>", t.text)
		} else {
			b.WriteString(t.text)
		}
	}
	return b.String()
}

func TestReadTokens(t *testing.T) {
	for _, tc := range []struct {
		says, want string
		err        error
	}{
		{says: "NOOP\r\n", want: "NOOP"},
		{says: "NOOP \"tag\"\r\n", want: "NOOP <tag>"},
		{says: `A "with \"quotes\" and \\ "` + "\r\n", want: `A <with "quotes" and \ >`},
		{says: "A \"\" \"é\"\r\n", want: "A <> <é>"},
		{says: "A {3+}\r\na\r\n\r\n", want: "A <a\r\n>"},
		{says: "A {3}\r\na\"b {0+}\r\n \"c\"\r\n", want: "A <a\"b> <> <c>"},
		{says: "{1+}\r\nx\r\n", want: "<x>"},
		{says: "OK (TAG {2}\r\nab) \"text\"\r\n", want: "OK ( TAG <ab> ) <text>"},
		{says: "NO (QUOTA/MAXSIZE) \"big\"\r\n", want: "NO ( QUOTA/MAXSIZE ) <big>"},
		{says: "XCLIENT ADDR=2001:db8::1  TTL=6\r\n", want: "XCLIENT ADDR=2001:db8::1 TTL=6"},
		{says: "A x{3+}\r\n", want: "A x{3+}"}, // no literal: it does not stand alone
		{says: "A {+}\r\n", want: "A {+}"},
		{says: "\r\n", want: ""},

		{says: "A \"open\r\n", err: errSyntax},
		{says: "A \"open\\\r\n", err: errSyntax},
		{says: "A \"nul\x00\"\r\n", err: errSyntax},
		{says: "A b\"c\"\r\n", err: errSyntax},
		{says: "A\tb\r\n", err: errSyntax},
		{says: "A \xff\r\n", err: errSyntax},
		{says: "\x16\x03\x01\r\n", err: errSyntax},
		{says: "A {16385+}\r\n", err: wire.ErrLineTooLong},
		{says: "A {9000+}\r\n" + strings.Repeat("x", 9000) + " {9000+}\r\n", err: wire.ErrLineTooLong},
		{says: "A {99999999999999999999+}\r\n", err: wire.ErrLineTooLong},
		{says: strings.Repeat("A", 5000) + "\r\n", err: wire.ErrLineTooLong},
	} {
		_, c := newTape(tc.says)
		tokens, err := readTokens(c, false)
		if got := show(tokens); !errors.Is(err, tc.err) || got != tc.want {
			t.Errorf("%.40q: %q, %v; want %q, %v", tc.says, got, err, tc.want, tc.err)
		}
	}
}

// A syntax error in front of a literal does not make commands of the literal's bytes.
func TestReadTokensAfterSyntaxError(t *testing.T) {
	_, c := newTape("A b\"c {18+}\r\nLOGOUT\r\nAAAAAAAAAA \"d\"\r\nNOOP\r\n")
	if _, err := readTokens(c, false); !errors.Is(err, errSyntax) {
		t.Fatalf("got %v, want errSyntax", err)
	}
	if tokens, err := readTokens(c, false); err != nil || show(tokens) != "NOOP" {
		t.Errorf("then came %q, %v; want NOOP", show(tokens), err)
	}
}

func TestLookup(t *testing.T) {
	for _, verb := range []string{"NOOP", "authenticate", "UnAuthenticate"} {
		if _, ok := lookup(verb); !ok {
			t.Errorf("%q is not known", verb)
		}
	}
	for _, verb := range []string{"", "GET", "NOOPS", "UNAUTHENTICATES"} {
		if _, ok := lookup(verb); ok {
			t.Errorf("%q is known", verb)
		}
	}
}

func TestDecode(t *testing.T) {
	for text, want := range map[string]string{"=": "", "": "", "YQ==": "a"} {
		got, err := decode(text)
		if err != nil || got == nil || string(got) != want {
			t.Errorf("decode(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"*", "YQ", "Y\r\nQ==", "=="} {
		if got, err := decode(text); !errors.Is(err, auth.ErrMalformed) {
			t.Errorf("decode(%q) = %q, %v; want ErrMalformed", text, got, err)
		}
	}
}

func TestQuote(t *testing.T) {
	for text, want := range map[string]string{
		"":                  `""`,
		"Logged in.":        `"Logged in."`,
		`a "b" \c`:          `"a \"b\" \\c"`,
		"a\r\nOK \"in\"":    `"a  OK \"in\""`,
		"\x00\x1b\x7f\xffé": `"   ?é"`,
	} {
		if got := quote(text); got != want {
			t.Errorf("quote(%q) = %s, want %s", text, got, want)
		}
	}
	if got := quote(strings.Repeat("é", 1000)); len(got) > maxQuoted+2 || !utf8.ValidString(got) {
		t.Errorf("a long text has %d bytes, valid %v", len(got), utf8.ValidString(got))
	}
}

func TestCommon(t *testing.T) {
	for _, tc := range []struct {
		name  string
		lists [][]string
		want  []string
	}{
		{"nobody was seen", nil, []string{`"SIEVE" "fileinto reject envelope vacation"`}},
		{
			"what all have",
			[][]string{
				{"SIEVE fileinto vacation imap4flags", "NOTIFY mailto xmpp", "MAXREDIRECTS 5", "EXTLISTS urn:x"},
				{"sieve imap4flags fileinto", "Notify mailto", "MAXREDIRECTS 3"},
			},
			[]string{`"SIEVE" "fileinto imap4flags"`, `"NOTIFY" "mailto"`, `"MAXREDIRECTS" "3"`},
		},
		{"one shows nothing", [][]string{{"SIEVE fileinto", "MAXREDIRECTS 5"}, {}}, []string{`"SIEVE" ""`}},
		{
			"more than a string may hold", [][]string{{"SIEVE " + strings.Repeat("123456789 ", 200)}},
			[]string{`"SIEVE" "` + strings.Repeat("123456789 ", 101) + `123456789"`},
		},
		{"a number that is none", [][]string{{"SIEVE", "MAXREDIRECTS many"}}, []string{`"SIEVE" ""`}},
	} {
		if got := common(tc.lists); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

// Whatever arrives, from a client or a member: tokens are bounded, and none of them is an atom that could end a line.
func FuzzReadTokens(f *testing.F) {
	f.Add("AUTHENTICATE \"PLAIN\" {8+}\r\nAGEAYg==\r\n")
	f.Add("NO (TAG {2}\r\nab) \"x\\\"y\"\r\n")
	f.Add("A b\"c {3+}\r\nNOO\r\nNOOP\r\n")
	f.Fuzz(func(t *testing.T, says string) {
		_, c := newTape(says)
		total := 0
		for {
			tokens, err := readTokens(c, false)
			if err != nil && err != errSyntax {
				return
			}
			size := 0
			for _, token := range tokens {
				size += len(token.text)
				if token.kind == atom && (token.text == "" || strings.ContainsFunc(token.text, func(r rune) bool { return r <= ' ' || r >= 0x7f })) {
					t.Errorf("%q is no atom", token.text)
				}
				if q := quote(token.text); strings.ContainsFunc(q, prototest.IsControl) || !utf8.ValidString(q) {
					t.Errorf("a client would see %q", q)
				}
			}
			if total += size; total > len(says) {
				t.Fatalf("%d bytes of tokens in %d bytes of input", total, len(says))
			}
		}
	})
}
