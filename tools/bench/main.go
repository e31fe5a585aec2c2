package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		if role := roles[os.Args[1]]; role != nil {
			fail(role(os.Args[2:]))
		}
	}
	r := &runner{}
	flag.IntVar(&r.rounds, "rounds", 5, "how often each test runs on each peer")
	flag.DurationVar(&r.long, "time", 2*time.Second, "how long one run lasts")
	only := flag.String("only", "", "tests to run, separated by commas; their names' beginnings will do")
	among := flag.String("peers", "", "peers to run them on")
	quick := flag.Bool("quick", false, "one round of half a second, with 2,000 accounts")
	flag.IntVar(&r.accounts, "accounts", 100_000, "how many accounts the directory has")
	flag.StringVar(&r.out, "out", "tools/bench", "where results.txt, samples.jsonl and figures/ go")
	flag.StringVar(&r.binary, "mailmux", "", "a mailmux to measure instead of one built from here")
	identity := flag.Bool("identity", true, "the backends offer ID and XCLIENT")
	flag.IntVar(&r.messages, "mail", 0, "measure only how messages come in, beside Postfix: so many in each run; needs root")
	flag.Parse()
	if *quick {
		r.rounds, r.long, r.accounts = 1, 500*time.Millisecond, 2000
	}
	r.accounts = max(r.accounts, 2*usual)
	r.tests = choose(tests(), *only, func(t *test) string { return t.name })
	r.peers = choose(peers(), *among, func(p *peer) string { return p.name })
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := r.run(ctx, *identity); err != nil {
		stop()
		fail(err)
	}
}

// choose keeps those that a list names by their beginnings, all for an empty list.
func choose[T any](all []T, list string, name func(T) string) []T {
	if list == "" {
		return all
	}
	var kept []T
	for _, one := range all {
		if slices.ContainsFunc(strings.Split(list, ","), func(begin string) bool { return strings.HasPrefix(name(one), begin) }) {
			kept = append(kept, one)
		}
	}
	return kept
}

// runner is one run of the program.
type runner struct {
	rounds, accounts int
	messages         int // of each run of the tests of mail, which run alone
	long             time.Duration
	out, binary      string
	tests            []*test
	peers            []*peer
	w                *world
	next             atomic.Int64 // account
	samples          []*sample
}

func (r *runner) run(ctx context.Context, identity bool) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil {
		limit.Cur = limit.Max // for the peers, which inherit it; for ourselves Go has done it
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
	dir, err := os.MkdirTemp("", "mailmux-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	os.Chmod(dir, 0o755) // peers that change their user read their files
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r.w = &world{dir: dir, self: self, accounts: r.accounts, identity: identity}
	if err := r.build(); err != nil {
		return err
	}
	defer r.w.close()
	if err := r.w.build(); err != nil {
		return err
	}
	if r.messages > 0 {
		return r.mail(ctx)
	}
	defer r.stopPeers()
	r.startPeers()
	if err := r.measure(ctx); err != nil {
		return err
	}
	return r.report()
}

// build makes the daemon.
func (r *runner) build() error {
	to := filepath.Join(r.w.dir, "mailmux-daemon")
	if r.binary != "" {
		path, err := filepath.Abs(r.binary)
		if err != nil {
			return err
		}
		return os.Symlink(path, to)
	}
	out, err := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, "./cmd/mailmux").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build mailmux (run this in the module's directory, or use -mailmux): %w\n%s", err, out)
	}
	return nil
}

// startPeers starts those that there are, and leaves the others out.
func (r *runner) startPeers() {
	r.peers = slices.DeleteFunc(r.peers, func(p *peer) bool {
		err := p.start(r.w)
		if err == nil {
			err = r.warm(p)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: without %s: %v\n", p.name, err)
			if p.group != nil {
				p.group.remove()
			}
		}
		return err != nil
	})
}

func (r *runner) stopPeers() {
	for _, p := range r.peers {
		if p.group != nil {
			p.group.remove()
		}
	}
}

// restart gives a peer fresh processes, which have not grown yet.
func (r *runner) restart(p *peer) error {
	p.group.stop()
	if err := p.start(r.w); err != nil {
		return fmt.Errorf("start %s again: %w", p.name, err)
	}
	return nil
}

// usual is how many accounts log in, again and again, where a test is not about cold caches.
const usual = 1000

// warm has each usual account log in once, so that every peer remembers it: the first samples would be about the
// directory otherwise. A slow peer that remembers nothing anyway is spared the most of it.
func (r *runner) warm(p *peer) error {
	t := &test{port: portIMAP, clients: 8}
	count := usual
	if p.name == "perdition" {
		count = 8
	}
	sessions, err := r.holdOpen(context.Background(), t, p, portIMAP, false, count)
	sessions.close()
	return err
}

// earlier reads the samples of earlier runs, without those that this one is to measure anew.
func (r *runner) earlier(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	lines := json.NewDecoder(bytes.NewReader(text))
	for err == nil {
		s := new(sample)
		if err = lines.Decode(s); err == nil && !slices.ContainsFunc(r.tests, func(t *test) bool { return t.name == s.Test }) {
			r.samples = append(r.samples, s)
		}
	}
	if err != io.EOF {
		return fmt.Errorf("read the samples of earlier runs in %s: %w", path, err)
	}
	return nil
}

// measure runs each test on one peer after the other, round for round. Each sample is kept as it comes; those of tests
// that do not run now stay.
func (r *runner) measure(ctx context.Context) error {
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	path := filepath.Join(r.out, "samples.jsonl")
	if err := r.earlier(path); err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := json.NewEncoder(file)
	for _, s := range r.samples {
		if err := lines.Encode(s); err != nil {
			return err
		}
	}
	for _, t := range r.tests {
		for round := range r.rounds {
			if t.rounds > 0 && round >= t.rounds {
				break
			}
			for i := range r.peers {
				p := r.peers[(i+round)%len(r.peers)] // who comes first should not matter
				if !t.suits(p) {
					continue
				}
				s, err := t.run(ctx, r, t, p)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					fmt.Fprintf(os.Stderr, "bench: %s on %s: %v\n", t.name, p.name, err)
					continue
				}
				s.Test, s.Peer, s.Round, s.Unit = t.name, p.name, round, t.unit
				r.samples = append(r.samples, s)
				if err := lines.Encode(s); err != nil {
					return err
				}
			}
		}
		r.print(os.Stdout, t)
	}
	return nil
}
