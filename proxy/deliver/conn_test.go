package deliver

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/textproto"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"mailmux/proxy/backend"
	"mailmux/proxy/envelope"
)

// written is a connection that keeps what is written to it.
type written struct {
	net.Conn
	bytes.Buffer
}

func (w *written) Write(p []byte) (int, error) { return w.Buffer.Write(p) }
func (w *written) Read(p []byte) (int, error)  { return w.Buffer.Read(p) }

// What a member reads between DATA and the end is the text, whatever its lines begin with and wherever it was cut, and
// nothing in it is an end.
func TestTextIsStuffed(t *testing.T) {
	lines := []string{"", ".", "..", "a line", ".\x00", "a.b", strings.Repeat("long ", 5000), "last", "\r", "."}
	for range 40 {
		var text strings.Builder
		for range rand.IntN(60) {
			text.WriteString(lines[rand.IntN(len(lines))] + "\r\n")
		}
		if rand.IntN(2) == 0 {
			text.WriteString("no end")
		}
		w := &written{}
		b := &bounded{Conn: w}
		release, err := b.sendText(iotest.HalfReader(strings.NewReader(text.String())))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(b, "\r\n.\r\n"); err != nil {
			t.Fatal(err)
		}
		release()
		wire := w.String()
		if at := strings.Index("\r\n"+wire, "\r\n.\r\n"); at != len(wire)-len(".\r\n") {
			t.Fatalf("an end at byte %d of %d", at, len(wire))
		}
		want := strings.TrimSuffix(text.String(), "\r\n") + "\r\n"
		got := strings.ReplaceAll("\r\n"+strings.TrimSuffix(wire, ".\r\n"), "\r\n..", "\r\n.")[2:]
		if got != want {
			t.Fatalf("%d bytes arrive, want %d", len(got), len(want))
		}
	}
	for in, want := range map[string]string{"a\n.\nb": "a\r\n..\r\nb\r\n.\r\n", "\n": "\r\n.\r\n", "": "\r\n.\r\n", ".\n.": "..\r\n..\r\n.\r\n"} {
		w := &written{}
		b := &bounded{Conn: w}
		release, err := b.sendText(iotest.OneByteReader(strings.NewReader(in)))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(b, "\r\n.\r\n")
		release()
		if got := w.String(); got != want {
			t.Errorf("%q goes out as %q, want %q", in, got, want)
		}
	}
}

// FuzzStuff: a reader of the wire gets a text back whose lines all end with CRLF.
func FuzzStuff(f *testing.F) {
	f.Add([]byte("a\r\n.b\r\n..\r\n"), 3)
	f.Add([]byte("\n.\r.\n\r\n.\r\n"), 1)
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		cut = max(1, cut)
		var out []byte
		start, cr := true, false
		for rest := text; len(rest) > 0; {
			n := min(cut, len(rest))
			out, start, cr = stuff(out, rest[:n], start, cr)
			rest = rest[n:]
		}
		whole, _, _ := stuff(nil, text, true, false)
		if !bytes.Equal(out, whole) || len(out) > 2*len(text) {
			t.Fatalf("in pieces of %d: %q, at once: %q", cut, out, whole)
		}
		for i, c := range out {
			if c == '\n' && (i == 0 || out[i-1] != '\r') {
				t.Fatalf("a bare LF goes out: %q", out)
			}
		}
		if bytes.Contains(append([]byte("\r\n"), out...), []byte("\r\n.\r\n")) {
			t.Fatalf("an end goes out: %q", out)
		}
		back, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(out, "\r\n.\r\n"...)))).ReadDotBytes()
		want := string(text) + "\n"
		if !bytes.ContainsRune(text, '\r') && (err != nil || string(back) != want) {
			t.Fatalf("%q comes back as %q, %v", text, back, err)
		}
	})
}

// bareMember is a member that answers each line, and the end of a text, with what say returns; one without a line end closes
// the connection. Its connections go to conns, where that is given.
func bareMember(t *testing.T, say func(line string) string, conns ...chan net.Conn) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
			for _, c := range conns {
				c <- nc
			}
			r := bufio.NewReader(nc)
			for line := "connect"; ; {
				answer := say(strings.ToUpper(line))
				if answer == "" {
					break
				}
				if _, err := io.WriteString(nc, answer); err != nil || !strings.HasSuffix(answer, "\n") {
					break
				}
				if line, err = r.ReadString('\n'); err != nil {
					break
				}
				for strings.HasPrefix(answer, "354") && line != ".\r\n" && err == nil {
					line, err = r.ReadString('\n')
				}
			}
			nc.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// usual answers what a member usually does.
func usual(line string) string {
	switch line[:min(4, len(line))] {
	case "CONN":
		return "220 bare ready\r\n"
	case "LHLO":
		return "250-bare\r\n250 8BITMIME\r\n"
	case "DATA":
		return "354 go on\r\n"
	}
	return "250 2.0.0 OK\r\n"
}

// Whatever a member says at whatever time: its recipients wait, nothing grows or is left, and the other member is not harmed.
func TestMembersThatMisbehave(t *testing.T) {
	good := newSink(t, saved).Addr().String()
	endless := strings.Repeat("250-la la la la la la la la la la la\r\n", 100_000)
	before := runtime.NumGoroutine()
	for _, stage := range []string{"CONN", "LHLO", "MAIL", "RCPT", "DATA", ".\r\n"} {
		for what, words := range map[string]string{
			"endless": endless, "a line without end": strings.Repeat("x", 1<<20), "garbage": "\x00\xff\xfe HTTP/1.1 200 OK\r\n\r\n",
			"another class": "199 what\r\n", "no code": "OK then\r\n", "goes away": "", "takes its leave": "421 4.3.2 bye\r\n",
			"breaks off": "250 2.0.0 OK",
		} {
			addr := bareMember(t, func(line string) string {
				if strings.HasPrefix(line, stage) {
					return words
				}
				return usual(line)
			})
			e := newEngine(t, map[string]string{"odd": addr, "good": good})
			d := newDeliverer(t)
			began := time.Now()
			got := send(t, d, e, job(e.route(t, "x", "odd", false)), job(e.route(t, "ann", "good", false)))
			d.Close()
			if !strings.HasPrefix(got[0], "451 4.") || !strings.HasPrefix(got[1], "250") {
				t.Errorf("%s at %s: %q", what, stage, got)
			}
			if took := time.Since(began); took > 2500*time.Millisecond {
				t.Errorf("%s at %s took %s", what, stage, took)
			}
		}
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before+60; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) { // each of the 42 members has its listener, until the end of the test
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// A member that accepts and does not greet is left for another one of its host in its greeting timeout; a host's only
// member has all the time that there is.
func TestSilentMemberIsLeftForAnother(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and nobody speaks
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	const patience = 200 * time.Millisecond
	first := backend.MemberConfig{Address: silent.Addr().String(), Name: "silent"}
	for name, other := range map[string][]backend.MemberConfig{
		"two":  {{Address: newSink(t, saved).Addr().String(), Name: "well", Priority: 1}},
		"only": nil,
	} {
		h := backend.HostConfig{Members: append(other, first), Sticky: "none"}
		h.Check.Mode = "off"
		h.GreetingTimeout = patience
		table, err := backend.New(backend.Config{Hosts: map[string]backend.HostConfig{"east": h}}, backend.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer table.Close()
		e := &engine{table: table, homes: map[string]string{}}
		most := time.Second
		if name == "two" {
			most = time.Minute // beyond any load
		}
		d := New(Config{MemberTimeout: most, TempDir: t.TempDir()})
		defer d.Close()
		began := time.Now()
		got := send(t, d, e, job(e.route(t, "ann", "east", false)))
		took := time.Since(began)
		switch {
		case name == "two" && (!strings.HasPrefix(got[0], "250") || took < patience || took >= most):
			t.Errorf("%q after %s", got, took)
		case name == "only" && (!strings.HasPrefix(got[0], "451 4.4.1") || took < most):
			t.Errorf("the only member: %q after %s", got, took)
		}
	}
}

// A member that answers before it was asked is not believed in the next transaction: its connection is of no use.
func TestAnswersAheadAreNotTaken(t *testing.T) {
	asked := 0
	addr := bareMember(t, func(line string) string {
		answer := usual(line)
		switch {
		case strings.HasPrefix(line, "RCPT"):
			if asked++; asked > 1 {
				return "550 5.1.1 no such user\r\n"
			}
		case strings.HasPrefix(line, "."):
			return answer + answer + answer // two too many
		}
		return answer
	})
	e := newEngine(t, map[string]string{"eager": addr})
	d := newDeliverer(t)
	want(t, send(t, d, e, job(e.route(t, "x", "eager", false))), "250")
	if got := send(t, d, e, job(e.route(t, "y", "eager", false))); strings.HasPrefix(got[0], "250") {
		t.Errorf("a recipient that was refused is said to be delivered: %q", got)
	}
}

// When the frontend ends, a member that hangs has a few seconds, not its whole time.
func TestEndOfFrontendHurriesMembers(t *testing.T) {
	t.Parallel()
	silent := make(chan struct{})
	addr := bareMember(t, func(line string) string {
		if strings.HasPrefix(line, "MAIL") {
			close(silent)
			return "250-wait"
		}
		return usual(line)
	})
	e := newEngine(t, map[string]string{"silent": addr})
	d := New(Config{MemberTimeout: time.Hour, TempDir: t.TempDir()})
	t.Cleanup(d.Close)
	m, err := e.Member(e.route(t, "x", "silent", false), "lmtp", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-silent; cancel() }()
	began := time.Now()
	_, err = d.Begin(ctx, m, "lmtp", &From{Sender: envelope.Sender{}, Hostname: "mail.example.com"})
	if took := time.Since(began); err == nil || took > grace+2*time.Second {
		t.Errorf("%v after %s", fmt.Sprint(err), took)
	}
}

// What a member says beyond what it was asked never is the answer for somebody else: not to a recipient of the same message,
// whatever the class of it, nor to the next message on the connection, whether it came at once or while that waited.
func TestUnaskedAnswersAreNobodys(t *testing.T) {
	const no = "550 5.1.1 no such user\r\n"
	for name, c := range map[string]struct {
		at, answer string
		late       string
		first      []string
	}{
		"refusal twice":       {"RCPT TO:<X", no + no, "", []string{"550 5.1.1", "451 4.4.1"}},
		"refusal after taken": {"RCPT TO:<X", "250 OK\r\n" + no, "", []string{"451 4.4.1", "451 4.4.1"}},
		"another saved":       {".", "250 OK\r\n250 OK\r\n250 OK\r\n", "", []string{"250", "250"}},
		"whose refusal":       {".", "250 OK\r\n250 OK\r\n" + no, "", []string{"451 4.4.2", "451 4.4.2"}},
		"while it waits":      {".", "250 OK\r\n250 OK\r\n", no, []string{"250", "250"}},
	} {
		t.Run(name, func(t *testing.T) {
			answered, conns := false, make(chan net.Conn, 9)
			addr := bareMember(t, func(line string) string {
				if !answered && strings.HasPrefix(line, c.at) {
					answered = true
					return c.answer
				}
				if strings.HasPrefix(line, ".") {
					return "250 OK\r\n250 OK\r\n"
				}
				return usual(line)
			}, conns)
			e := newEngine(t, map[string]string{"eager": addr})
			d := newDeliverer(t)
			x, y := job(e.route(t, "x", "eager", false)), job(e.route(t, "y", "eager", false))
			want(t, send(t, d, e, x, y), c.first...)
			if c.late != "" {
				if _, err := io.WriteString(<-conns, c.late); err != nil {
					t.Fatal(err)
				}
				waitForBytes(t, d)
			}
			want(t, send(t, d, e, x, y), "250", "250")
		})
	}
}

// waitForBytes waits until something has come in on a connection that is kept.
func waitForBytes(t *testing.T, d *Deliverer) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		d.pool.mu.Lock()
		for _, list := range d.pool.idle {
			if len(list) == 1 && !list[0].tcp.Silent() {
				d.pool.mu.Unlock()
				return
			}
		}
		d.pool.mu.Unlock()
	}
	t.Fatal("nothing comes in")
}
