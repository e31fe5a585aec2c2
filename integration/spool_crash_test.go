package integration

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailmux/integration/stage"
)

// soak says whether the long forms of the tests of the queue are asked for (make soak-spool).
func soak() bool { return os.Getenv("MAILMUX_SOAK") != "" }

// ledger is what is known of every message: whether it was acknowledged, and how often each recipient has it.
type ledger struct {
	mu    sync.Mutex
	acked map[string]bool
	boxes map[string]int // by recipient and message
}

func newLedger() *ledger { return &ledger{acked: map[string]bool{}, boxes: map[string]int{}} }

func (l *ledger) acknowledge(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[id] = true
}

func (l *ledger) arrived(rcpt, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.boxes[rcpt+" "+id]++
}

// count is how many messages were acknowledged.
func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// compare says how many copies there are, how many are too many, and which of those acknowledged are missing.
func (l *ledger) compare(rcpts ...string) (copies, doubled int, lost []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.boxes {
		copies += n
		doubled += n - 1
	}
	for id := range l.acked {
		for _, rcpt := range rcpts {
			if l.boxes[rcpt+" "+id] == 0 {
				lost = append(lost, rcpt+" "+id)
			}
		}
	}
	return copies, doubled, lost
}

// box is a mailbox server by LMTP that writes into a ledger. It may be away, and has moods.
type box struct {
	ledger *ledger
	addr   string
	moody  atomic.Bool // refuses some for now, and goes away in the middle of others

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	work     sync.WaitGroup
}

// playBox opens a box, and closes it at the end of the test.
func playBox(t testing.TB, addr string, l *ledger, moody bool) *box {
	t.Helper()
	b := &box{ledger: l, addr: addr}
	b.moody.Store(moody)
	if err := b.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	return b
}

func (b *box) open() error {
	l, err := net.Listen("tcp", b.addr)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listener, b.conns = l, map[net.Conn]bool{}
	b.work.Go(func() { b.accept(l) })
	return nil
}

func (b *box) accept(l net.Listener) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		if b.listener != l {
			nc.Close()
		} else {
			b.conns[nc] = true
			b.work.Go(func() {
				defer nc.Close()
				b.serve(nc)
			})
		}
		b.mu.Unlock()
	}
}

// close ends the server with everything that it has under way. It may be closed already.
func (b *box) close() {
	b.mu.Lock()
	if b.listener != nil {
		b.listener.Close()
		b.listener = nil
		for nc := range b.conns {
			nc.Close()
		}
	}
	b.mu.Unlock()
	b.work.Wait()
}

// serve speaks LMTP. What was answered with 250 is in the ledger before; an answer that does not go out any more is not.
func (b *box) serve(nc net.Conn) {
	r := bufio.NewReader(nc)
	say := func(text string) bool { _, err := io.WriteString(nc, text+"\r\n"); return err == nil }
	say("220 box ready")
	var rcpts []string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " "); verb {
		case "LHLO":
			say("250-box\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES")
		case "RCPT":
			_, address, _ := strings.Cut(line, "<")
			address, _, _ = strings.Cut(address, ">")
			rcpts = append(rcpts, address)
			say("250 2.1.5 OK")
		case "DATA":
			say("354 go on")
			id, err := readLetter(r)
			if err != nil || b.moody.Load() && rand.IntN(40) == 0 {
				return // away in the middle of the data, or behind it without an answer
			}
			for _, rcpt := range rcpts {
				if b.moody.Load() && rand.IntN(10) == 0 {
					say("451 4.3.0 not now")
					continue
				}
				b.ledger.arrived(rcpt, id)
				if !say("250 2.0.0 saved") {
					return
				}
			}
			rcpts = nil
		default:
			say("250 2.0.0 OK")
			rcpts = nil
		}
	}
}

// readLetter reads a text to its end and gives the mark of it.
func readLetter(r *bufio.Reader) (id string, err error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil || line == ".\r\n" {
			return id, err
		}
		if mark, ok := strings.CutPrefix(line, "X-Mark: "); ok {
			id = strings.TrimSpace(mark)
		}
	}
}

// load brings messages to a frontend, by several connections, until it is stopped. Every one has a mark of its own; what
// was answered with 250 is acknowledged in the ledger. A frontend that is away is tried again.
type load struct {
	ledger *ledger
	addr   string
	rcpts  []string
	most   int // messages in all, 0: until stop

	sent    atomic.Int64
	refused atomic.Int64 // with 4xx
	done    chan struct{}
	work    sync.WaitGroup
}

func startLoad(l *load, senders int) *load {
	l.done = make(chan struct{})
	for range senders {
		l.work.Go(l.send)
	}
	return l
}

func (l *load) stop() { close(l.done); l.work.Wait() }

func (l *load) stopped() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

func (l *load) send() {
	for !l.stopped() && !l.session() {
		select {
		case <-l.done:
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// session sends by one connection until that breaks. It says whether all is sent.
func (l *load) session() (finished bool) {
	nc, err := net.DialTimeout("tcp", l.addr, time.Second)
	if err != nil {
		return false
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(5 * time.Minute)) // a fault shows at the next read
	r := bufio.NewReader(nc)
	ask := func(text string) string {
		if _, err := io.WriteString(nc, text); err != nil {
			return ""
		}
		for {
			line, err := r.ReadString('\n')
			if err != nil || len(line) < 4 {
				return ""
			}
			if line[3] != '-' {
				return line
			}
		}
	}
	if ask("") == "" || ask("EHLO load.example.net\r\n") == "" {
		return false
	}
	for !l.stopped() {
		n := l.sent.Add(1)
		if l.most > 0 && n > int64(l.most) {
			return true
		}
		id := fmt.Sprintf("%d-%d", n, rand.Uint32())
		if !strings.HasPrefix(ask("MAIL FROM:<someone@example.net>\r\n"), "250") {
			return false
		}
		for _, rcpt := range l.rcpts {
			if !strings.HasPrefix(ask("RCPT TO:<"+rcpt+">\r\n"), "250") {
				return false
			}
		}
		if !strings.HasPrefix(ask("DATA\r\n"), "354") {
			return false
		}
		size := 200 + rand.IntN(5000)
		if rand.IntN(20) == 0 {
			size = rand.IntN(300_000)
		}
		body := strings.Repeat("0123456789012345678901234567890123456789\r\n", size/42)
		switch answer := ask("X-Mark: " + id + "\r\nSubject: load\r\n\r\n" + body + ".\r\n"); {
		case strings.HasPrefix(answer, "250"):
			l.ledger.acknowledge(id)
		case answer == "":
			return false
		default:
			l.refused.Add(1)
		}
	}
	return true
}

// queued are the files below the queue of a spool, without those in quarantine.
func queued(t testing.TB, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "queue"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, path)
		}
		if os.IsNotExist(err) {
			return nil // it went meanwhile
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// emptied waits until nothing is queued.
func emptied(t testing.TB, dir string, within time.Duration) {
	t.Helper()
	left := 0
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if left = len(queued(t, dir)); left == 0 {
			return
		}
	}
	t.Fatalf("%d messages are still queued after %s", left, within)
}

// spoolFront is a daemon with an MX listener and a queue in dir that tries again soon. More are keys of spool.
func spoolFront(t testing.TB, w *stage.World, dir, more string) (d *daemon, addr string) {
	t.Helper()
	d = ownDaemon(t, w, func(s *setup) {
		addr = fmt.Sprintf("%s:%d", s.IP, stage.PortSMTP)
		s.Listeners = append(s.Listeners, fmt.Sprintf(`{service: smtp, address: "%s"}`, addr))
		s.Greets = append(s.Greets, addr)
		s.Limits += ", exempt: [127.0.0.0/8]"
		s.More = "delivery: {member_timeout: 2s}\nspool: {dir: " + dir + ", first_retry: 100ms, max_retry: 500ms" + more + "}"
	})
	return d, addr
}

// The daemon is killed at random instants while mail comes in and goes out, to members that come and go, too. Everything
// that it acknowledged is delivered in the end. What arrives twice was accepted by a member just before the kill, or by one
// that went away before it could say so. make soak-spool kills it 300 times.
func TestSpoolSurvivesKills(t *testing.T) {
	kills := 20
	if soak() {
		kills = 300
	}
	w := world(t)
	book := newLedger()
	steady := playBox(t, memberAddress(t, w, "recording", stage.PortLMTP), book, false)
	fickle := playBox(t, memberAddress(t, w, "refusing", stage.PortLMTP), book, true)
	dir := filepath.Join(t.TempDir(), "spool")
	d, addr := spoolFront(t, w, dir, "")
	rcpts := []string{stage.FakeLogin("recording"), stage.FakeLogin("refusing")}
	l := startLoad(&load{ledger: book, addr: addr, rcpts: rcpts}, 8)
	waited := 0
	for round := range kills {
		before := book.count()
		eventually(t, "mail is acknowledged", func() error {
			if book.count() == before {
				return fmt.Errorf("none since the start")
			}
			return nil
		})
		switch round % 4 { // the member that comes and goes is away in half of the rounds
		case 1:
			fickle.close()
		case 3:
			if err := fickle.open(); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Duration(rand.IntN(300_000)) * time.Microsecond) // the instant of the kill
		d.Kill()
		waited += len(queued(t, dir))
		if err := d.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	l.stop()
	if kills%4 == 2 || kills%4 == 3 { // it went last
		if err := fickle.open(); err != nil {
			t.Fatal(err)
		}
	}
	fickle.moody.Store(false)
	emptied(t, dir, time.Minute)
	steady.close() // with all that it had under way
	fickle.close()
	copies, doubled, lost := book.compare(rcpts...)
	t.Logf("%d kills: %d messages acknowledged for 2 recipients each, %d refused for now, %d copies delivered, %d of them doubled, %d lost; %d files found in the queue by the restarts",
		kills, book.count(), l.refused.Load(), copies, doubled, len(lost), waited)
	if len(lost) > 0 {
		t.Errorf("acknowledged and not delivered: %q", lost[:min(10, len(lost))])
	}
	if waited == 0 {
		t.Error("nothing ever waited in the queue: the test shows nothing")
	}
	if bad, err := os.ReadDir(filepath.Join(dir, "quarantine")); err != nil || len(bad) > 0 {
		t.Errorf("in quarantine: %v, %v", bad, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "tmp", "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
}

// hang plays a member that greets and then says nothing more, until end is called, or the test ends. It tells of each
// connection.
func hang(t testing.TB, addr string) (connected <-chan struct{}, end func()) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	came := make(chan struct{}, 100)
	work.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			came <- struct{}{}
			work.Go(func() {
				defer nc.Close()
				_, _ = io.WriteString(nc, "220 wait\r\n")
				_, _ = io.Copy(io.Discard, nc) // until the peer gives up
			})
		}
	})
	end = sync.OnceFunc(func() { l.Close(); work.Wait() })
	t.Cleanup(end)
	return came, end
}
