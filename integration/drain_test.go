package integration

import (
	"context"
	"syscall"
	"testing"
	"time"

	"mailmux/integration/stage"
	"mailmux/integration/talk"
)

// TERM: no new session begins, those that are logged in go on until they end or the drain timeout is over, and the
// process ends with 0.
func TestDrain(t *testing.T) {
	t.Parallel()
	d := ownDaemon(t, world(t), func(s *setup) { s.Limits = "drain_timeout: 60s" })
	open := d.dial(t, talk.IMAP, talk.StartTLS)
	login(t, open, "PLAIN-IR", d.W.Account("ann@example.com"), stage.Back1)
	if err := d.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the listeners closed", func() error {
		c, err := talk.Connect(talk.IMAP, d.addr(talk.IMAP, talk.Plain), talk.Options{})
		if err != nil {
			return nil
		}
		defer c.Close()
		if err := c.Greet(); err != nil {
			return nil
		}
		return errStillServing
	})
	for range 3 {
		where(t, open, stage.Back1)
	}
	select {
	case <-d.Done():
		t.Fatal("the process ended before its last session")
	default:
	}
	if err := open.Quit(); err != nil {
		t.Errorf("the session does not end in order: %v", err)
	}
	exits(t, d, 0)
}

var errStillServing = &refusal{"a new session is served"}

// exits waits for the end of the daemon and checks its code.
func exits(t testing.TB, d *daemon, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	code, err := d.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if code != want {
		t.Errorf("the exit code is %d, want %d", code, want)
	}
}

// Sessions that do not end by themselves are closed when the drain timeout is over.
func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	d := ownDaemon(t, world(t), func(s *setup) { s.Limits = "drain_timeout: 1s" })
	open := d.dial(t, talk.IMAP, talk.StartTLS)
	login(t, open, "PLAIN-IR", d.W.Account("ann@example.com"), stage.Back1)
	began := time.Now()
	if err := d.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Rest(); err != nil && time.Since(began) > 15*time.Second {
		t.Errorf("the session is not closed: %v", err)
	}
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("the session was closed after %s, before the timeout", took)
	}
	exits(t, d, 0)
}

// A second signal ends the drain at once, as does HUP nothing in the middle of it.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	d := ownDaemon(t, world(t), func(s *setup) { s.Limits = "drain_timeout: 10m" })
	open := d.dial(t, talk.IMAP, talk.StartTLS)
	login(t, open, "PLAIN-IR", d.W.Account("ann@example.com"), stage.Back1)
	waiting := d.dial(t, talk.POP3, talk.StartTLS)
	noop(t, waiting)
	if err := d.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// The client that had not logged in is let go: the drain has begun.
	if _, err := waiting.Rest(); err != nil {
		t.Fatal(err)
	}
	if err := d.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	where(t, open, stage.Back1)
	if err := d.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := d.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}
