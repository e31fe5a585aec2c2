package smtpwire

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// lines reads from a text, for ReadReply.
type lines struct{ r *bufio.Reader }

func (l lines) ReadLine() ([]byte, error) {
	line, err := l.r.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	return []byte(strings.TrimRight(string(line), "\r\n")), nil
}

func read(text string) (Reply, error) {
	return ReadReply(lines{bufio.NewReader(strings.NewReader(text))})
}

func TestReadReply(t *testing.T) {
	for _, tt := range []struct{ in, wire, enhanced string }{
		{"250 2.0.0 OK\r\n", "250 2.0.0 OK", "2.0.0"},
		{"250\r\n", "250 ", ""},
		{"235 \r\n", "235 ", ""},
		{"220-a\r\n220-\r\n220 c\r\n", "220-a\r\n220-\r\n220 c", ""},
		{"550-5.7.1 no\r\n550 5.7.1 way\r\n", "550-5.7.1 no\r\n550 5.7.1 way", "5.7.1"},
		{"535 4.7.8 class of another code\r\n", "535 4.7.8 class of another code", ""},
		{"535 5.7.8888 long\r\n", "535 5.7.8888 long", ""},
		{"535 5..8 gap\r\n", "535 5..8 gap", ""},
		{"454 4.7.0 red \x1b[31m\x07\tand \xff\r\n", "454 4.7.0 red  [31m  and ?", "4.7.0"},
		{"454 nul \x00 lone \r in \u0085 it\r\n", "454 nul   lone   in   it", ""},
		{"250 Grüße\r\n", "250 Grüße", ""},
	} {
		r, err := read(tt.in)
		if err != nil {
			t.Errorf("%q: %v", tt.in, err)
			continue
		}
		if r.Wire() != tt.wire || r.Enhanced() != tt.enhanced {
			t.Errorf("%q: %q %q, want %q %q", tt.in, r.Wire(), r.Enhanced(), tt.wire, tt.enhanced)
		}
	}
}

func TestReadReplyRefuses(t *testing.T) {
	for _, in := range []string{
		"\r\n", "25\r\n", "25a x\r\n", "150 preliminary\r\n", "650 x\r\n", "250_x\r\n", "+OK\r\n", "* OK IMAP\r\n",
		"250-a\r\n251 b\r\n", "250-a\r\nb\r\n",
		strings.Repeat("250-x\r\n", 1000),
		strings.Repeat("250-"+strings.Repeat("x", 4000)+"\r\n", 20),
	} {
		if r, err := read(in); !errors.Is(err, ErrReply) {
			t.Errorf("%.40q: %v, %v", in, r, err)
		}
	}
	for _, in := range []string{"", "250-a\r\n"} {
		if _, err := read(in); err != io.EOF {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestReplyIsBoundedWherePassedOn(t *testing.T) {
	r := Reply{454, "ä" + strings.Repeat("é", 2000)}
	if n := len(r.Wire()); n > 510 || n < 508 {
		t.Errorf("wire: %d bytes", n)
	}
	if n := len(Reply{454, "a\nb\x00" + strings.Repeat("c", 900)}.String()); n > 204 {
		t.Errorf("log: %d bytes", n)
	}
	if s := (Reply{454, "a\nb\x00c"}).String(); s != "454 a b c" {
		t.Errorf("log: %q", s)
	}
}

func TestExtensions(t *testing.T) {
	r, err := read("250-store7.example.com hello\r\n250-PIPELINING\r\n250-size 1000\r\n250-AUTH PLAIN LOGIN\r\n" +
		"250-AUTH=PLAIN\r\n250-8BITMIME \r\n250-bad\x00one\r\n250--X\r\n250-\r\n250-LIMITS RCPTMAX=9 A=b\r\n250 XCLIENT ADDR  PORT\r\n")
	if err != nil {
		t.Fatal(err)
	}
	e := r.Extensions()
	want := Extensions{"PIPELINING", "size 1000", "AUTH PLAIN LOGIN", "AUTH=PLAIN", "8BITMIME", "LIMITS RCPTMAX=9 A=b", "XCLIENT ADDR  PORT"}
	if !slices.Equal(e, want) {
		t.Errorf("extensions %q", e)
	}
	if p, ok := e.Find("SIZE"); p != "1000" || !ok {
		t.Errorf("SIZE %q %v", p, ok)
	}
	if p, ok := e.Find("limits"); p != "RCPTMAX=9 A=b" || !ok {
		t.Errorf("LIMITS %q %v", p, ok)
	}
	if _, ok := e.Find("STARTTLS"); ok {
		t.Error("STARTTLS found")
	}
	if m := e.Mechanisms(); !slices.Equal(m, []string{"PLAIN", "LOGIN", "PLAIN"}) {
		t.Errorf("mechanisms %q", m)
	}
	if e := (Reply{250, "HELO's answer"}).Extensions(); e != nil {
		t.Errorf("extensions of one line: %q", e)
	}
}

func TestXtext(t *testing.T) {
	for plain, encoded := range map[string]string{
		"":                 "",
		"client.example":   "client.example",
		"a+b=c d":          "a+2Bb+3Dc+20d",
		"\x00\r\n\x7f\xff": "+00+0D+0A+7F+FF",
	} {
		if got := string(AppendXtext(nil, plain)); got != encoded {
			t.Errorf("encode %q: %q, want %q", plain, got, encoded)
		}
		if got, err := ParseXtext(encoded); got != plain || err != nil {
			t.Errorf("decode %q: %q %v", encoded, got, err)
		}
	}
	for _, bad := range []string{"+", "+2", "+2g", "+g2", "a b", "a\x00", "\x7f"} {
		if got, err := ParseXtext(bad); !errors.Is(err, ErrXtext) {
			t.Errorf("decode %q: %q %v", bad, got, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"203.0.113.5":          "203.0.113.5",
		"IPV6:2001:db8::1":     "IPV6:2001:db8::1",
		"ipv6:2001:DB8::1":     "IPV6:2001:db8::1",
		"2001:db8::1":          "IPV6:2001:db8::1",
		"::ffff:203.0.113.5":   "203.0.113.5",
		"IPV6:::ffff:10.0.0.1": "10.0.0.1",
	} {
		a, err := ParseAddress(in)
		if err != nil || FormatAddress(a) != want {
			t.Errorf("%s: %s %v, want %s", in, FormatAddress(a), err, want)
		}
	}
	for _, bad := range []string{"", "IPV6:", "fe80::1%eth0", "host.example", "1.2.3", "IPV6:x"} {
		if a, err := ParseAddress(bad); err == nil {
			t.Errorf("%q: %s", bad, a)
		}
	}
	for want, addr := range map[string]net.Addr{
		"[203.0.113.5]":      &net.TCPAddr{IP: net.IPv4(203, 0, 113, 5), Port: 25},
		"[IPV6:2001:db8::5]": &net.TCPAddr{IP: net.ParseIP("2001:db8::5")},
		"localhost":          &net.UnixAddr{Name: "x"},
	} {
		if got := Literal(addr); got != want {
			t.Errorf("%v: %s, want %s", addr, got, want)
		}
	}
	if s := FormatAddress(netip.Addr{}); s != "" {
		t.Errorf("invalid address: %q", s)
	}
}

// FuzzReadReply: whatever a backend says, what is passed on is lines of the reply's own code without control characters.
func FuzzReadReply(f *testing.F) {
	for _, seed := range []string{"250-a\r\n250 b\r\n", "535 5.7.8 no\r\n", "220\r\n", "454-\x00\r\n454 \xff\r\n", "250-a\r\n250-SIZE 5\r\n250 AUTH=X\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := read(text)
		if err != nil {
			return
		}
		wire := strings.Split(r.Wire(), "\r\n")
		for i, line := range wire {
			sep := '-'
			if i == len(wire)-1 {
				sep = ' '
			}
			if !strings.HasPrefix(line, fmt.Sprintf("%d%c", r.Code, sep)) || len(line) > 510 ||
				strings.ContainsFunc(line, func(c rune) bool { return c < ' ' || c == 0x7f }) {
				t.Errorf("passed on: %q", line)
			}
		}
		for _, e := range r.Extensions() {
			if !plain(e) {
				t.Errorf("extension %q", e)
			}
		}
		r.Extensions().Mechanisms()
		_ = r.String()
	})
}

func TestParseHelo(t *testing.T) {
	for in, want := range map[string]string{
		"pc.example.net":         "pc.example.net",
		"[192.0.2.7]":            "[192.0.2.7]",
		"[IPv6:2001:db8::1]":     "[IPv6:2001:db8::1]",
		"my_pc and more":         "my_pc",
		"Jürgens-Telefon":        "Jürgens-Telefon",
		strings.Repeat("x", 255): strings.Repeat("x", 255),
	} {
		if got, ok := ParseHelo([]byte(in)); got != want || !ok {
			t.Errorf("%q: %q %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "a\rb", "a\x00", "\x7f", "a\tb", strings.Repeat("x", 256)} {
		if got, ok := ParseHelo([]byte(in)); ok {
			t.Errorf("%q: %q", in, got)
		}
	}
	for name, want := range map[string]bool{"pc.example.net": true, "[IPv6:2001:db8::1]": true, "my_pc": true, "": false, "a b": false,
		"a\r": false, "a+b": false, "a=b": false, "é": false, strings.Repeat("x", 256): false} {
		if Forwardable(name) != want {
			t.Errorf("Forwardable(%q) is not %v", name, want)
		}
	}
}

// FuzzParseHelo: whatever a client calls itself, nothing that could end a line or a word gets through.
func FuzzParseHelo(f *testing.F) {
	for _, seed := range []string{"pc", "[IPv6:::1] x", "a\rb", "é"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, args []byte) {
		if name, ok := ParseHelo(args); ok && strings.ContainsAny(name, "\x00\r\n \t") {
			t.Errorf("helo %q", name)
		}
	})
}
