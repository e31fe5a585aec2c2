package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"mailmux/tools/certs/pki"
)

// test is one measurement.
type test struct {
	name, title, unit string
	run               func(ctx context.Context, r *runner, t *test, p *peer) (*sample, error)
	session           func(c *client, ctx context.Context, t *test, account int) error
	port              string
	tls, startTLS     bool
	resume            bool
	rsa               bool
	clients           int
	size              int // of a literal, or how many sessions are held
	cold              bool
	only              []string // peers, nil for all but nginx-32k
	rounds            int      // at most
}

func tests() []*test {
	imap := (*client).imap
	login := func(t test) *test {
		t.unit, t.run, t.clients = "µs CPU", storm, 128
		return &t
	}
	alone := func(t test) *test {
		t.unit, t.run, t.clients, t.session = "µs p50", storm, 1, imap
		return &t
	}
	relay := func(t test) *test {
		t.unit, t.run, t.clients, t.only = "ms CPU/MB", stream, 8, relaying
		return &t
	}
	idle := func(t test) *test {
		t.unit, t.run, t.clients, t.only, t.rounds = "KiB", hold, 16, relaying, 1 // it hardly varies
		return &t
	}
	return []*test{
		login(test{name: "imap-plain", title: "IMAP login in the clear", session: imap, port: portIMAP}),
		login(test{name: "imap-starttls", title: "IMAP login, STARTTLS", session: imap, port: portIMAP, startTLS: true,
			only: []string{"mailmux", "nginx", "dovecot"}}),
		login(test{name: "imap-tls", title: "IMAP login, TLS 1.3, ECDSA, full handshake", session: imap, port: portIMAPS, tls: true}),
		login(test{name: "imap-tls-resumed", title: "IMAP login, TLS 1.3, resumed", session: imap, port: portIMAPS, tls: true, resume: true}),
		login(test{name: "imap-tls-rsa", title: "IMAP login, TLS 1.3, RSA-2048, full handshake", session: imap, port: portRSA, tls: true, rsa: true}),
		login(test{name: "imap-cold", title: "IMAP login in the clear, each account for the first time", session: imap, port: portIMAP, cold: true,
			only: []string{"mailmux", "nginx", "dovecot", "perdition"}}),
		login(test{name: "pop3-plain", title: "POP3 login in the clear", session: (*client).pop3, port: portPOP3}),
		login(test{name: "submission", title: "Submission of one 4 KiB message", session: (*client).submission, port: portSubmission}),
		login(test{name: "lmtp", title: "LMTP delivery of one 4 KiB message", session: (*client).lmtp, port: portLMTP}),
		relay(test{name: "relay-plain-4m", title: "Relay of 4 MiB literals in the clear", port: portIMAP, size: 4 << 20}),
		relay(test{name: "relay-plain-1m", title: "Relay of 1 MiB literals in the clear", port: portIMAP, size: 1 << 20}),
		relay(test{name: "relay-tls-4m", title: "Relay of 4 MiB literals, TLS", port: portIMAPS, tls: true, size: 4 << 20}),
		relay(test{name: "relay-tls-1m", title: "Relay of 1 MiB literals, TLS", port: portIMAPS, tls: true, size: 1 << 20}),
		alone(test{name: "alone-plain", title: "One IMAP session after the other in the clear", port: portIMAP}),
		alone(test{name: "alone-tls", title: "One IMAP session after the other, TLS", port: portIMAPS, tls: true}),
		{name: "noop-plain", title: "One NOOP after the other in one session in the clear", unit: "µs p50", run: ping, clients: 1, port: portIMAP},
		{name: "noop-tls", title: "One NOOP after the other in one session, TLS", unit: "µs p50", run: ping, clients: 1, port: portIMAPS, tls: true},
		idle(test{name: "idle-plain-2000", title: "Memory of each of 2,000 idle sessions in the clear", port: portIMAP, size: 2000}),
		idle(test{name: "idle-plain-9000", title: "Memory of each of 9,000 idle sessions in the clear", port: portIMAP, size: 9000}),
		idle(test{name: "idle-tls-2000", title: "Memory of each of 2,000 idle sessions, TLS", port: portIMAPS, tls: true, size: 2000}),
		idle(test{name: "idle-tls-9000", title: "Memory of each of 9,000 idle sessions, TLS", port: portIMAPS, tls: true, size: 9000}),
		{name: "imap-beside-8000", title: "IMAP login in the clear beside 8,000 idle sessions", session: imap, port: portIMAP, size: 8000,
			unit: "µs CPU", run: beside, clients: 128, rounds: 1, only: []string{"mailmux", "nginx", "dovecot", "haproxy"}},
	}
}

// relaying are the peers that tests of relaying and of memory run on.
var relaying = []string{"mailmux", "nginx", "nginx-32k", "dovecot", "haproxy", "gofloor", "direct"}

// suits says whether a test means anything for a peer.
func (t *test) suits(p *peer) bool {
	switch {
	case !p.has(t.port), t.only == nil && p.name == "nginx-32k", t.only != nil && !slices.Contains(t.only, p.name):
		return false
	case p.prepare == nil:
		return t.unit != "KiB" && !t.cold // there is no process whose memory counts
	}
	return true
}

// sample is what one run of a test on one peer gave.
type sample struct {
	Test   string  `json:"test"`
	Peer   string  `json:"peer"`
	Round  int     `json:"round"`
	Unit   string  `json:"unit"`
	Value  float64 `json:"value"`          // in the unit
	Rate   float64 `json:"rate,omitempty"` // operations, or MB, a second
	P50    float64 `json:"p50,omitempty"`  // of an operation, µs
	P99    float64 `json:"p99,omitempty"`
	P999   float64 `json:"p999,omitempty"`
	Greet  float64 `json:"greet,omitempty"` // to the greeting, µs p50
	Login  float64 `json:"login,omitempty"` // from there to the end of the login
	Noop   float64 `json:"noop,omitempty"`  // a round trip behind it
	CPU    float64 `json:"cpu,omitempty"`   // µs an operation, where it is not the value
	Slab   float64 `json:"slab,omitempty"`  // KiB of the kernel's for each session, client's and backend's included
	Left   float64 `json:"left,omitempty"`  // KiB for each session after its end
	FDs    float64 `json:"fds,omitempty"`   // descriptors for each session
	Others float64 `json:"others"`          // CPUs that were busy with something else
	Ops    int64   `json:"ops"`
	Errors int64   `json:"errors,omitempty"`
}

// meter measures a stretch of time.
type meter struct {
	r         *runner
	p         *peer
	began     time.Time
	cpu, ours time.Duration
	all       time.Duration
}

func (r *runner) meter(p *peer) *meter {
	m := &meter{r: r, p: p, began: time.Now()}
	m.cpu, m.ours, m.all = m.now()
	return m
}

func (m *meter) now() (peer, ours, all time.Duration) {
	if m.p.group != nil {
		peer = m.p.group.cpu()
	}
	var ru syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	ours = peer + m.r.w.stubs.cpu() + m.r.w.slapd.cpu() + time.Duration(ru.Utime.Nano()+ru.Stime.Nano())
	return peer, ours, busy()
}

// stop fills in what can be said of any test.
func (m *meter) stop(s *sample) (cpu, took time.Duration) {
	took = time.Since(m.began)
	peer, ours, all := m.now()
	s.Others = max(0, ((all-m.all)-(ours-m.ours)).Seconds()/took.Seconds())
	return peer - m.cpu, took
}

// account is who logs in next.
func (r *runner) account(t *test) int {
	n := int(r.next.Add(1))
	if !t.cold {
		return n % usual
	}
	return usual + n%(r.w.accounts-usual)
}

func (r *runner) clients(t *test, p *peer) []*client {
	var cache tls.ClientSessionCache
	name := certName(pki.ECDSA)
	if t.rsa {
		name = certName(pki.RSA)
	}
	var list []*client
	for i := range t.clients {
		if t.resume {
			cache = tls.NewLRUClientSessionCache(4)
		}
		list = append(list, newClient(r.w, p, i, cache, name))
	}
	return list
}

// storm has clients log in one session after the other.
func storm(ctx context.Context, r *runner, t *test, p *peer) (*sample, error) {
	clients := r.clients(t, p)
	var ops, bad atomic.Int64
	var first atomic.Value
	lasted := make([][]time.Duration, len(clients))
	parts := make([][][3]time.Duration, len(clients))
	s := &sample{}
	m := r.meter(p)
	end := m.began.Add(r.long)
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			for time.Now().Before(end) && ctx.Err() == nil {
				began := time.Now()
				err := t.session(c, ctx, t, r.account(t))
				c.close()
				if err != nil {
					bad.Add(1)
					first.CompareAndSwap(nil, err.Error())
					if bad.Load() > 20 {
						return
					}
					continue
				}
				ops.Add(1)
				lasted[i] = append(lasted[i], time.Since(began))
				parts[i] = append(parts[i], c.parts)
			}
		})
	}
	wg.Wait()
	cpu, took := m.stop(s)
	s.Ops, s.Errors = ops.Load(), bad.Load()
	if s.Ops == 0 || s.Errors > s.Ops/100 {
		return nil, fmt.Errorf("%d of %d sessions failed: %v", s.Errors, s.Ops+s.Errors, first.Load())
	}
	s.Rate = float64(s.Ops) / took.Seconds()
	s.CPU = micro(cpu) / float64(s.Ops)
	s.latencies(slices.Concat(lasted...), slices.Concat(parts...))
	if s.Value = s.CPU; t.clients == 1 {
		s.Value = s.P50
	}
	return s, nil
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func (s *sample) latencies(all []time.Duration, parts [][3]time.Duration) {
	s.P50, s.P99, s.P999 = quantile(all, 0.5), quantile(all, 0.99), quantile(all, 0.999)
	for i, into := range []*float64{&s.Greet, &s.Login, &s.Noop} {
		var list []time.Duration
		for _, p := range parts {
			list = append(list, p[i])
		}
		*into = quantile(list, 0.5)
	}
}

func quantile(list []time.Duration, q float64) float64 {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return micro(list[min(int(q*float64(len(list))), len(list)-1)])
}

// stream has sessions that are logged in fetch literals.
func stream(ctx context.Context, r *runner, t *test, p *peer) (*sample, error) {
	clients := r.clients(t, p)
	defer func() {
		for _, c := range clients {
			c.close()
		}
	}()
	for _, c := range clients {
		if err := c.imapLogin(ctx, t, r.account(t)); err != nil {
			return nil, err
		}
		if err := c.fetch(t.size); err != nil { // connections find their windows first
			return nil, err
		}
	}
	s := &sample{}
	errs := make([]error, len(clients))
	var ops atomic.Int64
	m := r.meter(p)
	end := m.began.Add(r.long)
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			for time.Now().Before(end) && ctx.Err() == nil && errs[i] == nil {
				if errs[i] = c.fetch(t.size); errs[i] == nil {
					ops.Add(1)
				}
			}
		})
	}
	wg.Wait()
	cpu, took := m.stop(s)
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	s.Ops = ops.Load()
	megabytes := float64(s.Ops) * float64(t.size) / 1e6
	s.Value, s.Rate = cpu.Seconds()*1000/megabytes, megabytes/took.Seconds()
	return s, ctx.Err()
}

// ping measures the round trip of a small command in a session that is logged in.
func ping(ctx context.Context, r *runner, t *test, p *peer) (*sample, error) {
	c := r.clients(t, p)[0]
	defer c.close()
	if err := c.imapLogin(ctx, t, r.account(t)); err != nil {
		return nil, err
	}
	var trips []time.Duration
	s := &sample{}
	m := r.meter(p)
	for end := m.began.Add(r.long); time.Now().Before(end) && ctx.Err() == nil; {
		asked := time.Now()
		if _, err := c.ask("n NOOP", "n ", "OK"); err != nil {
			return nil, err
		}
		trips = append(trips, time.Since(asked))
	}
	cpu, took := m.stop(s)
	s.Ops = int64(len(trips))
	s.Rate, s.CPU = float64(s.Ops)/took.Seconds(), micro(cpu)/float64(s.Ops)
	s.latencies(trips, nil)
	s.Value = s.P50
	return s, ctx.Err()
}
