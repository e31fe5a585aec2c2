package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mailmux/integration/stage"
)

// smallDisk mounts a file system of so many MiB until the end of the test, which root alone can.
func smallDisk(t *testing.T, size int, flags uintptr) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, fmt.Sprintf("size=%dm", size)); err != nil {
		if os.Getenv("CI") != "" && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skip("mounting a tmpfs needs root:", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }) // before the directory is removed
	return dir
}

// On a full disk mail for members that are away is refused with 452, mail for the others is delivered all the same, what was
// accepted before is not lost, and with the members back there is room again. That holds for the disk that large messages
// pass through, too.
func TestSpoolFullDisk(t *testing.T) {
	w := world(t)
	disk := smallDisk(t, 6, 0)
	if err := os.Mkdir(filepath.Join(disk, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(disk, "spool")
	var addr string
	ownDaemon(t, w, func(s *setup) {
		addr = fmt.Sprintf("%s:%d", s.IP, stage.PortSMTP)
		s.Listeners = append(s.Listeners, fmt.Sprintf(`{service: smtp, address: "%s"}`, addr))
		s.Greets = append(s.Greets, addr)
		s.More = "delivery: {member_timeout: 2s, memory_per_message: 65536, temp_dir: " + disk + "/tmp}\n" +
			"spool: {dir: " + dir + ", first_retry: 100ms, max_retry: 500ms, min_free: 512KiB}"
	})
	book := newLedger()
	playBox(t, memberAddress(t, w, "recording", stage.PortLMTP), book, false)
	here, away := stage.FakeLogin("recording"), stage.FakeLogin("refusing")
	c := carry(t, addr, "EHLO")
	bring := func(id, rcpt string, size int) string {
		t.Helper()
		c.expect("MAIL FROM:<someone@example.net>", "250")
		c.expect("RCPT TO:<"+rcpt+">", "250")
		c.expect("DATA", "354")
		c.send("X-Mark: " + id + "\r\n\r\n" + strings.Repeat("0123456789012345678901234567890123456789012345678901234567890\r\n", size/63) + ".\r\n")
		got := c.reply()
		if strings.HasPrefix(got, "250") {
			book.acknowledge(id)
		}
		return got
	}
	accepted, refused := 0, 0
	for i := 0; refused < 3; i++ {
		switch got := bring(fmt.Sprint("away-", i), away, 200_000); {
		case strings.HasPrefix(got, "250"):
			accepted++
		case strings.HasPrefix(got, "452 4.3.1"):
			refused++
		default:
			t.Fatalf("on a full disk: %s", got)
		}
		if i > 100 {
			t.Fatal("6 MiB are never full")
		}
	}
	if got := bring("small", here, 1000); !strings.HasPrefix(got, "250") {
		t.Errorf("mail for a member that is there, with a full disk: %s", got)
	}
	if got := bring("large", here, 2_000_000); !strings.HasPrefix(got, "452 4.3.1") {
		t.Errorf("a message that has no room while it comes in: %s", got)
	}
	if accepted < 10 {
		t.Errorf("%d messages fit", accepted)
	}
	playBox(t, memberAddress(t, w, "refusing", stage.PortLMTP), book, false)
	emptied(t, dir, 20*time.Second)
	if got := bring("again", away, 200_000); !strings.HasPrefix(got, "250") {
		t.Errorf("with room again: %s", got)
	}
	book.mu.Lock()
	defer book.mu.Unlock()
	for id := range book.acked {
		rcpt := away
		if id == "small" {
			rcpt = here
		}
		if n := book.boxes[rcpt+" "+id]; n != 1 {
			t.Errorf("%s was acknowledged and arrived %d times", id, n)
		}
	}
}

// A daemon whose spool cannot be written says so, with the key, and does not start.
func TestSpoolReadOnly(t *testing.T) {
	w := world(t)
	disk := smallDisk(t, 1, syscall.MS_RDONLY)
	host := nextHost()
	d, err := startDaemon(w, builtProgram(t, "mailmux"), filepath.Join(w.Dir, fmt.Sprintf("mux%d", host)), host, func(s *setup) {
		s.More = "spool: {dir: " + disk + "/spool}"
	})
	if err == nil {
		d.Stop()
		t.Fatal("a daemon serves a spool that it cannot write")
	}
	for _, want := range []string{"spool.dir: ", "read-only file system", "ended before it answered"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the message has no %q:\n%v", want, err)
		}
	}
}

// A spool is served by one daemon: another one is told who has it.
func TestSpoolIsLocked(t *testing.T) {
	w := world(t)
	dir := filepath.Join(t.TempDir(), "spool")
	d, _ := spoolFront(t, w, dir, "")
	host := nextHost()
	other, err := startDaemon(w, builtProgram(t, "mailmux"), filepath.Join(w.Dir, fmt.Sprintf("mux%d", host)), host, func(s *setup) {
		s.More = "spool: {dir: " + dir + "}"
	})
	if err == nil {
		other.Stop()
		t.Fatal("two daemons serve one spool")
	}
	if !strings.Contains(err.Error(), fmt.Sprintf("held by process %d", d.PID())) {
		t.Errorf("the message does not say who has it:\n%v", err)
	}
}

// The schedule is in the files' times: a clock that was set back while the daemon was down, or far ahead, and back again,
// keeps no mail for longer than the longest pause, and sends nothing back.
func TestSpoolClockJumps(t *testing.T) {
	w := world(t)
	dir := filepath.Join(t.TempDir(), "spool")
	d, addr := spoolFront(t, w, dir, "")
	book := newLedger()
	rcpt := stage.FakeLogin("refusing")
	l := startLoad(&load{ledger: book, addr: addr, rcpts: []string{rcpt}, most: 30}, 3)
	l.work.Wait()
	d.Stop()
	files := queued(t, dir)
	if len(files) != 30 {
		t.Fatalf("%d of 30 messages wait", len(files))
	}
	times := []time.Time{time.Now().AddDate(20, 0, 0), time.Now().AddDate(-20, 0, 0), time.Unix(0, 0), time.Now().Add(time.Hour)}
	for i, f := range files {
		due := times[i%len(times)]
		if err := os.Chtimes(f, due, due); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Restart(); err != nil {
		t.Fatal(err)
	}
	playBox(t, memberAddress(t, w, "refusing", stage.PortLMTP), book, false)
	emptied(t, dir, 20*time.Second)
	if copies, doubled, lost := book.compare(rcpt); copies != 30 || doubled > 0 || len(lost) > 0 {
		t.Errorf("%d copies, %d doubled, lost %q", copies, doubled, lost)
	}
}

// A failover while mail waits: hostfailover moves the accounts and tells the frontend, and all of it arrives on the new host
// at once, each message once. make soak-spool lets 10,000 wait.
func TestSpoolFollowsFailover(t *testing.T) {
	n := 1000
	if soak() {
		n = 10_000
	}
	w := ownWorld(t)
	dir := filepath.Join(t.TempDir(), "spool")
	var addr string
	d := ownDaemon(t, w, func(s *setup) {
		addr = fmt.Sprintf("%s:%d", s.IP, stage.PortSMTP)
		s.Listeners = append(s.Listeners, fmt.Sprintf(`{service: smtp, address: "%s"}`, addr))
		s.Greets = append(s.Greets, addr)
		s.Limits += ", exempt: [127.0.0.0/8]"
		// Left to itself the queue would try again an hour later.
		s.More = "delivery: {member_timeout: 20s}\nspool: {dir: " + dir + ", first_retry: 1h, max_retry: 2h}"
	})
	w.Back2.Stop()
	book := newLedger()
	l := startLoad(&load{ledger: book, addr: addr, rcpts: []string{"bob@example.com"}, most: n}, 20)
	l.work.Wait()
	if got := len(queued(t, dir)); got != n || book.count() != n {
		t.Fatalf("%d of %d messages are acknowledged, %d wait", book.count(), n, got)
	}
	began := time.Now()
	out, code := d.hostfailover(t, "move", "-config", d.Config, "-bind-dn", stage.RootDN, "-bind-password-file", rootSecret(t),
		"-from", stage.Back2, "-to", stage.Back1, "-apply", "-yes", "-notify", d.Admin)
	if code != 0 {
		t.Fatalf("hostfailover ends with %d:\n%s", code, out)
	}
	emptied(t, dir, 5*time.Minute)
	t.Logf("%d messages were on the new host %s after hostfailover began", n, time.Since(began).Round(time.Millisecond))
	seen := map[string]int{}
	for _, text := range mailbox(t, w.Back1, "bob@example.com", "X-Mark: ") {
		_, rest, _ := strings.Cut(text, "X-Mark: ")
		id, _, _ := strings.Cut(rest, "\n")
		seen[strings.TrimSpace(id)]++
	}
	for id := range book.acked {
		if seen[id] != 1 {
			t.Errorf("message %s arrived %d times", id, seen[id])
		}
	}
	if len(seen) != n {
		t.Errorf("%d messages arrived, want %d", len(seen), n)
	}
}

// Mail that waits keeps nobody: a daemon that is told to end while a member hangs is gone within seconds, and the message
// is delivered after its restart.
func TestSpoolEndsBesideHangingMember(t *testing.T) {
	w := world(t)
	dir := filepath.Join(t.TempDir(), "spool")
	book := newLedger()
	connected, end := hang(t, memberAddress(t, w, "refusing", stage.PortLMTP))
	d, addr := spoolFront(t, w, dir, "")
	rcpt := stage.FakeLogin("refusing")
	l := startLoad(&load{ledger: book, addr: addr, rcpts: []string{rcpt}, most: 1}, 1)
	l.work.Wait() // member_timeout, and then into the queue
	if book.count() != 1 {
		t.Fatal("the message was not queued")
	}
	<-connected // by the session
	<-connected // by the queue: it is being attempted now
	began := time.Now()
	if err := d.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if code, err := d.Wait(ctx); code != 0 || err != nil {
		t.Errorf("the daemon ends with %d, %v", code, err)
	}
	t.Logf("ended after %s", time.Since(began).Round(time.Millisecond))
	end()
	if err := d.Restart(); err != nil {
		t.Fatal(err)
	}
	playBox(t, memberAddress(t, w, "refusing", stage.PortLMTP), book, false)
	emptied(t, dir, 20*time.Second)
	if copies, _, lost := book.compare(rcpt); copies != 1 || len(lost) > 0 {
		t.Errorf("%d copies, lost %q", copies, lost)
	}
}
