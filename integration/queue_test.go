package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailmux/integration/stage"
)

// queueFront is a daemon with an MX listener and a queue that tries nothing by itself within a test.
func queueFront(t *testing.T, w *stage.World) (d *daemon, addr, spool string) {
	t.Helper()
	d = ownDaemon(t, w, func(s *setup) {
		addr = fmt.Sprintf("%s:%d", s.IP, stage.PortSMTP)
		spool = filepath.Join(s.Dir, "spool")
		s.Listeners = append(s.Listeners, fmt.Sprintf(`{service: smtp, address: "%s"}`, addr))
		s.Greets = append(s.Greets, addr)
		s.More = "delivery: {member_timeout: 2s}\nspool: {dir: " + spool + ", first_retry: 1h, max_retry: 1h, min_free: 1MiB}"
	})
	return d, addr, spool
}

// operate runs a command of the operator, and wants its exit code.
func (d *daemon) operate(t *testing.T, code int, command string, args ...string) string {
	t.Helper()
	out, got, err := d.Run(t.Context(), command, args...)
	if err != nil {
		t.Fatal(err)
	}
	if got != code {
		t.Errorf("mailmux %s %s ends with %d, want %d:\n%s", command, strings.Join(args, " "), got, code, out)
	}
	return out
}

// enqueue brings messages, which are wanted to wait, and returns their ids.
func enqueue(t *testing.T, addr, mark string, n int, to ...string) (ids []string) {
	t.Helper()
	c := carry(t, addr, "EHLO")
	for i := range n {
		c.expect("MAIL FROM:<someone@example.net>", "250")
		for _, r := range to {
			c.expect("RCPT TO:<"+r+">", "250")
		}
		c.expect("DATA", "354")
		c.send(stuffed(letter(fmt.Sprintf("%s-%d.", mark, i))))
		id, ok := strings.CutPrefix(c.reply(), "250 2.0.0 Queued as ")
		if !ok {
			t.Fatalf("message %d does not wait: %q", i, id)
		}
		ids = append(ids, id)
	}
	c.expect("QUIT", "221")
	return ids
}

// arrived waits until an account has so many messages with a mark, and wants each of them once.
func arrived(t *testing.T, d *stage.Dovecot, login, mark string, n int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); len(mailbox(t, d, login, mark)) < n && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	for i := range n {
		if got := len(mailbox(t, d, login, fmt.Sprintf("The mark is %s-%d.", mark, i))); got != 1 {
			t.Errorf("%s has message %d %d times", login, i, got)
		}
	}
}

// Mail for a withdrawn host waits; it goes at the moment when the operator puts the host back, and not an hour later.
// Meanwhile the operator sees it, keeps one message back, and deletes another one.
func TestQueueWaitsForTheOperator(t *testing.T) {
	w := world(t)
	d, addr, _ := queueFront(t, w)
	d.operate(t, 0, "withdraw", stage.Back2)
	m := mark(t, "ready")
	ids := enqueue(t, addr, m, 5, "bob@example.com")

	list := d.operate(t, 0, "queue", "list", "-host", stage.Back2)
	for _, id := range ids {
		if !strings.Contains(list, id) {
			t.Errorf("%s is not in the list:\n%s", id, list)
		}
	}
	d.operate(t, 4, "queue", "list", "-host", stage.Back1)
	if status := d.operate(t, 0, "status"); !strings.Contains(status, "queue 5 messages waiting") {
		t.Errorf("status says:\n%s", status)
	}
	metrics, err := d.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := metrics[`mailmux_queue_host_messages{host="`+stage.Back2+`"}`]; got != 5 {
		t.Errorf("the metrics say that %v messages wait for %s, want 5", got, stage.Back2)
	}
	d.operate(t, 0, "queue", "hold", ids[3])
	d.operate(t, 0, "queue", "delete", ids[4])
	if text := d.operate(t, 0, "queue", "show", "-message", ids[0]); !strings.Contains(text, "The mark is "+m+"-0.") {
		t.Errorf("the message is shown as\n%s", text)
	}

	d.operate(t, 0, "ready", stage.Back2)
	arrived(t, w.Back2, "bob@example.com", m, 3)
	d.operate(t, 0, "queue", "release", "-held")
	arrived(t, w.Back2, "bob@example.com", m, 4)
	if n := len(mailbox(t, w.Back2, "bob@example.com", m)); n != 4 {
		t.Errorf("%d messages arrived, want 4: the deleted one is gone", n)
	}
	d.operate(t, 4, "queue", "list", "-recipient", "bob@example.com")
}

// A frontend dies with mail in its queue. Its spool is exported and imported into another frontend, which delivers
// everything once; neither the import done again nor the dead frontend's return brings anything twice.
func TestQueueMovesToAnotherFrontend(t *testing.T) {
	w := world(t)
	old, addr, dir := queueFront(t, w)
	other, _, _ := queueFront(t, w)
	old.operate(t, 0, "withdraw", stage.Back2)
	m := mark(t, "move")
	ids := enqueue(t, addr, m, 30, "ann@example.com", "bob@example.com") // ann has hers
	old.operate(t, 0, "queue", "hold", ids[29])
	file := filepath.Join(t.TempDir(), "queue.tar")
	if out := old.operate(t, 1, "queue", "export", file); !strings.Contains(out, "served by another process") {
		t.Errorf("an export beside a running frontend: %s", out)
	}
	old.Kill()

	if out := old.operate(t, 0, "queue", "export", file); !strings.Contains(out, "30 messages exported") {
		t.Errorf("export: %s", out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(t.TempDir(), "half.tar")
	if err := os.WriteFile(half, b[:len(b)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if out := other.operate(t, 1, "queue", "import", half); !strings.Contains(out, "nothing was taken in") {
		t.Errorf("import of a half: %s", out)
	}
	if out := other.operate(t, 0, "queue", "import", file); out != "30 messages imported\n" {
		t.Errorf("import: %s", out)
	}
	arrived(t, w.Back2, "bob@example.com", m, 29)
	other.operate(t, 0, "queue", "release", "-held")
	arrived(t, w.Back2, "bob@example.com", m, 30)
	if out := other.operate(t, 0, "queue", "import", file); !strings.Contains(out, "nothing was done") {
		t.Errorf("import again: %s", out)
	}

	if err := old.Restart(); err != nil {
		t.Fatal(err)
	}
	old.operate(t, 0, "ready", stage.Back2)
	old.operate(t, 0, "queue", "flush")
	if out := old.operate(t, 0, "queue", "list"); out != "no messages\n" {
		t.Errorf("the old frontend's queue: %s", out)
	}
	arrived(t, w.Back1, "ann@example.com", m, 30)
	arrived(t, w.Back2, "bob@example.com", m, 30)
	kept, err := filepath.Glob(filepath.Join(dir, "exported-*", "queue", "*", "*.eml"))
	if err != nil || len(kept) != 29 {
		t.Errorf("%d messages are set aside, %v; want 29 beside the one on hold", len(kept), err)
	}
}
