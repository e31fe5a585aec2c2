package spool

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// world is the servers around a spool: where accounts are, which members answer, and what arrived in mailboxes.
type world struct {
	mu    sync.Mutex
	homes map[string]string  // address → host; missing: no such user
	down  map[string]bool    // hosts that cannot be reached
	say   map[string]Outcome // address → the member's answer, Delivered when missing
	boxes map[string][]string
	tries map[string]int // by host
	peak  map[string]int
	now   map[string]int
	dead  bool          // the process that delivers is: nothing arrives
	gate  chan struct{} // when set, each delivery waits for it
}

func newWorld() *world {
	return &world{homes: map[string]string{}, down: map[string]bool{}, say: map[string]Outcome{}, boxes: map[string][]string{},
		tries: map[string]int{}, peak: map[string]int{}, now: map[string]int{}}
}

func (w *world) Route(_ context.Context, r *Recipient) (Target, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	host, ok := w.homes[r.Address]
	if !ok {
		return Target{}, fmt.Errorf("look up: %w", &PermanentError{Status: "5.1.1", Reply: "550 5.1.1 no such user"})
	}
	if host == "" {
		return Target{}, fmt.Errorf("directory unavailable")
	}
	return Target{Host: host, Member: host + ":24"}, nil
}

func (w *world) Deliver(ctx context.Context, to Target, m *Message, rcpts []Recipient) []Outcome {
	body, err := io.ReadAll(m.Body())
	w.mu.Lock()
	w.tries[to.Host]++
	w.now[to.Host]++
	w.peak[to.Host] = max(w.peak[to.Host], w.now[to.Host])
	gate := w.gate
	w.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now[to.Host]--
	out := make([]Outcome, len(rcpts))
	for i, r := range rcpts {
		switch o, ok := w.say[r.Address]; {
		case w.dead:
		case err != nil:
			out[i] = Outcome{State: Waiting, Reply: err.Error()}
		case w.down[to.Host]:
			out[i] = Outcome{State: Waiting, Reply: "connection refused", Status: "4.4.1", Unreachable: true}
		case ok:
			out[i] = o
		default:
			w.boxes[r.Address] = append(w.boxes[r.Address], string(body))
			out[i] = Outcome{State: Delivered, Reply: "250 2.0.0 saved", Status: "2.0.0", Action: ActionRelayed}
		}
	}
	return out
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *world) box(address string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.boxes[address]...)
}

// rig is a running spool.
type rig struct {
	*Spool
	w   *world
	log *logBuffer
	end func()
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func testConfig(dir string) Config { return Config{Dir: dir, MinFree: 1 << 20} }

// start opens a spool and runs it; end stops it, once.
func start(t testing.TB, cfg Config, w *world, with ...func(*Spool)) *rig {
	t.Helper()
	log := &logBuffer{}
	s := prepare(cfg, Services{Router: w, Deliverer: w, Hostname: "mx.example.com", Log: slog.New(slog.NewTextHandler(log, nil))})
	for _, change := range with {
		change(s)
	}
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	r := &rig{Spool: s, w: w, log: log}
	r.end = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(r.end)
	return r
}

// until waits for something that other goroutines bring about; in a bubble its time is free.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20s: %s", what)
		}
	}
}

const text = "From: ann@example.org\r\nSubject: hello\r\n\r\nA body with a line\r\n.\r\nand no end"

func to(addresses ...string) *Envelope {
	e := &Envelope{From: "ann@example.org"}
	for _, a := range addresses {
		e.To = append(e.To, Recipient{Address: a, Host: "h1"})
	}
	return e
}

func (r *rig) accept(t testing.TB, e *Envelope, body string) string {
	t.Helper()
	id, err := r.Accept(t.Context(), e, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (r *rig) empty() bool {
	st := r.Stats()
	return st.Messages == 0 && st.Bytes == 0
}

// files lists what is below the spool, by relative path, without the lock.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && e.Name() != "lock" {
			rel, _ := filepath.Rel(dir, path)
			list = append(list, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}
