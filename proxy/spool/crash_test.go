package spool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var errCrash = errors.New("the process is dead")

// A process that dies before any change to the disk loses nothing that it acknowledged, and gives nothing twice unless it
// dies between the member's answer and its record. Every step of a scenario is tried, with what is half written.
func TestCrashAtEveryStep(t *testing.T) {
	steps := 0
	for at := 1; ; at++ {
		dir := t.TempDir()
		w := newWorld()
		w.homes["a@x"], w.homes["b@x"], w.homes["c@y"], w.homes["ann@example.org"] = "h1", "h1", "h2", "h9"
		w.say["b@x"] = Outcome{State: Waiting, Reply: "452 full"}
		var mu sync.Mutex
		count, died, op := 0, false, ""
		fault := func(o, _ string) error {
			mu.Lock()
			defer mu.Unlock()
			if count++; count < at {
				return nil
			}
			if !died {
				died, op = true, o
				w.set(func() { w.dead = true })
			}
			return errCrash
		}
		acked := crashRun(t, dir, w, fault)
		if !died {
			steps = at - 1
			break
		}
		w.set(func() { delete(w.say, "b@x"); w.dead = false })
		r := start(t, fastConfig(dir), w)
		r.Flush()
		until(t, "the queue is empty after the crash", r.empty)
		r.end()
		doubled := 0
		for _, address := range []string{"a@x", "b@x", "c@y"} {
			seen := make(map[string]int)
			for _, body := range w.box(address) {
				seen[body]++
			}
			for body, n := range seen {
				doubled += n - 1
				if !strings.HasPrefix(body, "message ") {
					t.Errorf("crash before step %d (%s): %s got %q", at, op, address, body)
				}
			}
			for _, body := range acked {
				if seen[body] == 0 {
					t.Errorf("crash before step %d (%s): %s did not get %q, which was acknowledged", at, op, address, body)
				}
			}
		}
		if doubled > 0 && op != "write" && op != "truncate" && op != "remove" {
			t.Errorf("crash before step %d (%s): %d copies too many", at, op, doubled)
		}
		if left := files(t, dir); len(left) > 0 {
			t.Errorf("crash before step %d (%s): left behind: %q", at, op, left)
		}
	}
	if steps < 25 {
		t.Errorf("the scenario had %d steps only", steps)
	}
	t.Logf("crashed before each of %d steps", steps)
}

func fastConfig(dir string) Config {
	return Config{Dir: dir, MinFree: 1, FirstRetry: 2 * time.Millisecond, MaxRetry: 20 * time.Millisecond}
}

// crashRun accepts three messages, one after the other, and lets each be delivered as far as it can be; it gives those
// that were acknowledged.
func crashRun(t *testing.T, dir string, w *world, fault func(op, path string) error) (acked []string) {
	t.Helper()
	s := prepare(fastConfig(dir), Services{Router: w, Deliverer: w, Hostname: "mx.example.com"})
	s.disk.fault = fault
	if err := s.open(); err != nil {
		if !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	later := w.say["b@x"]
	for i := range 3 {
		e := to("a@x", "b@x", "c@y")
		e.From = ""
		body := fmt.Sprintf("message %d", i)
		w.set(func() { w.say["b@x"] = later })
		if _, err := s.Accept(ctx, e, strings.NewReader(body)); err == nil {
			acked = append(acked, body)
		}
		until(t, "the message is done, or the process is dead", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.boxes["c@y"]) == i+1 && len(w.boxes["a@x"]) == i+1 && w.tries["h1"] >= 2*(i+1) {
				delete(w.say, "b@x")
			}
			return w.dead || len(w.boxes["b@x"]) == i+1 && s.Stats().Messages == 0
		})
	}
	cancel()
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return acked
}

const (
	childDir   = "MAILMUX_SPOOL_CHILD"
	childRound = "MAILMUX_SPOOL_ROUND"
)

// boxes are mailboxes on disk: a line in a file for each message.
type boxes struct{ dir string }

func (b boxes) Route(_ context.Context, r *Recipient) (Target, error) {
	return Target{Host: r.Address[:1], Member: r.Address[:1] + ":24"}, nil
}

func (b boxes) Deliver(_ context.Context, _ Target, m *Message, rcpts []Recipient) []Outcome {
	body := make([]byte, m.Size)
	out := make([]Outcome, len(rcpts))
	if _, err := m.Body().Read(body); err != nil {
		return out
	}
	n, _, _ := strings.Cut(string(body), "\n")
	for i, r := range rcpts {
		if rand.IntN(4) == 0 {
			out[i] = Outcome{State: Waiting, Reply: "451 4.3.0 later"}
			continue
		}
		f, err := os.OpenFile(filepath.Join(b.dir, "box-"+r.Address), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(n + "\n")
			f.Close()
		}
		if err == nil {
			out[i] = Outcome{State: Delivered, Reply: "250 saved"}
		}
	}
	return out
}

// child serves a spool and sends mail into it until it is killed; what is acknowledged goes to its standard output.
func child(dir string) {
	b := boxes{dir}
	s, err := Open(fastConfig(filepath.Join(dir, "spool")), Services{Router: b, Deliverer: b, Hostname: "mx.example.com"})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	go func() { _ = s.Run(context.Background()) }()
	for sender := range 8 {
		go func() {
			for i := 0; ; i++ {
				n := fmt.Sprintf("%s-%d-%d", os.Getenv(childRound), sender, i)
				e := &Envelope{To: []Recipient{{Address: "a@x", Host: "a"}, {Address: "b@x", Host: "b"}, {Address: "a@y", Host: "a"}}}
				if _, err := s.Accept(context.Background(), e, strings.NewReader(n+"\n"+strings.Repeat("x", rand.IntN(100_000)))); err == nil {
					_, _ = os.Stdout.WriteString("250 " + n + "\n") // one write: whole, or not at all
				}
			}
		}()
	}
	time.Sleep(time.Minute)
	os.Exit(1)
}

// Real processes are killed at random moments under load; a ledger proves that each acknowledged message is in each of
// its mailboxes. MAILMUX_SOAK=1 kills 300 of them.
func TestKill(t *testing.T) {
	rounds := 20
	if os.Getenv("MAILMUX_SOAK") != "" {
		rounds = 300
	}
	dir := t.TempDir()
	acked := make(map[string]bool)
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir, childRound+"="+strconv.Itoa(round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var killer *time.Timer
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if killer == nil { // the time runs from the first acknowledgement
				killer = time.AfterFunc(time.Duration(rand.IntN(150_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
			}
			n, ok := strings.CutPrefix(lines.Text(), "250 ")
			if !ok {
				t.Fatalf("round %d: %s", round, lines.Text())
			}
			acked[n] = true
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
	}
	waiting := drain(t, dir)
	doubled := compareLedger(t, dir, acked)
	t.Logf("%d kills, %d messages acknowledged, %d waited at the end, 0 lost, %d copies delivered but not recorded", rounds, len(acked), waiting, doubled)
	// Not more can have been between an answer and its record than were under way.
	if most := rounds * 2 * 2 * 10; doubled > most {
		t.Errorf("%d copies too many, more than %d deliveries can have been under way", doubled, most)
	}
}

// drain serves the spool that the killed have left until it is empty, and says what waited in it.
func drain(t *testing.T, dir string) (waiting int) {
	t.Helper()
	b := boxes{dir}
	s, err := Open(fastConfig(filepath.Join(dir, "spool")), Services{Router: b, Deliverer: b, Hostname: "mx.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	waiting = s.Stats().Messages
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	until(t, "the queue is empty", func() bool { return s.Stats().Messages == 0 })
	cancel()
	if err := errors.Join(<-done, s.Close()); err != nil {
		t.Fatal(err)
	}
	return waiting
}

// compareLedger holds the mailboxes against what was acknowledged. It counts the copies too many: deliveries that were
// killed between the line in the mailbox and the record, or between the two lines that one delivery writes.
func compareLedger(t *testing.T, dir string, acked map[string]bool) (doubled int) {
	t.Helper()
	for _, box := range []string{"a@x", "b@x", "a@y"} {
		content, err := os.ReadFile(filepath.Join(dir, "box-"+box))
		if err != nil {
			t.Fatal(err)
		}
		seen := make(map[string]int)
		for n := range strings.Lines(string(content)) {
			seen[strings.TrimSuffix(n, "\n")]++
		}
		for n, times := range seen {
			doubled += times - 1
			if strings.Count(n, "-") != 2 {
				t.Errorf("%s got a message that nobody sent: %q", box, n)
			}
		}
		for n := range acked {
			if seen[n] == 0 {
				t.Errorf("%s did not get message %s, which was acknowledged", box, n)
			}
		}
	}
	return doubled
}
