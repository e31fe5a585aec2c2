package prototest

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mailmux/directory"
	"mailmux/proxy"
)

// Refusals is what a client is told for each cause.
type Refusals struct {
	// Script goes from the greeting to the login, the last line of the client included.
	Script string
	// Reply is the refusal of a backend, in the protocol's grammar.
	Reply string
	// Want is what the client hears behind the login, line by line, with {id} for the session's id. "closed" in the end
	// means that the session is over.
	Want map[proxy.Cause][]string
}

// Check makes the directory fail with each of the causes there are, and compares what the client hears.
func (r Refusals) Check(t *testing.T, handler proxy.Handler, service string) {
	t.Helper()
	script, err := Parse("# " + t.Name() + "\n" + r.Script)
	if err != nil {
		t.Fatal(err)
	}
	files := NewFiles(t)
	for _, cause := range proxy.Causes() {
		failure := r.failure(cause)
		if proxy.CauseOf(failure) != cause {
			t.Errorf("no error is known for the cause %s: teach this table", cause)
			continue
		}
		want, known := r.Want[cause]
		if !known {
			t.Errorf("the table does not say what a client is told for the cause %s", cause)
		}
		t.Run(cause.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlayer(t, handler, service, files, script, func(w *World) { w.FailLookups(failure) })
				err := p.play()
				got := p.rest(20 * time.Second) // within the login timeout
				p.stop()
				for i := range max(len(got), len(want)) {
					if err != nil || i >= len(got) || i >= len(want) || !p.bound.heard(mustCompile(want[i]), got[i]) {
						t.Fatalf("%v\ngot  %q\nwant %q", err, got, want)
					}
				}
			})
		})
	}
}

func mustCompile(text string) []piece {
	pieces, err := compile(text)
	if err != nil {
		panic(err)
	}
	return pieces
}

// failure is an error of a cause.
func (r Refusals) failure(cause proxy.Cause) error {
	return map[proxy.Cause]error{
		proxy.CauseTemporary:   directory.ErrUnavailable,
		proxy.CauseAuth:        directory.ErrNoUser,
		proxy.CauseHeld:        proxy.ErrHeld,
		proxy.CauseDisabled:    proxy.ErrDisabled,
		proxy.CauseUnreachable: context.DeadlineExceeded,
		proxy.CauseReply:       &proxy.Reply{Text: r.Reply},
		proxy.CausePlaintext:   proxy.ErrPlaintext,
		proxy.CauseLimit:       proxy.ErrLimit,
		proxy.CauseShutdown:    proxy.ErrShutdown,
		proxy.CauseTimeout:     proxy.ErrLoginTimeout,
		proxy.CauseGarbage:     proxy.ErrBadCommands,
		proxy.CauseGone:        io.EOF,
	}[cause]
}

// rest is what the client hears within a time, line by line, and "closed" if that ends it.
func (p *player) rest(within time.Duration) []string {
	p.client.conn.SetReadDeadline(time.Now().Add(within))
	text, err := io.ReadAll(p.client.r)
	p.note('S', string(text))
	lines := strings.Split(strings.TrimSuffix(string(text), "\r\n"), "\r\n")
	if len(text) == 0 {
		lines = nil
	}
	if err == nil {
		lines = append(lines, "closed")
	}
	return lines
}

// Break plays a script again and again. Each time one of the legs is reset, or falls silent, behind another byte of what
// mailmux reads there. The session has to end by itself, and check judges all lines that the client has heard.
func Break(t *testing.T, handler proxy.Handler, service, source string, check func(lines []string) error) {
	t.Helper()
	script, err := Parse(source)
	if err != nil {
		t.Fatal(err)
	}
	files := NewFiles(t)
	for _, how := range []string{"client reset", "client stall", "backend reset", "backend stall"} {
		t.Run(how, func(t *testing.T) {
			for at, whole := 1, false; !whole; at++ {
				synctest.Test(t, func(t *testing.T) { whole = breakAt(t, handler, service, files, script, how, at, check) })
				if t.Failed() {
					t.Fatalf("%s behind byte %d", how, at)
				}
			}
		})
	}
}

// breakAt plays the script once. It reports whether that went well, because the fault came too late to matter.
func breakAt(t *testing.T, handler proxy.Handler, service string, files *Files, script *Script, how string, at int, check func([]string) error) bool {
	fault := Fault{ResetAt: at}
	if strings.HasSuffix(how, "stall") {
		fault = Fault{StallAt: at}
	}
	p := newPlayer(t, handler, service, files, script, func(w *World) {
		if strings.HasPrefix(how, "client") {
			w.clientFault = fault
		} else {
			w.backendFault = fault
		}
	})
	whole := p.play() == nil
	if !whole {
		p.rest(patience)
	}
	if err := check(p.heard); err != nil {
		t.Errorf("%v\n%s", err, &p.transcript)
	}
	if whole { // the relay would wait for what is stalled, with reason
		p.client.raw.Reset()
	}
	p.client.raw.Close()
	if p.backend != nil {
		p.backend.raw.Close()
	}
	for len(p.w.Dials) > 0 {
		(<-p.w.Dials).Conn.Close()
	}
	time.Sleep(patience) // all limits of a session before its hand-over together are less
	synctest.Wait()
	if n := p.w.Server.Sessions(); n > 0 {
		t.Errorf("%d sessions are left\n%s", n, &p.transcript)
	}
	p.stop()
	return whole
}
