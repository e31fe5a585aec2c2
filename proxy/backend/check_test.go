package backend

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// quick are checks for tests on real sockets.
func quick() Settings {
	return Settings{Check: CheckConfig{Interval: 80 * time.Millisecond, Timeout: 300 * time.Millisecond}}
}

// eventually waits for something that has to come true.
func eventually(t *testing.T, what string, true func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !true(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in 20s: %s", what)
		}
	}
}

func TestChecksTellMembersApart(t *testing.T) {
	for name, c := range map[string]struct {
		service string
		talk    func(net.Conn)
		why     string // "" for a member that is up
	}{
		"imap":       {"imap", greetIMAP, ""},
		"preauth":    {"imap", func(c net.Conn) { io.WriteString(c, "* PREAUTH hi\r\n") }, ""},
		"pop3":       {"pop3", func(c net.Conn) { io.WriteString(c, "+OK\r\n") }, ""},
		"submission": {"submission", func(c net.Conn) { io.WriteString(c, "220-a\r\n220 b\r\n") }, ""},
		"lmtp":       {"lmtp", func(c net.Conn) { io.WriteString(c, "220 b\n") }, ""},
		"sieve":      {"sieve", func(c net.Conn) { io.WriteString(c, "\"IMPLEMENTATION\" \"x\"\r\nOK\r\n") }, ""},
		"wrong one":  {"imap", func(c net.Conn) { io.WriteString(c, "+OK\r\n") }, "greeting is not one of imap: \"+OK\""},
		"imap bye":   {"imap", func(c net.Conn) { io.WriteString(c, "* BYE\r\n") }, "greeting is not one of imap"},
		"silent":     {"imap", saysNothing, "timeout"},
		"garbage":    {"imap", talksGarbage, "greeting is not one of imap: \"HTTP/1.1 400"},
		"endless":    {"imap", talksEndlessly, "no line end in 8192 bytes"},
		"hangs up":   {"imap", hangsUp, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := member(t, serve(t, c.talk).address, quick(), Options{Services: []string{c.service}})
			i, _ := serviceIndex(c.service)
			err := m.check(context.Background(), i, m.settings.Load())
			if c.why == "" && err != nil || c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why)) {
				t.Errorf("the check says %v, want %q", err, c.why)
			}
		})
	}
}

func TestACheckOfImplicitTLS(t *testing.T) {
	a := newAuthority(t)
	for name, ok := range map[string]bool{"back1.example.com": true, "other.example.com": false} {
		config := a.server(t, name)
		f := serve(t, func(c net.Conn) { greetIMAP(tls.Server(c, config)) })
		settings := quick()
		settings.TLS, settings.TLSCAFile = "implicit", a.file
		m := member(t, f.address, settings, Options{})
		if err := m.check(context.Background(), imap, m.settings.Load()); (err == nil) != ok {
			t.Errorf("the check of a certificate of %s: %v", name, err)
		}
	}
}

// prober is a protocol's own check.
type prober func(ctx context.Context, c net.Conn, p Probe) ([]string, error)

func (f prober) Probe(ctx context.Context, c net.Conn, p Probe) ([]string, error) {
	return f(ctx, c, p)
}

func TestAProberLearnsCapabilities(t *testing.T) {
	a := newAuthority(t)
	settings := quick()
	settings.TLS, settings.TLSCAFile, settings.Check.User = "starttls", a.file, "probe"
	settings.Check.PasswordFile = a.file // any secret
	var got atomic.Pointer[Probe]
	m := member(t, serve(t, greetIMAP).address, settings, Options{Services: []string{"imap"}, Probers: map[string]Prober{
		"imap": prober(func(_ context.Context, c net.Conn, p Probe) ([]string, error) {
			got.Store(&p)
			_, err := readLine(c, 100)
			return []string{"IMAP4rev1", "ID"}, err
		})}})
	m.table.Start(context.Background())
	eventually(t, "the member shows its capabilities", func() bool { return len(m.table.Seen("imap")) == 1 })
	p := got.Load()
	if p.Service != "imap" || p.Mode != StartTLS || p.TLS == nil || p.User != "probe" || p.Password == "" || p.Host != "back1.example.com" {
		t.Errorf("the probe is %v with %v and user %q", p, p.TLS, p.User)
	}
}

// TestAKilledMemberIsOutAndBack: with the default intervals, and without any session.
func TestAKilledMemberIsOutAndBack(t *testing.T) {
	f := serve(t, greetIMAP)
	m := member(t, f.address, Settings{}, Options{Services: []string{"imap"}})
	m.table.Start(context.Background())
	eventually(t, "the first check", func() bool { return m.Status().Services[0].State == "up" })
	f.stop()
	killed := time.Now()
	eventually(t, "the killed member is out", func() bool { return !m.Available("imap") })
	out := time.Since(killed)
	t.Logf("out %s after it was killed", out.Round(time.Millisecond))
	if out > 6*time.Second { // three are promised, see below; a busy machine adds its own
		t.Errorf("it took %s", out)
	}
	serveAt(t, f.address, greetIMAP)
	back := time.Now()
	eventually(t, "the member that was started is back", func() bool { return m.Available("imap") })
	t.Logf("back %s after it was started", time.Since(back).Round(time.Millisecond))
	if time.Since(back) > 4*time.Second {
		t.Errorf("it took %s", time.Since(back))
	}
}

// TestHowSoonAKillIsSeen kills and starts a member at any instant, a hundred times, and prints the distribution.
func TestHowSoonAKillIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{}
		var killed atomic.Bool
		tab := table(t, cluster("hash", 1), Options{Services: []string{"imap"}})
		tab.reach = func(ctx context.Context, m *Member, i int) (net.Conn, error) {
			if killed.Load() {
				return nil, syscall.ECONNREFUSED
			}
			return p.reach(ctx, m, i)
		}
		tab.Start(context.Background())
		m := host(t, tab, "east").Members()[0]
		until := func(up bool) time.Duration {
			began := time.Now()
			for m.Available("imap") != up {
				time.Sleep(time.Millisecond)
			}
			return time.Since(began)
		}
		var outs, backs []time.Duration
		for n := range 100 {
			time.Sleep(10*time.Second + time.Duration(n)*37*time.Millisecond)
			killed.Store(true)
			outs = append(outs, until(false))
			time.Sleep(5*time.Second + time.Duration(n)*37*time.Millisecond)
			killed.Store(false)
			backs = append(backs, until(true))
		}
		tab.Close()
		p.work.Wait()
		slices.Sort(outs)
		slices.Sort(backs)
		t.Logf("out after %s to %s, half of them within %s", outs[0], outs[99], outs[50])
		t.Logf("back after %s to %s, half of them within %s", backs[0], backs[99], backs[50])
		if outs[99] > 3*time.Second || backs[99] > time.Second {
			t.Error("a kill has to be seen in 3s, a return in 1s")
		}
	})
}

func TestASessionThatFailsBringsTheCheckForward(t *testing.T) {
	f := serve(t, greetIMAP)
	m := member(t, f.address, Settings{}, Options{Services: []string{"imap"}})
	m.table.Start(context.Background())
	eventually(t, "the first check", func() bool { return m.Status().Services[0].State == "up" })
	f.stop()
	killed := time.Now()
	if _, err := m.Dial(context.Background(), "imap", DialInfo{}); err == nil {
		t.Fatal("the killed member answers")
	}
	eventually(t, "the killed member is out", func() bool { return !m.Available("imap") })
	t.Logf("out %s after the session that found it", time.Since(killed).Round(time.Millisecond))
	if time.Since(killed) > 1500*time.Millisecond { // without the session two seconds pass before the first check
		t.Errorf("it took %s although a session had found it", time.Since(killed))
	}
}

func TestAgent(t *testing.T) {
	var words atomic.Value
	words.Store("up 75%\n")
	agent := serve(t, func(c net.Conn) {
		line, _ := readLine(c, 100)
		if string(line) == "state?" {
			io.WriteString(c, words.Load().(string))
		}
	})
	settings := quick()
	settings.Check.AgentPort = int(netip.MustParseAddrPort(agent.address).Port())
	settings.Check.AgentSend = "state?"
	m := member(t, serve(t, greetIMAP).address, settings, Options{Services: []string{"imap"}})
	m.table.Start(context.Background())
	for _, c := range []struct {
		words, state string
		available    bool
		load         int
	}{
		{"up 75%\n", "up 75%", true, 75},
		{"drain\r\n", "drain", false, 75},
		{"ready 50%\r\n", "ready 50%", true, 50},
		{"down#disk is full\n", "down#disk is full", false, 50},
		{"50%\n", "50%", false, 50}, // down until it says up
		{"up,100%", "up,100%", true, 100},
		{"0%\n", "0%", false, 0},
		{"10%", "10%", true, 10},
		{"gibberish\n", "10%", true, 10},
	} {
		words.Store(c.words)
		eventually(t, c.words, func() bool {
			s := m.Status()
			return s.Agent == c.state && s.Load == c.load && m.Available("imap") == c.available
		})
	}
	eventually(t, "the fault shows", func() bool { return strings.Contains(m.Status().AgentWhy, "gibberish") })
	agent.stop()
	eventually(t, "the agent's end shows", func() bool { return strings.Contains(m.Status().AgentWhy, "refused") })
	if !m.Available("imap") {
		t.Error("a silent agent takes its member out")
	}
}

func TestParseReport(t *testing.T) {
	for line, want := range map[string]string{
		"up":                  "up",
		"READY UP 10%":        "ready up 10%",
		"maint":               "maint",
		"fail #no, 5% disk":   "fail",
		"maxconn:30 stopped":  "stopped",
		"100%,ready\tup":      "ready up 100%",
		"99999999%":           "25600%",
		"up#all 7 of 9 works": "up",
	} {
		r, err := parseReport(line)
		var got []string
		for _, w := range []string{r.admin, r.oper} {
			if w != "" {
				got = append(got, w)
			}
		}
		if r.percent != nil {
			got = append(got, itoa(*r.percent)+"%")
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("parseReport(%q) = %q, %v, want %q", line, got, err, want)
		}
	}
	for _, line := range []string{"", " ", "hello", "-5%", "x%", "up down?"} {
		if r, err := parseReport(line); err == nil {
			t.Errorf("parseReport(%q) = %+v", line, r)
		}
	}
}

func FuzzParseReport(f *testing.F) {
	f.Add("up 75%,drain#x")
	f.Fuzz(func(t *testing.T, line string) {
		if r, err := parseReport(line); err == nil && r.percent != nil && (*r.percent < 0 || *r.percent > 25600) {
			t.Errorf("share is %d", *r.percent)
		}
	})
}

// pipes lets checks talk to members in memory, so that time can be synthetic.
type pipes struct {
	work  sync.WaitGroup
	mu    sync.Mutex
	now   int // checks under way
	most  int
	total int
	hang  bool
}

func (p *pipes) reach(ctx context.Context, _ *Member, _ int) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now++
	p.total++
	p.most = max(p.most, p.now)
	hang := p.hang
	ours, theirs := net.Pipe()
	p.work.Go(func() {
		defer theirs.Close()
		if hang {
			<-ctx.Done()
			return
		}
		time.Sleep(time.Millisecond)
		io.WriteString(theirs, "* OK\r\n")
		io.Copy(io.Discard, io.LimitReader(theirs, 10))
	})
	return &pipe{Conn: ours, of: p}, nil
}

// pipe counts itself out when it is closed.
type pipe struct {
	net.Conn
	of   *pipes
	once sync.Once
}

func (c *pipe) Close() error {
	c.once.Do(func() {
		c.of.mu.Lock()
		defer c.of.mu.Unlock()
		c.of.now--
	})
	return c.Conn.Close()
}

// crowd is a table of many hosts with four members each.
func crowd(hosts int) Config {
	cfg := Config{Hosts: make(map[string]HostConfig)}
	for i := range hosts {
		cfg.Hosts["host"+itoa(i)] = HostConfig{Members: members("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")}
	}
	return cfg
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

// TestAThousandHostsAreCheckedWithinBounds: four thousand members, by default two thousand checks a second would be due.
func TestAThousandHostsAreCheckedWithinBounds(t *testing.T) {
	for name, hang := range map[string]bool{"all well": false, "all hang": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &pipes{hang: hang}
				tab := table(t, crowd(1000), Options{Services: []string{"imap"}})
				tab.reach = p.reach
				before := runtime.NumGoroutine()
				tab.Start(context.Background())
				time.Sleep(10 * time.Second)
				goroutines := runtime.NumGoroutine() - before
				p.mu.Lock()
				most, rate := p.most, p.total/10
				p.mu.Unlock()
				t.Logf("%d at once, %d a second, %s late, %d goroutines", most, rate, tab.CheckLag().Round(time.Millisecond), goroutines)
				if most > defaultMaxChecks || rate > defaultChecksPerSecond {
					t.Errorf("%d at once and %d a second, want at most %d and %d", most, rate, defaultMaxChecks, defaultChecksPerSecond)
				}
				if !hang && rate < defaultChecksPerSecond*9/10 {
					t.Errorf("only %d a second", rate)
				}
				if hang && rate < 50 { // each takes its two seconds
					t.Errorf("only %d a second", rate)
				}
				tab.Close()
				p.work.Wait()
			})
		})
	}
}

// TestTheIntervalHolds: ten members, well within the bounds, are checked every two seconds, never two at once.
func TestTheIntervalHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		at := make(map[string][]time.Time)
		tab := table(t, cluster("hash", 1, 1, 1, 1, 1, 1, 1, 1, 1, 1), Options{Services: []string{"imap"}})
		p := &pipes{}
		tab.reach = func(ctx context.Context, m *Member, i int) (net.Conn, error) {
			mu.Lock()
			at[m.name] = append(at[m.name], time.Now())
			mu.Unlock()
			return p.reach(ctx, m, i)
		}
		tab.Start(context.Background())
		time.Sleep(time.Minute)
		tab.Close()
		p.work.Wait()
		var pauses []time.Duration
		for name, times := range at {
			if len(times) < 27 || len(times) > 34 {
				t.Errorf("%s was checked %d times in a minute, want 30", name, len(times))
			}
			for k := 1; k < len(times); k++ {
				pauses = append(pauses, times[k].Sub(times[k-1]))
			}
		}
		slices.Sort(pauses)
		if first, last := pauses[0], pauses[len(pauses)-1]; first < 1800*time.Millisecond || last > 2300*time.Millisecond || last-first < 100*time.Millisecond {
			t.Errorf("pauses are %s to %s, want 2s and a tenth of jitter either way", first, last)
		}
	})
}

func TestOneServiceAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{hang: true}
		tab := table(t, cluster("hash", 1), Options{})
		tab.reach = p.reach
		tab.Start(context.Background())
		time.Sleep(30 * time.Second)
		tab.Close()
		p.work.Wait()
		if p.most != 1 || p.total < numServices {
			t.Errorf("%d checks of one member at once, %d in all", p.most, p.total)
		}
	})
}

func TestChecksFollowAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		count := make(map[string]int)
		tab := table(t, cluster("hash", 1, 1), Options{Services: []string{"imap"}})
		tab.reach = func(_ context.Context, m *Member, _ int) (net.Conn, error) {
			mu.Lock()
			count[m.name]++
			mu.Unlock()
			return nil, syscall.ECONNREFUSED
		}
		tab.Start(context.Background())
		time.Sleep(10 * time.Second)
		cfg := cluster("hash", 1, 1, 1)
		row := cfg.Hosts["east"]
		row.Members = row.Members[1:]
		cfg.Hosts["east"] = row
		if err := tab.Update(cfg); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		clear(count)
		mu.Unlock()
		time.Sleep(10 * time.Second)
		tab.Close()
		if count["10.0.0.1"] != 0 || count["10.0.0.2"] == 0 || count["10.0.0.3"] == 0 {
			t.Errorf("after the reload members were checked %v times", count)
		}
	})
}

func TestServicesThatAreCheckedNoMoreAreNotDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := table(t, cluster("hash", 1), Options{Services: []string{"imap", "pop3"}})
		tab.reach = func(context.Context, *Member, int) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
		tab.Start(context.Background())
		time.Sleep(10 * time.Second)
		m := host(t, tab, "east").Members()[0]
		if m.Available("imap") || m.Available("pop3") || !m.Available("sieve") {
			t.Error("imap and pop3 have to be down, sieve is not checked")
		}
		if err := tab.SetServices([]string{"imap", "sieve"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if m.Available("imap") || !m.Available("pop3") || m.Available("sieve") {
			t.Error("imap and sieve have to be down, pop3 is not checked any more")
		}
		if err := tab.SetServices([]string{"http"}); !errors.Is(err, ErrService) {
			t.Errorf("SetServices of none: %v", err)
		}
		tab.Close()
	})
}

func TestOurOwnShortageTakesNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := table(t, cluster("hash", 1), Options{Services: []string{"imap"}})
		var broken atomic.Bool
		tab.reach = func(context.Context, *Member, int) (net.Conn, error) {
			if broken.Load() {
				return nil, errors.New("connection refused")
			}
			return nil, &net.OpError{Op: "dial", Err: syscall.EMFILE}
		}
		tab.Start(context.Background())
		time.Sleep(time.Minute)
		m := host(t, tab, "east").Members()[0]
		if !m.Available("imap") {
			t.Error("no descriptors were left, and the member is down")
		}
		broken.Store(true)
		time.Sleep(5 * time.Second)
		if m.Available("imap") {
			t.Error("the member is refused and still up")
		}
		tab.Close()
	})
}

// TestAServerOfAThousandHostsDies: four thousand members are more than the bounds allow for, and a thousand of them fail
// together. Confirming that goes before looking at the others, which are looked at all the same.
func TestAServerOfAThousandHostsDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{}
		var killed atomic.Bool
		tab := table(t, crowd(1000), Options{Services: []string{"imap"}})
		tab.reach = func(ctx context.Context, m *Member, i int) (net.Conn, error) {
			if killed.Load() && m.Name() == "10.0.0.2" {
				return nil, syscall.ECONNREFUSED
			}
			return p.reach(ctx, m, i)
		}
		tab.Start(context.Background())
		time.Sleep(20 * time.Second)
		lag := tab.CheckLag()
		killed.Store(true)
		began := time.Now()
		down := func() (n int) {
			tab.all(func(h *Host) {
				if !h.Member("10.0.0.2").Available("imap") {
					n++
				}
			})
			return n
		}
		for down() < 1000 && time.Since(began) < time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		took := time.Since(began)
		time.Sleep(30 * time.Second)
		t.Logf("intervals are %.1f times as long; %s late before; all 1000 out within %s; %s late after", tab.CheckFactor(),
			lag.Round(time.Millisecond), took.Round(100*time.Millisecond), tab.CheckLag().Round(time.Millisecond))
		if took > 10*time.Second || lag > time.Second || tab.CheckLag() > time.Second {
			t.Error("the bounds delay the checks for too long")
		}
		tab.Close()
		p.work.Wait()
	})
}
