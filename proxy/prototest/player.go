package prototest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mailmux/proxy"
)

// Run plays all scripts that match a pattern, twice each.
func Run(t *testing.T, handler proxy.Handler, service, pattern string) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts match %s (%v)", pattern, err)
	}
	files := NewFiles(t)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		script, err := Parse(string(text))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		t.Run(name, func(t *testing.T) { Play(t, handler, service, files, script, 0) })
		if script.setting("chunk") != "off" {
			t.Run(name+"/byte by byte", func(t *testing.T) { Play(t, handler, service, files, script, 1) })
		}
	}
}

func (s *Script) setting(key string) string {
	for _, set := range s.Settings {
		if set.Key == key {
			return set.Value
		}
	}
	return ""
}

// Play plays a script in a bubble of its own. chunk is how many bytes mailmux gets at a read, 0 for all there are.
func Play(t *testing.T, handler proxy.Handler, service string, files *Files, script *Script, chunk int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := newPlayer(t, handler, service, files, script, func(w *World) { w.clientFault.Chunk, w.backendFault.Chunk = chunk, chunk })
		err := p.play()
		if err == nil {
			err = p.silence()
		}
		p.stop()
		if leaks := p.w.events.leaks(); err == nil && len(leaks) > 0 {
			err = fmt.Errorf("the log shows passwords: %q", leaks)
		}
		if err != nil {
			t.Errorf("%s\n%v\n\nwhat was said:\n%s", script.Story, err, &p.transcript)
		}
	})
}

// patience is how long a line may take, in the time of the bubble: more than all limits of a session before its
// hand-over together.
const patience = 10 * time.Minute

// player plays one script.
type player struct {
	w          *World
	files      *Files
	script     *Script
	bound      variables
	client     *speaker
	backend    *speaker // nil before a dial and after an end
	transcript strings.Builder
	heard      []string      // by the client, line by line
	drained    chan struct{} // closed when shutting down is done; nil if it was not begun
	drainEnd   context.CancelFunc
}

// newPlayer builds the script's world, lets the caller change it, and connects.
func newPlayer(t *testing.T, handler proxy.Handler, service string, files *Files, script *Script, change func(*World)) *player {
	t.Helper()
	w := NewWorld(t, handler, service, files, script.Settings...)
	change(w)
	return &player{w: w, files: files, script: script, bound: variables{}, client: newSpeaker(w.Connect())}
}

// speaker is one end in the player's hands.
type speaker struct {
	raw  *Conn
	conn net.Conn // TLS over raw, or raw
	r    *bufio.Reader
}

func newSpeaker(c *Conn) *speaker { return &speaker{raw: c, conn: c, r: bufio.NewReader(c)} }

func (p *player) play() error {
	steps := p.script.Steps
	for i := 0; i < len(steps); {
		n := 1
		for i+n < len(steps) && steps[i+n].Joined {
			n++
		}
		if err := p.step(steps[i : i+n]); err != nil {
			return fmt.Errorf("line %d: %s\n  %w", steps[i].Line, steps[i].Source, err)
		}
		i += n
	}
	return nil
}

// step plays a directive, a line to be heard, or lines to be said at once.
func (p *player) step(steps []Step) error {
	st := &steps[0]
	if st.End == 0 {
		return p.directive(st.Words)
	}
	sp, err := p.end(st.End)
	if err != nil {
		return err
	}
	if st.says() {
		return p.say(sp, steps)
	}
	return p.hear(sp, st)
}

// end is the speaker of a line; the backend's waits for mailmux to dial.
func (p *player) end(end byte) (*speaker, error) {
	if end == 'C' || end == 'S' {
		return p.client, nil
	}
	if p.backend == nil {
		if _, err := p.nextDial(); err != nil {
			return nil, err
		}
	}
	return p.backend, nil
}

func (p *player) nextDial() (member string, err error) {
	select {
	case d := <-p.w.Dials:
		p.backend = newSpeaker(d.Conn)
		return d.Member, nil
	case <-time.After(patience):
		return "", errors.New("mailmux dials no member")
	}
}

func (p *player) say(sp *speaker, steps []Step) error {
	var text strings.Builder
	for i := range steps {
		line, err := p.bound.said(steps[i].text)
		if err != nil {
			return err
		}
		text.WriteString(line)
		if !steps[i].Raw {
			text.WriteString("\r\n")
		}
	}
	p.note(steps[0].End, text.String())
	sp.conn.SetWriteDeadline(time.Now().Add(patience))
	_, err := io.WriteString(sp.conn, text.String())
	return err
}

func (p *player) hear(sp *speaker, st *Step) error {
	sp.conn.SetReadDeadline(time.Now().Add(patience))
	if st.Raw {
		want, err := p.bound.said(st.text)
		if err != nil {
			return err
		}
		got := make([]byte, len(want))
		n, err := io.ReadFull(sp.r, got)
		p.note(st.End, string(got[:n]))
		if err != nil || string(got) != want {
			return fmt.Errorf("got %q (%v)", got[:n], err)
		}
		return nil
	}
	line, err := sp.r.ReadString('\n')
	p.note(st.End, line)
	if err != nil {
		return fmt.Errorf("got %q and then: %w", line, err)
	}
	text, ended := strings.CutSuffix(line, "\r\n")
	if !ended {
		return fmt.Errorf("got %q, which does not end with CRLF", line)
	}
	if !p.bound.heard(st.text, text) {
		return fmt.Errorf("got %q", text)
	}
	return nil
}

// shown is how much of what was said at once the transcript shows, in bytes.
const shown = 300

// note keeps what was said.
func (p *player) note(end byte, text string) {
	if end == 'S' {
		p.heard = append(p.heard, strings.SplitAfter(text, "\n")...)
	}
	if text != "" {
		if len(text) > shown {
			text = text[:shown] + " [...]"
		}
		fmt.Fprintf(&p.transcript, "  %c: %q\n", end, text)
	}
}

func (p *player) directive(words []string) error {
	switch words[0] {
	case "TLS":
		return p.startTLS(words)
	case "close", "reset", "shut", "end":
		return p.part(words[0], words[1])
	case "refuse":
		p.w.RefuseDials(true)
	case "accept":
		p.w.RefuseDials(false)
	case "dial":
		member, err := p.nextDial()
		if err == nil && member != words[1] {
			err = fmt.Errorf("mailmux dials %s", member)
		}
		return err
	case "wait":
		d, err := time.ParseDuration(words[1])
		time.Sleep(d)
		return err
	case "shutdown":
		p.shutdown()
	case "event":
		return p.event(words[1:])
	}
	return nil
}

// shutdown begins to drain the server, and returns when it has begun.
func (p *player) shutdown() {
	ctx, cancel := context.WithCancel(context.Background())
	p.drained, p.drainEnd = make(chan struct{}), cancel
	go func() {
		defer close(p.drained)
		p.w.Server.Drain(ctx)
	}()
	synctest.Wait()
}

func (p *player) startTLS(words []string) error {
	sp, err := p.end(map[string]byte{"client": 'C', "backend": 'B'}[words[1]])
	if err != nil {
		return err
	}
	if sp.r.Buffered() > 0 {
		return errors.New("mailmux said something before TLS")
	}
	var t *tls.Conn
	if sp == p.client {
		cfg := &tls.Config{RootCAs: p.files.pool, ServerName: Hostname}
		if len(words) > 2 {
			cfg.ServerName, cfg.InsecureSkipVerify = words[2], true
		}
		if p.script.setting("certificate") != "" {
			cfg.Certificates = []tls.Certificate{p.files.client}
		}
		t = tls.Client(sp.raw, cfg)
	} else {
		t = tls.Server(sp.raw, &tls.Config{Certificates: []tls.Certificate{p.files.backend}})
	}
	sp.raw.SetDeadline(time.Now().Add(patience))
	if err := t.Handshake(); err != nil {
		return fmt.Errorf("TLS with mailmux: %w", err)
	}
	sp.conn, sp.r = t, bufio.NewReader(t)
	return nil
}

// part ends a leg, from this side or waiting for the other.
func (p *player) part(how, whose string) error {
	sp, err := p.end(map[string]byte{"client": 'C', "backend": 'B'}[whose])
	if err != nil {
		return err
	}
	switch how {
	case "close":
		sp.conn.Close()
		sp.raw.Close()
	case "reset":
		sp.raw.Reset()
	case "shut":
		if t, ok := sp.conn.(*tls.Conn); ok {
			return t.CloseWrite()
		}
		return sp.raw.CloseWrite()
	case "end":
		sp.conn.SetReadDeadline(time.Now().Add(patience))
		rest, err := io.ReadAll(sp.r)
		if len(rest) > 0 {
			return fmt.Errorf("mailmux said %q first", rest)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("mailmux does not close the connection")
		}
		sp.raw.Close()
	}
	if sp == p.backend {
		p.backend = nil
	}
	return nil
}

func (p *player) event(want []string) error {
	synctest.Wait()
	event := p.w.events.last()
	if event == nil {
		return errors.New("the session has not ended")
	}
	for _, pair := range want {
		key, value, _ := strings.Cut(pair, "=")
		if got, known := event[key]; !known || got != value {
			return fmt.Errorf("the event has %s=%q", key, got)
		}
	}
	return nil
}

// silence is an error if mailmux has more to say than the script.
func (p *player) silence() error {
	synctest.Wait()
	for end, sp := range map[byte]*speaker{'S': p.client, 'P': p.backend} {
		if sp == nil {
			continue
		}
		sp.conn.SetReadDeadline(time.Now().Add(time.Nanosecond))
		rest, _ := io.ReadAll(sp.r)
		p.note(end, string(rest))
		if len(rest) > 0 {
			return fmt.Errorf("mailmux says more than the script: %c: %q", end, rest)
		}
	}
	select {
	case d := <-p.w.Dials:
		d.Conn.Close()
		return fmt.Errorf("mailmux dials %s, which is not in the script", d.Member)
	default:
		return nil
	}
}

// stop ends the session, if it has not ended, and the server.
func (p *player) stop() {
	p.client.raw.Close()
	if p.backend != nil {
		p.backend.raw.Close()
	}
	synctest.Wait()
	if p.drained != nil {
		p.drainEnd()
		<-p.drained
	}
	p.w.Server.Close()
	for len(p.w.Dials) > 0 {
		(<-p.w.Dials).Conn.Close()
	}
}
