package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// script is a connection whose reads come in the given pieces, and whose writes are kept.
type script struct {
	net.Conn
	pieces []string
	sent   []string
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; s.pieces[0] == "" {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	s.sent = append(s.sent, string(p))
	return len(p), nil
}

func TestReadLine(t *testing.T) {
	for _, c := range []struct {
		pieces []string
		lines  []string
		err    error
	}{
		{[]string{"a\r\nb\nc\r\r\n"}, []string{"a", "b", "c\r"}, io.EOF},
		{[]string{"he", "llo\r", "\n", "\r\n"}, []string{"hello", ""}, io.EOF},
		{[]string{"half"}, nil, io.ErrUnexpectedEOF},
		{[]string{strings.Repeat("x", 100) + "\r\n"}, []string{strings.Repeat("x", 100)}, io.EOF},
		{[]string{strings.Repeat("x", 101) + "\r\n"}, nil, ErrLineTooLong},
		{[]string{strings.Repeat("x", 5000)}, nil, ErrLineTooLong},
		{[]string{"ok\r\n", strings.Repeat("y", 60), strings.Repeat("y", 60)}, []string{"ok"}, ErrLineTooLong},
	} {
		conn := NewConn(&script{pieces: c.pieces}, 100)
		for _, want := range c.lines {
			if line, err := conn.ReadLine(); string(line) != want || err != nil {
				t.Errorf("%.20q: got %.20q, %v, want %.20q", c.pieces, line, err, want)
			}
		}
		if _, err := conn.ReadLine(); !errors.Is(err, c.err) {
			t.Errorf("%.20q: got %v at the end, want %v", c.pieces, err, c.err)
		}
	}
}

// Replies to pipelined commands go out together, before the conversation waits, and not later.
func TestRepliesAreGathered(t *testing.T) {
	s := &script{pieces: []string{"1\r\n2\r\n", "3\r\n"}}
	c := NewConn(s, 100)
	for range 3 {
		line, err := c.ReadLine()
		if err != nil {
			t.Fatal(err)
		}
		c.Line("ok ", string(line))
	}
	if len(s.sent) != 1 || s.sent[0] != "ok 1\r\nok 2\r\n" {
		t.Errorf("sent %q before the third line", s.sent)
	}
	c.Flush()
	if len(s.sent) != 2 || s.sent[1] != "ok 3\r\n" {
		t.Errorf("sent %q", s.sent)
	}
}

func TestReadN(t *testing.T) {
	literal := strings.Repeat("l", 9000)
	c := NewConn(&script{pieces: []string{"a {9000}\r\n" + literal[:10], literal[10:] + " tail\r\n"}}, 100)
	if line, _ := c.ReadLine(); string(line) != "a {9000}" {
		t.Fatalf("%q", line)
	}
	if b, err := c.ReadN(9000); string(b) != literal || err != nil {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if line, err := c.ReadLine(); string(line) != " tail" || err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := c.ReadN(1); err != io.ErrUnexpectedEOF {
		t.Error(err)
	}
}

// Bytes behind STARTTLS end the session, on whichever leg.
func TestUpgradeRefusesInjectedBytes(t *testing.T) {
	s := &script{pieces: []string{"STARTTLS\r\nLOGIN"}}
	c := NewConn(s, 100)
	c.ReadLine()
	c.Line("OK")
	err := c.Upgrade(func(nc net.Conn) (net.Conn, error) { t.Error("shook hands"); return nc, nil })
	if !errors.Is(err, ErrInjected) || len(s.sent) != 0 {
		t.Errorf("%v, sent %q", err, s.sent)
	}
}

// A handshake that is cut short leaves a peer that may be behind it already: the last words would reach it as a broken
// TLS record.
func TestNoWordsBehindAFailedHandshake(t *testing.T) {
	s := &script{pieces: []string{"STARTTLS\r\n"}}
	c := NewConn(s, 100)
	c.ReadLine()
	c.Line("OK")
	cut := errors.New("cut short")
	if err := c.Upgrade(func(net.Conn) (net.Conn, error) { return nil, cut }); err != cut {
		t.Fatal(err)
	}
	c.Line("BYE")
	if err := c.Flush(); err != nil || len(s.sent) != 1 || s.sent[0] != "OK\r\n" {
		t.Errorf("%v, sent %q", err, s.sent)
	}
}

func TestDetach(t *testing.T) {
	s := &script{pieces: []string{"LOGIN\r\nSELECT\r\n"}}
	c := NewConn(s, 100)
	c.ReadLine()
	c.Line("OK")
	if ahead, err := c.Detach(); string(ahead) != "SELECT\r\n" || err != nil || s.sent[0] != "OK\r\n" {
		t.Errorf("%q, %v, sent %q", ahead, err, s.sent)
	}
	if c.in != nil || c.out != nil || c.inBlock != nil || c.outBlock != nil {
		t.Error("a buffer was kept")
	}
}

func TestTraceShowsNoSecret(t *testing.T) {
	var seen []string
	c := NewConn(&script{pieces: []string{"PASS sesame\r\nc2VzYW1l\r\n"}}, 100)
	c.Trace(func(sent bool, line []byte) { seen = append(seen, string(line)) }, func(line []byte) []byte {
		if bytes.HasPrefix(line, []byte("PASS")) {
			return []byte("PASS [redacted]")
		}
		return line
	})
	c.ReadLine()
	c.ReadSecret()
	c.Secret("PASS [redacted]", "PASS ", "sesame")
	c.Line("hello")
	if got := strings.Join(seen, "|"); strings.Contains(got, "sesame") || strings.Contains(got, "c2VzYW1l") || len(seen) != 4 {
		t.Error(got)
	}
}

func FuzzReadLine(f *testing.F) {
	f.Add("a\r\nb\nc", 3)
	f.Add(strings.Repeat("x", 300)+"\r\n", 7)
	f.Fuzz(func(t *testing.T, data string, step int) {
		step = min(max(step, 1), 4096)
		var pieces []string
		for rest := data; rest != ""; {
			n := min(step, len(rest))
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		c := NewConn(&script{pieces: pieces}, 64)
		read := ""
		for {
			line, err := c.ReadLine()
			if err != nil {
				if rest := data[len(read):]; err == io.EOF && rest != "" {
					t.Fatalf("lost %q", rest)
				}
				break
			}
			if len(line) > 64 || bytes.IndexByte(line, '\n') >= 0 {
				t.Fatalf("bad line %q", line)
			}
			read += string(line)
			if data[len(read)] == '\r' {
				read += "\r"
			}
			read += "\n"
			if data[:len(read)] != read {
				t.Fatalf("read %q of %q", read, data)
			}
		}
	})
}

// endless answers reads from one buffer, for benchmarks.
type endless struct {
	net.Conn
	data []byte
}

func (e *endless) Read(p []byte) (int, error)  { return copy(p, e.data), nil }
func (e *endless) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkLine(b *testing.B) {
	c := NewConn(&endless{data: bytes.Repeat([]byte("a001 LOGIN ann sesame\r\n"), 50)}, 8192)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.ReadLine(); err != nil {
			b.Fatal(err)
		}
		c.Line("a001 OK done")
	}
}

func TestRedact(t *testing.T) {
	showing := func(verb []byte) Showing {
		return map[string]Showing{"PASS": ShowVerb, "pass": ShowVerb, "USER": ShowLine}[string(verb)]
	}
	const nothing = "[redacted: not a command]"
	for _, c := range []struct {
		line   string
		others int
		want   string
	}{
		{"PASS open sesame", 0, "PASS [redacted]"},
		{"  PASS\tsesame", 0, "  PASS [redacted]"},
		{"PASS", 0, "PASS"},
		{"USER ann", 0, "USER ann"},
		{"open sesame", 0, nothing},
		{"PASS:sesame", 0, nothing},
		{"sesame", 0, nothing},
		{"   ", 0, nothing},
		{"", 0, ""},
		{"a pass sesame", 1, "a pass [redacted]"},
		{"a\t pass sesame", 1, "a\t pass [redacted]"},
		{"a USER ann", 1, "a USER ann"},
		{"PASS sesame", 1, nothing},
		{"PASS", 1, nothing},
		{"", 1, ""},
	} {
		if got := Redact([]byte(c.line), c.others, showing); string(got) != c.want {
			t.Errorf("%q: %q, want %q", c.line, got, c.want)
		}
	}
}
