package imap

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"mailmux/proxy"
	"mailmux/proxy/wire"
)

// tape is a connection that gives a text, and keeps what is said.
type tape struct {
	net.Conn
	text string
	said bytes.Buffer
}

func (t *tape) Read(p []byte) (int, error) {
	if t.text == "" {
		return 0, io.EOF
	}
	n := copy(p, t.text)
	t.text = t.text[n:]
	return n, nil
}

func (t *tape) Write(p []byte) (int, error) { return t.said.Write(p) }

// parse begins with the first line of a text.
func parse(t testing.TB, text string) (*parser, *tape) {
	t.Helper()
	nc := &tape{text: text}
	p := &parser{conn: wire.NewConn(nc, 1<<16)}
	line, err := p.conn.ReadLine()
	if err != nil {
		t.Fatal(err)
	}
	p.begin(line)
	return p, nc
}

func TestAstring(t *testing.T) {
	for text, want := range map[string]string{
		"ann rest":                   "ann",
		"u%d*]{x rest":               "u%d*]{x",
		"j\xc3\xb6rg rest":           "jörg",
		`"" rest`:                    "",
		`"a b" rest`:                 "a b",
		`"a\"\\b" rest`:              `a"\b`,
		`"ö" rest`:                   "ö",
		"{0}\r\n rest":               "",
		"{3}\r\na\r\n rest":          "a\r\n",
		"{4+}\r\n{9+} rest":          "{9+}",
		"{000000000000003}\r\nxyz r": "xyz",
	} {
		p, _ := parse(t, text+"\r\n")
		if got, err := p.astring(); got != want || err != nil || p.space() != nil {
			t.Errorf("%q: got %q, %v, and then %q", text, got, err, p.rest)
		}
	}
}

func TestStringsThatAreNone(t *testing.T) {
	for _, text := range []string{"", " a", "\x00", "\ta", "\x7f", `"a`, `"a\x"`, `"a\`, "\"a\x00\"", "\"a\rb\"", "{", "{}", "{+}", "{3", "{3} ",
		"{-3}", "{3-}", "{3++}", "{a}", "{3}{3}", "{0x3}"} {
		p, nc := parse(t, text+"\r\nabcdef\r\n")
		var syntax errSyntax
		if got, err := p.astring(); !errors.As(err, &syntax) {
			t.Errorf("%q: got %q, %v", text, got, err)
		}
		if p.conn.Flush(); nc.said.Len() > 0 {
			t.Errorf("%q: said %q", text, nc.said.String())
		}
	}
}

func TestLiteralsAreBounded(t *testing.T) {
	for _, text := range []string{"{32769}", "{32769+}", "{4294967301}", "{18446744073709551617+}"} {
		p, nc := parse(t, text+"\r\n"+strings.Repeat("x", 100))
		if got, err := p.astring(); !errors.Is(err, proxy.ErrBadCommands) {
			t.Errorf("%s: got %q, %v", text, got, err)
		}
		if p.conn.Flush(); nc.said.Len() > 0 {
			t.Errorf("%s was asked for", text)
		}
	}
	// All literals of a command count.
	p, _ := parse(t, "{20000+}\r\n"+strings.Repeat("x", 20000)+" {20000+}\r\n")
	if _, err := p.astring(); err != nil {
		t.Error(err)
	}
	p.space()
	if _, err := p.astring(); !errors.Is(err, errLiteral) {
		t.Errorf("got %v", err)
	}
	// Many small ones are not free.
	p, _ = parse(t, strings.Repeat("{0+}\r\n", 1000)+"\r\n")
	if err := p.skip(); !errors.Is(err, errLiteral) {
		t.Errorf("got %v", err)
	}
}

func TestTag(t *testing.T) {
	for text, want := range map[string]string{"a NOOP": "a", "A.1-]! x": "A.1-]!", "~ x": "~"} {
		p, _ := parse(t, text+"\r\n")
		if got, err := p.tag(); got != want || err != nil {
			t.Errorf("%q: got %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", " ", " a NOOP", "a", "+ x", "* OK", "a+b x", "a\tNOOP", "a\x00 x", "\xc3\xa4 x", `"a" x`, "a{1} x", "(a) x", `a\ x`} {
		p, _ := parse(t, text+"\r\n")
		if got, err := p.tag(); err == nil {
			t.Errorf("%q: got %q", text, got)
		}
	}
}

func TestWord(t *testing.T) {
	for text, want := range map[string]string{"noop": "NOOP", "Scram-Sha-256 x": "SCRAM-SHA-256", "": "", " x": "",
		strings.Repeat("x", 24): strings.Repeat("X", 24), strings.Repeat("x", 25): "", "no\x00op": "", "n\xc3\xb6": ""} {
		p, _ := parse(t, text+"\r\n")
		var buf [24]byte
		if got := p.word(&buf); string(got) != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// What is written as a quoted string or a literal is read as the same string, whatever is in it.
func FuzzStrings(f *testing.F) {
	for _, s := range []string{"", "ann", `a"\b`, "jörg", "a b", "{3}", "\x01\x7f", "a\r\nb", "\x00"} {
		f.Add(s, "sesame", true)
	}
	f.Fuzz(func(t *testing.T, user, password string, literals bool) {
		var c loginLine
		allowed := !strings.ContainsAny(user+password, "\x00\r\n")
		if c.begin(user, password, literals) != allowed {
			t.Fatalf("%q %q: allowed is %v", user, password, allowed)
		}
		if !allowed || len(user) > maxLiterals/2 || len(password) > maxLiterals/2 {
			return
		}
		var said strings.Builder
		for last := false; !last; {
			var line string
			line, last = c.next()
			said.WriteString(line + "\r\n")
		}
		p, _ := parse(t, said.String())
		if tag, err := p.tag(); tag != tagLogin || err != nil {
			t.Fatal(tag, err)
		}
		var buf [24]byte
		p.word(&buf)
		for _, want := range []string{user, password} {
			if err := p.space(); err != nil {
				t.Fatal(err)
			}
			if got, err := p.astring(); got != want || err != nil {
				t.Fatalf("%q: got %q, %v, want %q", said.String(), got, err, want)
			}
		}
		if err := p.end(); err != nil {
			t.Fatal(err)
		}
	})
}

// The parser takes anything, and never reads a string that the text does not hold.
func FuzzParser(f *testing.F) {
	for _, s := range []string{"a LOGIN {3}\r\nann \"x\"\r\n", "a ID (\"a\" NIL {3+}\r\nabc)\r\n", "a ID NIL\r\n", "a x {5+}\r\nabcde{0+}\r\n\r\n", "{3}\n00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		text += "\r\n" // which may be part of a literal
		for _, f := range []func(*parser) error{
			func(p *parser) error { _, err := p.id(); return err },
			func(p *parser) error { s, err := p.astring(); return holds(text, s, err) },
			func(p *parser) error { s, err := p.tag(); return holds(text, s, err) },
			(*parser).skip,
		} {
			p, _ := parse(t, text)
			if err := f(p); err == errInvented {
				t.Fatal(err)
			}
			if p.literals > maxLiterals+64 {
				t.Fatalf("%d bytes of literals", p.literals)
			}
		}
	})
}

var errInvented = errors.New("a string that is not in the text")

func holds(text, s string, err error) error {
	if err == nil && !strings.Contains(strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(text), s) && !strings.Contains(text, s) {
		return errInvented
	}
	return err
}

func BenchmarkParseLogin(b *testing.B) {
	b.ReportAllocs()
	nc := &tape{}
	p := &parser{conn: wire.NewConn(nc, 8192)}
	for b.Loop() {
		nc.text = "a1 LOGIN ann@example.com \"sesame\"\r\n"
		line, err := p.conn.ReadLine()
		if err != nil {
			b.Fatal(err)
		}
		p.begin(line)
		var buf [24]byte
		if _, err := p.tag(); err != nil || len(p.word(&buf)) != len("LOGIN") || p.space() != nil {
			b.Fatal(err)
		}
		user, err := p.astring()
		if err != nil || p.space() != nil {
			b.Fatal(err)
		}
		if password, err := p.astring(); err != nil || user == password {
			b.Fatal(err)
		}
	}
}
