package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// Messages that come in by SMTP, beside Postfix: taken by mailmux or by Postfix, which both ask the same directory for
// each recipient's home, and delivered by LMTP to the same two sinks; or queued, because the sinks are away.

const (
	portMX   = "10025"
	portSink = "10026"

	hostMailPlain = 31 // mailmux without a queue
	hostMailQueue = 32 // mailmux with one
	hostPostfix   = 33

	mailSenders    = 50
	mailPerSession = 10
)

// mailPeer is a server that takes messages in.
type mailPeer struct {
	name   string
	host   int
	queues bool
	before func(test string) error // what a test needs, while it is stopped; nil for none
	clean  func() error            // empties its queue while it is stopped
	dir    string
	argv   []string
	group  *group
}

// mailFigure is what one run gave.
type mailFigure struct {
	test, peer             string
	rate, cpu, p50, others float64
}

// sinks are the two mailbox servers. They are in this process, and count.
type sinks struct {
	taken     atomic.Int64
	mu        sync.Mutex
	listeners []net.Listener
	conns     map[net.Conn]bool
	work      sync.WaitGroup
}

func (s *sinks) open(w *world) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = map[net.Conn]bool{}
	for _, host := range []int{hostBack1, hostBack2} {
		l, err := net.Listen("tcp", w.addr(host, portSink))
		if err != nil {
			return err
		}
		s.listeners = append(s.listeners, l)
		s.work.Go(func() { s.accept(l) })
	}
	return nil
}

func (s *sinks) accept(l net.Listener) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[nc] = true
		s.mu.Unlock()
		s.work.Go(func() { s.serve(nc) })
	}
}

func (s *sinks) close() {
	s.mu.Lock()
	for _, l := range s.listeners {
		l.Close()
	}
	for nc := range s.conns {
		nc.Close()
	}
	s.listeners = nil
	s.mu.Unlock()
	s.work.Wait()
}

// serve speaks LMTP, and answers pipelined commands by one write.
func (s *sinks) serve(nc net.Conn) {
	defer nc.Close()
	r, w := bufio.NewReaderSize(nc, 16<<10), bufio.NewWriter(nc)
	io.WriteString(nc, "220 sink LMTP\r\n")
	rcpts := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		switch string(line[:min(4, len(line))]) {
		case "LHLO":
			w.WriteString("250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE\r\n")
		case "RCPT":
			rcpts++
			w.WriteString("250 2.1.5 ok\r\n")
		case "DATA":
			w.WriteString("354 go on\r\n")
			w.Flush()
			for string(line) != ".\r\n" {
				if line, err = r.ReadSlice('\n'); err != nil {
					return
				}
			}
			for ; rcpts > 0; rcpts-- {
				s.taken.Add(1)
				w.WriteString("250 2.0.0 taken\r\n")
			}
		case "QUIT":
			io.WriteString(nc, "221 2.0.0 bye\r\n")
			return
		default:
			w.WriteString("250 2.0.0 ok\r\n")
		}
		if r.Buffered() == 0 {
			w.Flush()
		}
	}
}

// mail runs the two tests on each server in turn, round for round, and prints the table.
func (r *runner) mail(ctx context.Context) error {
	peers := []*mailPeer{{name: "mailmux", host: hostMailPlain}, {name: "mailmux with a queue", host: hostMailQueue, queues: true},
		{name: "postfix", host: hostPostfix, queues: true}}
	for _, p := range peers {
		if err := p.prepare(r.w); err != nil {
			return err
		}
		defer p.group.remove()
	}
	var all []mailFigure
	for round := range r.rounds {
		for i := range peers {
			p := peers[(i+round)%len(peers)]
			for _, test := range []string{"deliver", "queue"} {
				if test == "queue" && !p.queues {
					continue
				}
				f, err := r.mailRun(ctx, p, test, r.messages)
				if err != nil {
					return fmt.Errorf("%s on %s: %w\n%s", test, p.name, err, (&peer{dir: p.dir}).lastWords())
				}
				fmt.Fprintf(os.Stderr, "%s: %s: %.0f messages/s, %.0f µs CPU each, others %.2f CPUs\n", test, p.name, f.rate, f.cpu, f.others)
				all = append(all, f)
			}
		}
	}
	mailTable(os.Stdout, all, r.messages, r.rounds)
	return nil
}

// mailRun starts one server, brings it the messages, and ends it.
func (r *runner) mailRun(ctx context.Context, p *mailPeer, test string, messages int) (mailFigure, error) {
	f := mailFigure{test: test, peer: p.name}
	s := &sinks{}
	if test == "deliver" {
		if err := s.open(r.w); err != nil {
			return f, err
		}
		defer s.close()
	}
	if p.before != nil {
		if err := p.before(test); err != nil {
			return f, err
		}
	}
	if err := p.group.start(p.argv...); err != nil {
		return f, err
	}
	defer p.group.stop()
	address := r.w.addr(p.host, portMX)
	if err := ready(address); err != nil {
		return f, err
	}
	if _, err := r.bring(ctx, address, usual); err != nil { // warm: every account once
		return f, err
	}
	if err := s.await(ctx, test, usual); err != nil {
		return f, err
	}
	m := r.meter(&peer{group: p.group})
	lasted, err := r.bring(ctx, address, messages)
	if err != nil {
		return f, err
	}
	if err := s.await(ctx, test, usual+messages); err != nil {
		return f, err
	}
	sample := &sample{}
	cpu, took := m.stop(sample)
	f.rate, f.cpu, f.p50, f.others = float64(messages)/took.Seconds(), micro(cpu)/float64(messages), quantile(lasted, 0.5), sample.Others
	p.group.stop()
	return f, p.clean()
}

// await waits until the sinks have so many messages.
func (s *sinks) await(ctx context.Context, test string, n int) error {
	if test != "deliver" {
		return nil
	}
	for deadline := time.Now().Add(5 * time.Minute); s.taken.Load() < int64(n); time.Sleep(time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("%d of %d messages were delivered", s.taken.Load(), n)
		}
	}
	return nil
}

// bring sends messages by many sessions at once, and says how long each took.
func (r *runner) bring(ctx context.Context, address string, messages int) ([]time.Duration, error) {
	var left atomic.Int64
	left.Store(int64(messages))
	lasted, errs := make([][]time.Duration, mailSenders), make([]error, mailSenders)
	var wg sync.WaitGroup
	for i := range mailSenders {
		wg.Go(func() {
			for left.Load() > 0 && errs[i] == nil && ctx.Err() == nil {
				errs[i] = r.mailSession(i, address, &left, &lasted[i])
			}
		})
	}
	wg.Wait()
	return slices.Concat(lasted...), errors.Join(errors.Join(errs...), ctx.Err())
}

func (r *runner) mailSession(i int, address string, left *atomic.Int64, lasted *[]time.Duration) error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(r.w.ip(101 + i%20))}, Control: late, Timeout: patience}
	nc, err := d.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(2 * time.Minute))
	c := &client{p: &peer{name: address}, r: bufio.NewReader(nc), nc: nc}
	ask := func(line, good string) {
		if err == nil && line != "" {
			err = c.say(line)
		}
		if err == nil {
			err = c.reply(good)
		}
	}
	ask("", "220 ")
	ask("EHLO bench.example.net", "250 ")
	for range mailPerSession {
		if err != nil || left.Add(-1) < 0 {
			break
		}
		began := time.Now()
		ask("MAIL FROM:<a@example.net>", "250 ")
		ask("RCPT TO:<"+user(int(r.next.Add(1))%usual)+">", "250 ")
		ask("DATA", "354 ")
		ask(message, "250 ")
		*lasted = append(*lasted, time.Since(began))
	}
	ask("QUIT", "221 ")
	return err
}

// mailTable prints the medians.
func mailTable(to io.Writer, all []mailFigure, messages, rounds int) {
	fmt.Fprintf(to, "\n%d rounds of %d messages of 4 KiB, %d senders, %d messages a session; medians (least–most).\n", rounds, messages, mailSenders, mailPerSession)
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer w.Flush()
	fmt.Fprint(w, "test\tserver\tmessages/s\tleast–most\tµs CPU each\tp50 ms\tothers\t\n")
	for _, test := range []string{"deliver", "queue"} {
		var names []string
		for _, f := range all {
			if f.test == test && !slices.Contains(names, f.peer) {
				names = append(names, f.peer)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			of := func(field func(mailFigure) float64) (mid, low, high float64) {
				var v []float64
				for _, f := range all {
					if f.test == test && f.peer == name {
						v = append(v, field(f))
					}
				}
				slices.Sort(v)
				return v[len(v)/2], v[0], v[len(v)-1]
			}
			rate, low, high := of(func(f mailFigure) float64 { return f.rate })
			cpu, _, _ := of(func(f mailFigure) float64 { return f.cpu })
			p50, _, _ := of(func(f mailFigure) float64 { return f.p50 })
			others, _, _ := of(func(f mailFigure) float64 { return f.others })
			fmt.Fprintf(w, "%s\t%s\t%.0f\t%.0f–%.0f\t%.0f\t%.1f\t%.2f\t\n", test, name, rate, low, high, cpu, p50/1000, others)
		}
	}
}

// prepare writes a server's configuration.
func (p *mailPeer) prepare(w *world) error {
	p.dir = filepath.Join(w.dir, strings.ReplaceAll("mail-"+p.name, " ", "-"))
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return err
	}
	p.group = newGroup(p.dir, strings.ReplaceAll("mail-"+p.name, " ", "-"))
	if p.host == hostPostfix {
		return p.preparePostfix(w)
	}
	spool := ""
	if p.queues {
		spool = "spool: {dir: " + p.dir + "/spool}\n"
	}
	as := &peer{dir: p.dir, host: p.host}
	conf, err := as.file("mailmux.yaml", expand(mailConf, w, as, map[string]string{"SPOOL": spool}))
	p.argv = []string{filepath.Join(w.dir, "mailmux-daemon"), "serve", "-config", conf}
	p.clean = func() error { return os.RemoveAll(filepath.Join(p.dir, "spool")) }
	return err
}
