package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// The window stays small, whatever waits, and everything is found again on disk.
func TestWindowIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.homes["a@x"], w.down["h1"] = "h1", true
		dir := t.TempDir()
		small := func(s *Spool) { s.cap = 10 }
		r := start(t, testConfig(dir), w, small)
		const n = 300
		for range n {
			r.accept(t, to("a@x"), text)
		}
		time.Sleep(time.Hour)
		r.end()
		r = start(t, testConfig(dir), w, small)
		most := 0
		look := func() {
			r.mu.Lock()
			most = max(most, len(r.shelves["h1"].window.keys))
			r.mu.Unlock()
		}
		for range 60 {
			time.Sleep(time.Minute)
			look()
		}
		w.set(func() { w.down["h1"] = false })
		r.Wake("h1")
		for range 100 {
			time.Sleep(10 * time.Millisecond)
			look()
		}
		if got := len(w.box("a@x")); got != n || !r.empty() {
			t.Errorf("%d of %d have arrived; %+v", got, n, r.Stats())
		}
		if most > 20 || most == 0 {
			t.Errorf("the window held up to %d messages, want at most 20", most)
		}
		r.end()
	})
}

// On a full disk mail is refused with ErrFull, what was accepted is delivered, and then there is room again.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		if os.Getenv("CI") != "" && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skip("mounting a tmpfs needs root:", err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	w := newWorld()
	w.homes["a@x"], w.down["h1"] = "h1", true
	r := start(t, Config{Dir: dir, MinFree: 1}, w) // no floor: the disk itself says no
	body := strings.Repeat("x", 150_000)
	var mu sync.Mutex
	accepted, refused := 0, 0
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				_, err := r.Accept(t.Context(), to("a@x"), strings.NewReader(body))
				mu.Lock()
				switch {
				case err == nil:
					accepted++
				case errors.Is(err, ErrFull):
					refused++
				default:
					t.Errorf("accept on a full disk: %v", err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if accepted == 0 || refused == 0 {
		t.Fatalf("%d accepted, %d refused", accepted, refused)
	}
	if left := files(t, filepath.Join(dir, dirTmp)); len(left) > 0 {
		t.Errorf("refused messages left %q", left)
	}
	w.set(func() { w.down["h1"] = false })
	r.Wake("h1")
	until(t, "everything accepted is delivered", r.empty)
	if got := len(w.box("a@x")); got != accepted {
		t.Errorf("%d delivered, %d accepted", got, accepted)
	}
	r.accept(t, to("a@x"), body)
	r.end()
}

// The floor and the size of the queue are kept.
func TestFloorAndSize(t *testing.T) {
	w := newWorld()
	w.homes["a@x"] = ""
	r := start(t, Config{Dir: t.TempDir(), MinFree: 1 << 60}, w)
	if _, err := r.Accept(t.Context(), to("a@x"), strings.NewReader(text)); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "min_free, 1048576TiB") {
		t.Errorf("below the floor: %v", err)
	}
	r = start(t, Config{Dir: t.TempDir(), MinFree: 1, MaxSize: 1000}, w)
	r.accept(t, to("a@x"), text)
	if _, err := r.Accept(t.Context(), to("a@x"), strings.NewReader(strings.Repeat("x", 900))); !errors.Is(err, ErrFull) {
		t.Errorf("above max_size: %v", err)
	}
	if left := files(t, r.cfg.Dir); len(left) != 1 {
		t.Errorf("in the spool: %q", left)
	}
}

// A disk that cannot sync refuses the mail, and keeps nothing of it.
func TestSyncFails(t *testing.T) {
	w := newWorld()
	w.homes["a@x"] = ""
	for _, op := range []string{"create", "write", "schedule", "sync", "rename"} {
		var bad bool
		r := start(t, testConfig(t.TempDir()), w, func(s *Spool) {
			s.disk.fault = func(o, _ string) error {
				if bad && o == op {
					return syscall.EIO
				}
				return nil
			}
		})
		bad = true
		if _, err := r.Accept(t.Context(), to("a@x"), strings.NewReader(text)); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s fails: %v", op, err)
		}
		if left := files(t, r.cfg.Dir); len(left) > 0 || r.Stats().Messages > 0 {
			t.Errorf("%s fails: left %q", op, left)
		}
		bad = false
		r.end()
	}
}

// Running is how many messages are being attempted.
func (s Stats) Running() (n int) {
	for _, h := range s.Hosts {
		n += h.Running
	}
	return n
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   []string
	}{
		{Config{}, nil},
		{Config{Dir: "/var/spool/mailmux"}, nil},
		{Config{Dir: "spool", MaxSize: -1, MinFree: -1, MaxAge: -1, DelayWarning: -1, FirstRetry: time.Hour, MaxRetry: time.Minute, Concurrency: -1, Postmaster: "x"},
			[]string{"dir: ", "max_size: ", "min_free: ", "max_age: ", "delay_warning: ", "max_retry: ", "concurrency: ", "postmaster: "}},
	} {
		err := c.config.Validate()
		var lines []string
		if err != nil {
			lines = strings.Split(err.Error(), "\n")
		}
		if len(lines) != len(c.want) {
			t.Errorf("%+v: %q", c.config, lines)
			continue
		}
		for i, want := range c.want {
			if !strings.HasPrefix(lines[i], want) {
				t.Errorf("%q does not begin with %q", lines[i], want)
			}
		}
	}
	for in, want := range map[string]string{"100": "100", "10GiB": "10GiB", "2 MB": "2000000", "1024KiB": "1MiB", "x": "error", "99999999TiB": "error", "": "error"} {
		var s Size
		got := "error"
		if err := s.UnmarshalYAML(func(v any) error { *v.(*string) = in; return nil }); err == nil {
			got = s.String()
		}
		if got != want {
			t.Errorf("size %q is %s, want %s", in, got, want)
		}
	}
}

// A host's name never leads out of the queue, and comes back from its directory.
func TestShelfNames(t *testing.T) {
	for _, host := range []string{"back1.example.com", "East", "../../etc", ".", "..", "_", "a/b", "ü", "%41", "hold"} {
		name := shelfName(host)
		if strings.Contains(name, "/") || strings.HasPrefix(name, ".") || name == mixed || hostOf(name) != host {
			t.Errorf("%q is on shelf %q, whose host is %q", host, name, hostOf(name))
		}
	}
	if shelfName("") != mixed || shelfName(strings.Repeat("x", 300)) != mixed || hostOf(mixed) != "" {
		t.Error("an unknown host is not on the mixed shelf")
	}
}

// FuzzReadItem: nothing that stands in a file brings the reader down, and what it accepts lies within the file.
func FuzzReadItem(f *testing.F) {
	head, at, err := encodeHead("00000000000000001", time.Unix(1, 0), to("a@x", "b@x"))
	if err != nil {
		f.Fatal(err)
	}
	copy(head[at:], encodeSize(4))
	records, err := encodeRecords([]record{{At: time.Unix(2, 0), Rcpt: []int{1}, State: Delivered, Reply: "250 ok"}, {Rcpt: []int{0}, Delayed: true}})
	if err != nil {
		f.Fatal(err)
	}
	whole := string(head) + "text\n" + string(records)
	f.Add([]byte(whole))
	f.Add([]byte(whole[:len(whole)-5]))
	f.Add([]byte(strings.Replace(whole, `"rcpt":[1]`, `"rcpt":[-1]`, 1)))
	f.Add([]byte(strings.Replace(whole, "         4", "9999999999", 1)))
	f.Fuzz(func(t *testing.T, content []byte) {
		it, err := readItem(bytes.NewReader(content), int64(len(content)))
		if err != nil {
			if !errors.Is(err, errUnreadable) {
				t.Fatalf("an error that is not of the content: %v", err)
			}
			return
		}
		if it.start < 0 || it.start+it.Size >= it.end || it.end > int64(len(content)) || len(it.rcpts) != it.Rcpts {
			t.Fatalf("message at %d, %d bytes, records to %d, of %d", it.start, it.Size, it.end, len(content))
		}
		if content[it.start+it.Size] != '\n' || content[it.end-1] != '\n' {
			t.Fatal("the message or the records do not end where they should")
		}
		for _, n := range it.waiting() {
			if it.rcpts[n].State != Waiting {
				t.Fatal("a recipient that is done waits")
			}
		}
	})
}

// A million queued messages are read at start within bounded memory. MAILMUX_SOAK=1 makes a million, otherwise there are
// fewer.
func TestScan(t *testing.T) {
	n := 5000
	if os.Getenv("MAILMUX_SOAK") != "" {
		n = 1_000_000
	}
	dir := t.TempDir()
	shelf := filepath.Join(dir, dirQueue, "h1")
	if err := os.MkdirAll(shelf, 0o700); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for i := range n {
		path := filepath.Join(shelf, fmt.Sprintf("%017d%s", i, suffix))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		due := now.Add(time.Duration(i%1000) * time.Second)
		if err := os.Chtimes(path, due, due); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	started := time.Now()
	s := prepare(testConfig(dir), Services{Hostname: "mx.example.com"})
	s.cap = 1000
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(started)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if st := s.Stats(); st.Messages != n {
		t.Errorf("%d messages, want %d", st.Messages, n)
	}
	sh := s.shelves["h1"]
	if len(sh.window.keys) > 2000 || sh.window.keys[0].id != fmt.Sprintf("%017d", 0) {
		t.Errorf("the window has %d messages, and begins with %v", len(sh.window.keys), sh.window.keys[0])
	}
	grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d messages in %s, %d KiB of heap", n, took.Round(time.Millisecond), grown/1024)
	if grown > 4<<20 {
		t.Errorf("%d bytes of heap for a window of 1000", grown)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// While no member of its host is in service, a message is looked up again and again, but its file is written once.
func TestWaitingWritesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		writes, lookups := 0, 0
		r := start(t, testConfig(t.TempDir()), w, func(s *Spool) {
			s.disk.fault = func(op, _ string) error {
				if op == "write" {
					writes++
				}
				return nil
			}
			s.Router = routerFunc(func() (Target, error) {
				lookups++
				return Target{Host: "h1"}, errors.New("no member of h1 is in service")
			})
		})
		id := r.accept(t, to("a@x"), text)
		time.Sleep(time.Hour)
		r.end()
		if writes != 2 || lookups < 5 {
			t.Errorf("%d writes, the message's own among them, and %d lookups", writes, lookups)
		}
		info, body, err := r.Show(id)
		if err != nil {
			t.Fatal(err)
		}
		body.Close()
		if got := info.Recipients[0].Reply; got != "no member of h1 is in service" {
			t.Errorf("what the operator reads is %q", got)
		}
	})
}

type routerFunc func() (Target, error)

func (f routerFunc) Route(context.Context, *Recipient) (Target, error) { return f() }

// A clock that is set back while a message is under way does not put its next attempt off: what was reckoned by the old
// time is due within the longest pause of the new one.
func TestClockSetBackDuringAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.homes["a@x"], w.gate = "h1", make(chan struct{})
		w.say["a@x"] = Outcome{State: Waiting, Reply: "451 4.3.0 later"}
		var back atomic.Int64
		r := start(t, testConfig(t.TempDir()), w, func(s *Spool) {
			s.now = func() time.Time { return time.Now().Add(-time.Duration(back.Load())).Round(0) }
		})
		r.accept(t, to("a@x"), text)
		synctest.Wait() // the member has the message
		r.mu.Lock()
		r.line(r.shelves["h1"], "00000000000000001", r.now().Add(time.Minute))
		r.mu.Unlock()
		back.Store(int64(300 * 24 * time.Hour))
		time.Sleep(2 * tick) // Run has noticed
		r.mu.Lock()
		r.line(r.shelves["h1"], "00000000000000002", time.Now().Add(time.Minute)) // by the old clock
		latest := r.latest()
		for _, k := range r.shelves["h1"].window.keys {
			if k.time().After(latest) {
				t.Errorf("%s is due at %s, and it is %s", k.id, k.time(), r.now())
			}
		}
		r.mu.Unlock()
		w.set(func() { delete(w.say, "a@x") })
		close(w.gate)
		time.Sleep(3 * time.Hour)
		if got := len(w.box("a@x")); got != 1 {
			t.Errorf("%d copies arrived", got)
		}
		r.end()
	})
}
