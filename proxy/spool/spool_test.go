package spool

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// A message goes to all of its recipients, byte by byte, and leaves nothing behind.
func TestDeliver(t *testing.T) {
	w := newWorld()
	w.homes["a@x"], w.homes["b@x"], w.homes["c@x"] = "h1", "h2", "h1"
	r := start(t, testConfig(t.TempDir()), w)
	long := strings.Repeat("0123456789\r\n", 20_000) // beyond the buffer
	for _, body := range []string{text, "", long, strings.Repeat("x", bufferSize), strings.Repeat("x", bufferSize-300)} {
		r.accept(t, to("a@x", "b@x", "c@x"), body)
		until(t, "the queue is empty", r.empty)
		for _, a := range []string{"a@x", "b@x", "c@x"} {
			got := w.box(a)
			if len(got) == 0 || got[len(got)-1] != body {
				t.Fatalf("%s has %d messages, the last is not the one of %d bytes", a, len(got), len(body))
			}
		}
	}
	if got := w.box("a@x"); len(got) != 5 {
		t.Errorf("a@x has %d messages, want 5", len(got))
	}
	if left := files(t, r.cfg.Dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// What a process has left unfinished, which nobody was told of, is gone when the next one has begun.
func TestUnfinishedFilesAreRemoved(t *testing.T) {
	w := newWorld()
	cfg := testConfig(t.TempDir())
	start(t, cfg, w).end()
	for _, c := range []string{idAlphabet[:1], idAlphabet[len(idAlphabet)-1:]} {
		if err := os.WriteFile(filepath.Join(cfg.Dir, dirTmp, c, newID(time.Now())+suffix), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start(t, cfg, w)
	if left := files(t, filepath.Join(cfg.Dir, dirTmp)); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// The whole envelope reaches the member, and what was recorded is read back.
func TestEnvelopeSurvives(t *testing.T) {
	w := newWorld()
	r := start(t, testConfig(t.TempDir()), w)
	w.homes["ü<a>&@x"] = ""
	e := &Envelope{From: "ann+<&>@example.org", Body: "8BITMIME", SMTPUTF8: true, Ret: ReturnHeaders, EnvID: "id 1", Client: "192.0.2.1",
		To: []Recipient{{Address: "ü<a>&@x", Account: "u@x", Host: "East.example", ORcpt: "utf-8;ü@x", Notify: Notify{NotifySuccess, NotifyDelay}}}}
	id := r.accept(t, e, text)
	info, body, err := r.Show(id)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if b, err := io.ReadAll(body); err != nil || string(b) != text {
		t.Errorf("the message is %q, %v", b, err)
	}
	p := info.Recipients[0]
	if info.From != e.From || info.EnvID != e.EnvID || info.Client != e.Client || info.Size != int64(len(text)) ||
		p.Address != e.To[0].Address || p.Account != "u@x" || p.Host != "East.example" || p.ORcpt != e.To[0].ORcpt || !slices.Equal(p.Notify, e.To[0].Notify) {
		t.Errorf("got %+v", info)
	}
	for _, bad := range []*Envelope{{From: "a@x"}, to(""), to("a\r\n@x"), to("a\xff@x"), to(strings.Repeat("a", maxText+1))} {
		if _, err := r.Accept(t.Context(), bad, strings.NewReader(text)); !errors.Is(err, ErrEnvelope) {
			t.Errorf("%.200v: %v, want ErrEnvelope", bad.To, err)
		}
	}
	broken := io.MultiReader(strings.NewReader(text), errReader{})
	if _, err := r.Accept(t.Context(), to("a@x"), broken); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a body that breaks: %v", err)
	}
	if left := files(t, r.cfg.Dir); len(left) != 1 {
		t.Errorf("in the spool: %q, want one message", left)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }

// A dead member is tried by one message at a time; its mail follows an account that moves, and all of it goes when the
// member is back, at once.
func TestMemberAwayAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.down["h1"] = true
		for _, a := range []string{"a@x", "b@x", "moves@x"} {
			w.homes[a] = "h1"
		}
		r := start(t, testConfig(t.TempDir()), w)
		for range 50 {
			r.accept(t, to("a@x", "b@x"), text)
		}
		r.accept(t, to("moves@x"), text)
		time.Sleep(10 * time.Minute)
		w.set(func() {
			if n := w.tries["h1"]; n < 8 || n > 60 {
				t.Errorf("%d attempts to reach a dead member within 10 minutes, want one now and then", n)
			}
			w.homes["moves@x"] = "h2"
		})
		r.WakeAccount("MOVES@x")
		time.Sleep(time.Second)
		if got := w.box("moves@x"); len(got) != 1 {
			t.Errorf("the account that moved has %d messages, want 1", len(got))
		}
		w.set(func() { w.down["h1"] = false })
		r.Wake("h1")
		time.Sleep(time.Second)
		if got := w.box("b@x"); len(got) != 50 {
			t.Errorf("%d messages a second after the member came back, want 50", len(got))
		}
		if !r.empty() || len(files(t, r.cfg.Dir)) > 0 {
			t.Errorf("left: %+v", r.Stats())
		}
		if n := w.peak["h1"]; n > r.cfg.Concurrency {
			t.Errorf("%d deliveries to one member at once, more than %d", n, r.cfg.Concurrency)
		}
		r.end()
	})
}

// A failover while mail waits: all of it arrives on the new host. MAILMUX_SOAK=1 lets 10,000 messages wait.
func TestFailoverWhileMailWaits(t *testing.T) {
	n := 1000
	if os.Getenv("MAILMUX_SOAK") != "" {
		n = 10_000
	}
	w := newWorld()
	w.homes["a@x"], w.down["h1"] = "h1", true
	r := start(t, testConfig(t.TempDir()), w)
	var senders sync.WaitGroup
	for range 50 {
		senders.Go(func() {
			for range n / 50 {
				if _, err := r.Accept(t.Context(), to("a@x"), strings.NewReader(text)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	senders.Wait()
	if got := r.Stats().Messages; got != n {
		t.Fatalf("%d messages wait, want %d", got, n)
	}
	w.set(func() { w.homes["a@x"] = "h2" })
	started := time.Now()
	r.Wake("h1")
	until(t, "the queue is empty", r.empty)
	t.Logf("%d messages followed in %s", n, time.Since(started).Round(time.Millisecond))
	if got := len(w.box("a@x")); got != n || w.tries["h2"] != n {
		t.Errorf("%d messages, %d deliveries to the new host; want %d", got, w.tries["h2"], n)
	}
}

// Without Wake a member that is back is found by the next probe, at most a minute later, and then everything goes.
func TestProbeFindsMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.homes["a@x"], w.down["h1"] = "h1", true
		r := start(t, testConfig(t.TempDir()), w)
		for range 30 {
			r.accept(t, to("a@x"), text)
		}
		time.Sleep(8 * time.Hour)
		w.set(func() { w.down["h1"] = false })
		time.Sleep(2 * time.Minute)
		if got := w.box("a@x"); len(got) != 30 {
			t.Errorf("%d messages two minutes after the member came back, want 30", len(got))
		}
		r.end()
	})
}

// A member that hangs delays nobody else.
func TestHangingMember(t *testing.T) {
	w := newWorld()
	w.homes["a@x"], w.homes["b@y"] = "h1", "h2"
	w.gate = make(chan struct{})
	r := start(t, Config{Dir: t.TempDir(), MinFree: 1, Concurrency: 2}, w)
	for range 100 {
		r.accept(t, to("a@x"), text)
	}
	until(t, "h1 hangs", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.now["h1"] == 2 })
	w.set(func() { close(w.gate); w.gate = nil })
	until(t, "all have arrived", func() bool { return len(w.box("a@x")) == 100 })
	hang := make(chan struct{})
	w.set(func() { w.gate = hang })
	for range 100 {
		r.accept(t, to("a@x"), text)
	}
	until(t, "h1 hangs again", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.now["h1"] == 2 })
	w.set(func() { w.gate = nil })
	e := to("b@y")
	e.To[0].Host = "h2"
	r.accept(t, e, text)
	until(t, "the other host's mail has arrived", func() bool { return len(w.box("b@y")) == 1 })
	if n := len(w.box("a@x")); n > 110 {
		t.Errorf("%d messages passed a member that hangs", n)
	}
	close(hang)
	until(t, "all have arrived", r.empty)
}

// Who asks for an attempt while one is under way, at a member that hangs, gets one as soon as that has failed: the account has
// moved meanwhile, and its mail does not wait for the end of a pause.
func TestWakeDuringAttempt(t *testing.T) {
	for name, wake := range map[string]func(*rig, string){
		"account": func(r *rig, _ string) { r.WakeAccount("a@x") },
		"host":    func(r *rig, _ string) { r.Wake("h1") },
		"flush":   func(r *rig, _ string) { r.Flush() },
		"retry": func(r *rig, id string) {
			if done, err := r.Retry(t.Context(), Filter{IDs: []string{id}}); done.Changed != 1 || err != nil {
				t.Errorf("retry: %+v, %v", done, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.homes["a@x"], w.down["h1"] = "h1", true
				r := start(t, testConfig(t.TempDir()), w)
				id := r.accept(t, to("a@x"), text)
				time.Sleep(3 * time.Hour)
				hang := make(chan struct{})
				w.set(func() { w.gate = hang })
				for under := false; !under; time.Sleep(time.Second) {
					w.set(func() { under = w.now["h1"] > 0 })
				}
				w.set(func() { w.gate, w.homes["a@x"] = nil, "h2" })
				wake(r, id)
				time.Sleep(time.Second) // the queue is read for it
				close(hang)
				time.Sleep(time.Second)
				if n := len(w.box("a@x")); n != 1 {
					t.Errorf("the message has arrived %d times at the account's new home a second after the attempt", n)
				}
				r.end()
			})
		})
	}
}

// Refusals, delays and expiry are told to the sender, once, by the rules of RFC 3461.
func TestNotifications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.homes["ann@example.org"] = "h9"
		w.homes["full@x"], w.homes["no@x"], w.homes["ok@x"], w.homes["quiet@x"], w.homes["silent@x"] = "h1", "h1", "h1", "h1", "h1"
		w.say["full@x"] = Outcome{State: Waiting, Reply: "452 4.2.2 full", Status: "4.2.2"}
		w.say["quiet@x"] = Outcome{State: Waiting, Reply: "dial tcp 10.9.8.7:24: connection refused"}
		w.say["no@x"] = Outcome{State: Failed, Reply: "552 5.2.3 groß\r\nX: long", Status: "5.2.3"}
		w.say["silent@x"] = w.say["no@x"]
		r := start(t, testConfig(t.TempDir()), w)
		e := to("full@x", "no@x", "ok@x", "gone@x", "quiet@x", "silent@x")
		e.EnvID, e.Ret = "QQ314159", ReturnFull
		e.To[1].ORcpt = "rfc822;No@x"
		e.To[2].Notify = Notify{NotifySuccess}
		e.To[3].ORcpt = "rfc822;wäg@x"
		e.To[4].Notify = Notify{NotifyFailure}
		e.To[5].Notify = Notify{NotifyNever}
		r.accept(t, e, text)
		time.Sleep(time.Minute)
		first := w.box("ann@example.org")
		if len(first) != 2 {
			t.Fatalf("%d notifications after a minute, want failure and success:\n%s", len(first), strings.Join(first, "\n====\n"))
		}
		all := strings.Join(first, "")
		for _, want := range []string{
			"Auto-Submitted: auto-replied\r\n", "Original-Envelope-Id: QQ314159\r\n", "Original-Recipient: rfc822;No@x\r\nFinal-Recipient: rfc822; no@x\r\nAction: failed\r\nStatus: 5.2.3\r\n",
			"Diagnostic-Code: smtp; 552 5.2.3 gro\\x{DF}  X: long\r\n", // message/delivery-status has 7 bits
			"Original-Recipient: utf-8;w\\x{E4}g@x\r\nFinal-Recipient: rfc822; gone@x\r\nAction: failed\r\nStatus: 5.1.1\r\n",
			"Final-Recipient: rfc822; ok@x\r\nAction: relayed\r\nStatus: 2.0.0\r\n", "Content-Type: message/rfc822\r\n", text,
		} {
			if !strings.Contains(all, want) {
				t.Errorf("no %q in the notifications:\n%s", want, all)
			}
		}
		for _, not := range []string{"full@x", "quiet@x", "silent@x"} {
			if strings.Contains(all, not) {
				t.Errorf("%s is told of too early or against its NOTIFY", not)
			}
		}
		time.Sleep(5 * time.Hour)
		if got := w.box("ann@example.org"); len(got) != 3 || !strings.Contains(got[2], "Final-Recipient: rfc822; full@x\r\nAction: delayed\r\nStatus: 4.2.2\r\n") ||
			!strings.Contains(got[2], "Will-Retry-Until: ") || strings.Contains(got[2], "quiet@x") || strings.Contains(got[2], "A body") {
			t.Fatalf("after five hours there are %d notifications, want one of a delay:\n%s", len(got), got[len(got)-1])
		}
		time.Sleep(121 * time.Hour)
		got := w.box("ann@example.org")
		if len(got) != 4 || !strings.Contains(got[3], "full@x\r\nAction: failed\r\nStatus: 4.4.7") || !strings.Contains(got[3], "quiet@x\r\nAction: failed") {
			t.Errorf("after five days there are %d notifications, want a last one:\n%s", len(got), got[len(got)-1])
		}
		if strings.Contains(strings.Join(got, ""), "10.9.8.7") || strings.Contains(strings.Join(got, ""), "h1:24") {
			t.Errorf("a stranger is told our addresses:\n%s", got[3])
		}
		if !r.empty() {
			t.Errorf("left: %+v", r.Stats())
		}
		r.end()
	})
}

// Nobody answers a notification, and a message that cannot be returned ends with a line in the log.
func TestNoNotificationForNotifications(t *testing.T) {
	w := newWorld()
	r := start(t, testConfig(t.TempDir()), w)
	r.accept(t, to("gone@x"), text) // and ann@example.org is nobody, either
	until(t, "the queue is empty, of the notification too", func() bool { return r.empty() && r.Stats().Failed == 2 })
	if st := r.Stats(); st.Notifications != 1 || st.Accepted != 2 {
		t.Errorf("%+v, want one message and one notification", st)
	}
	for _, want := range []string{"level=INFO msg=delivery ", `level=INFO msg="a message without sender could not be delivered`} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("no %q in the log:\n%s", want, r.log)
		}
	}
}

// Commands of the operator: hold, release, retry, delete, list.
func TestOperator(t *testing.T) {
	w := newWorld()
	w.homes["a@x"], w.homes["b@y"] = "h1", ""
	w.down["h1"] = true
	r := start(t, testConfig(t.TempDir()), w)
	ea, eb := to("a@x"), to("b@y")
	ea.Tried, eb.Tried = true, true
	eb.To[0].Host = "h2"
	ida, idb := r.accept(t, ea, text), r.accept(t, eb, text)
	list := func(f Filter) (ids []string) {
		t.Helper()
		if err := r.List(t.Context(), f, func(i *Info) error { ids = append(ids, i.ID); return nil }); err != nil {
			t.Fatal(err)
		}
		slices.Sort(ids)
		return ids
	}
	yes := true
	for _, c := range []struct {
		f    Filter
		want []string
	}{
		{Filter{}, []string{ida, idb}}, {Filter{Recipient: "A@X"}, []string{ida}}, {Filter{Domain: "Y"}, []string{idb}},
		{Filter{Host: "h1"}, []string{ida}}, {Filter{IDs: []string{idb, "../../../etc/passwd", "0000000000000000v"}}, []string{idb}}, {Filter{Sender: "<>"}, nil},
		{Filter{Sender: "ANN@example.org", Domain: "x"}, []string{ida}}, {Filter{Older: time.Hour}, nil}, {Filter{Younger: time.Hour}, []string{ida, idb}}, {Filter{Held: &yes}, nil},
	} {
		slices.Sort(c.want)
		if got := list(c.f); !slices.Equal(got, c.want) {
			t.Errorf("%+v lists %q, want %q", c.f, got, c.want)
		}
	}
	do := func(what string, f func() (Result, error), want int) {
		t.Helper()
		if res, err := f(); err != nil || res.Changed != want {
			t.Fatalf("%s: %+v, %v; want %d changed", what, res, err, want)
		}
	}
	do("hold", func() (Result, error) { return r.Hold(t.Context(), Filter{Recipient: "a@x"}) }, 1)
	if got := list(Filter{Held: &yes}); !slices.Equal(got, []string{ida}) || r.Stats().Held != 1 || r.Stats().Messages != 1 {
		t.Errorf("on hold: %q, %+v", got, r.Stats())
	}
	w.set(func() { w.down["h1"] = false })
	r.Flush()
	until(t, "the message that no host takes is deleted, when it is not being tried just then", func() bool {
		res, err := r.Delete(t.Context(), Filter{IDs: []string{idb}})
		return err == nil && res.Changed == 1
	})
	if len(w.box("a@x")) != 0 {
		t.Error("a message on hold was delivered")
	}
	do("release", func() (Result, error) { return r.Release(t.Context(), Filter{}) }, 1)
	until(t, "the released message has arrived", func() bool { return len(w.box("a@x")) == 1 && r.empty() })
	if _, _, err := r.Show(ida); !errors.Is(err, ErrNotFound) {
		t.Errorf("show of a delivered message: %v", err)
	}
}

// What no program can read goes to quarantine, with a line in the log; the others are delivered.
func TestQuarantine(t *testing.T) {
	dir := t.TempDir()
	w := newWorld()
	w.homes["a@x"] = "h1"
	r := start(t, testConfig(dir), w)
	w.set(func() { w.down["h1"] = true })
	good := r.accept(t, to("a@x"), text)
	until(t, "it waits", func() bool { return len(r.Stats().Away) == 1 })
	r.end()
	whole, err := os.ReadFile(filepath.Join(dir, "queue", "h1", good+suffix))
	if err != nil {
		t.Fatal(err)
	}
	cut := strings.Index(string(whole), "and no end")
	for name, content := range map[string]string{
		"00000000000000001": "", "00000000000000002": "not JSON\n", "00000000000000003": string(whole[:cut]), "00000000000000004": strings.Replace(string(whole), `"mailmux":1`, `"mailmux":9`, 1), "00000000000000005": string(whole),
	} {
		if err := os.WriteFile(filepath.Join(dir, "queue", "h1", name+suffix), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.set(func() { w.down["h1"] = false })
	r = start(t, testConfig(dir), w)
	r.Flush()
	until(t, "five in quarantine and one delivered", func() bool { return r.Stats().Quarantined == 5 && len(w.box("a@x")) == 1 && r.empty() })
	if n := strings.Count(r.log.String(), "moved to quarantine"); n != 5 {
		t.Errorf("%d lines tell of it:\n%s", n, r.log)
	}
}

// What is no queue file at all, wherever it lies, keeps nobody from starting, from listing the queue and from exporting it;
// where a message would lie it goes to quarantine.
func TestStrangersInTheSpool(t *testing.T) {
	dir := t.TempDir()
	w := newWorld()
	w.homes["a@x"], w.down["h1"] = "h1", true
	r := start(t, testConfig(dir), w)
	r.accept(t, to("a@x"), text)
	r.end()
	in := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	id := func(n int) string { return fmt.Sprintf("%017d", n) + suffix }
	for _, err := range []error{
		os.Mkdir(in("queue", "h1", id(1)), 0o700),
		os.Symlink("/etc/passwd", in("queue", "h1", id(2))),
		os.Symlink("nowhere", in("queue", "h1", id(3))),
		syscall.Mkfifo(in("queue", "h1", id(4)), 0o600),
		syscall.Mkfifo(in("hold", id(5)), 0o600),
		os.WriteFile(in("hold", "notes"), nil, 0o600),
		os.WriteFile(in("queue", "notes"), nil, 0o600),
		os.MkdirAll(in("tmp", "a", "b", "c"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r = start(t, testConfig(dir), w)
	until(t, "four in quarantine", func() bool { return r.Stats().Quarantined == 4 && r.Stats().Messages == 1 })
	listed := 0
	if err := r.List(t.Context(), Filter{}, func(*Info) error { listed++; return nil }); err != nil || listed != 1 {
		t.Errorf("%d messages are listed, %v", listed, err)
	}
	r.end()
	x, err := OpenExport(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if n, err := x.Write(t.Context(), io.Discard); n != 1 || err != nil {
		t.Errorf("%d messages are exported, %v", n, err)
	}
}

// Two processes never serve one spool; the error says who has it, and a read-only place is an error and no crash.
func TestLockAndUnwritable(t *testing.T) {
	dir := t.TempDir()
	r := start(t, testConfig(dir), newWorld())
	if _, err := Open(testConfig(dir), Services{}); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "spool.dir") {
		t.Errorf("a second process: %v", err)
	}
	if _, err := OpenExport(dir, ""); !errors.Is(err, ErrLocked) {
		t.Errorf("export of a spool that is served: %v", err)
	}
	r.end()
	if _, err := r.Accept(t.Context(), to("a@x"), strings.NewReader(text)); !errors.Is(err, ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
	if _, err := Open(testConfig("/proc/1/spool"), Services{}); err == nil {
		t.Error("a spool in /proc was opened")
	}
}
