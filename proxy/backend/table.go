package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Table is the host table. Its methods may be called from many goroutines.
type Table struct {
	options  Options
	log      *slog.Logger
	services atomic.Uint64 // mask of those that are checked

	hosts      atomic.Pointer[map[string]*Host]
	generation atomic.Uint64 // of what Learn was told
	seen       [numServices]atomic.Pointer[seen]
	resolver   atomic.Pointer[Resolver]
	factor     atomic.Pointer[float64] // see CheckFactor

	mu     sync.Mutex // one change of the table at a time
	config Config
	wishes map[string]wish // by host or host/member, for members that are yet to come, too
	// decided is what the frontends' controller has decided down, with the reason, by host/member.
	decided map[string]string

	checks   *scheduler
	sources  *scheduler
	work     sync.WaitGroup
	stop     context.CancelFunc
	reach    func(ctx context.Context, m *Member, service int) (net.Conn, error)
	starting sync.Once
}

// Options are what a table needs beside its configuration. All of them may be absent.
type Options struct {
	// Logger is told when members go down and come up.
	Logger *slog.Logger
	// Services are those to be checked: the ones that listeners need. All of them when nil.
	Services []string
	// Probers speak the services' protocols for the checks, by service. Without one a check reads the greeting.
	Probers map[string]Prober
	// Self says whether an address is that of a listener of this process; dialing it is ErrLoop.
	Self func(netip.AddrPort) bool
	// Resolver looks names up where backend.dns_servers names no servers: the system's when nil.
	Resolver Resolver
	// Source reads members from the directory.
	Source Source
	// Changed is told of changes, from the goroutine that saw them; it must not block. It may use the table.
	Changed func(Event)
	// StateFile keeps the operator's wishes over restarts: they are forgotten when it is "".
	StateFile string
}

// Resolver looks names up. *net.Resolver is one. Its methods may be called from many goroutines.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// Source reads the values of an attribute of one entry of the directory. An error is an outage; an entry that is not
// there is an error, too. Its method may be called from many goroutines.
type Source interface {
	Values(ctx context.Context, entry, attribute string) ([]string, error)
}

// New makes the table of a valid configuration and reads the files that it names. Nothing is dialed before Start.
func New(cfg Config, options Options) (*Table, error) {
	t := &Table{options: options, log: options.Logger, wishes: make(map[string]wish)}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	if options.Resolver == nil {
		t.options.Resolver = net.DefaultResolver
	}
	mask, err := serviceMask(options.Services)
	if err != nil {
		return nil, err
	}
	t.services.Store(mask)
	t.reach = reachMember
	t.checks = newScheduler(cfg.Backend.maxChecks(), cfg.Backend.checksPerSecond())
	t.sources = newScheduler(sourcesAtOnce, defaultChecksPerSecond)
	t.hosts.Store(&map[string]*Host{})
	if err := t.loadWishes(); err != nil {
		return nil, err
	}
	return t, t.Update(cfg)
}

// serviceMask is the mask of the services named, of all when nil.
func serviceMask(names []string) (uint64, error) {
	if names == nil {
		return 1<<numServices - 1, nil
	}
	mask := uint64(0)
	for _, name := range names {
		i, ok := serviceIndex(name)
		if !ok {
			return 0, fmt.Errorf("%w: %q, there are %s", ErrService, name, serviceNames())
		}
		mask |= 1 << i
	}
	return mask, nil
}

// SetServices says anew which services are checked, as Options.Services does: a reload may have brought listeners. What
// the checks of a service said that is checked no more is forgotten, for nothing would ever change it.
func (t *Table) SetServices(names []string) error {
	mask, err := serviceMask(names)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.services.Swap(mask) == mask {
		return nil
	}
	t.all(func(h *Host) {
		for _, s := range h.row.Load().seats {
			s.member.forgetChecks(^mask)
			t.checks.at(s.member.task, time.Now())
		}
	})
	t.pace()
	return nil
}

func (d Defaults) maxChecks() int {
	or(&d.MaxChecks, defaultMaxChecks)
	return d.MaxChecks
}

func (d Defaults) checksPerSecond() int {
	or(&d.ChecksPerSecond, defaultChecksPerSecond)
	return d.ChecksPerSecond
}

// Start begins the checks and the polling of sources, which go on until ctx ends or Close is called.
func (t *Table) Start(ctx context.Context) {
	t.starting.Do(func() {
		ctx, stop := context.WithCancel(ctx)
		t.mu.Lock()
		t.stop = stop
		t.mu.Unlock()
		t.work.Go(func() { t.checks.run(ctx) })
		t.work.Go(func() { t.sources.run(ctx) })
	})
}

// Close ends the checks and waits for them. The table goes on choosing and dialing without them.
func (t *Table) Close() {
	t.starting.Do(func() {}) // no Start after it
	t.mu.Lock()
	stop := t.stop
	t.mu.Unlock()
	if stop != nil {
		stop()
	}
	t.work.Wait()
}

// Host finds a row by the name that an account has in hostServer, without case. The error is an *UnknownHostError.
func (t *Table) Host(name string) (*Host, error) {
	hosts := *t.hosts.Load()
	if h := hosts[name]; h != nil { // most names are in lower case already
		return h, nil
	}
	if h := hosts[canonical(name)]; h != nil {
		return h, nil
	}
	return nil, &UnknownHostError{Name: name, Nearest: nearest(canonical(name), maps.Keys(hosts))}
}

// Names are the names of all hosts, sorted.
func (t *Table) Names() []string { return slices.Sorted(maps.Keys(*t.hosts.Load())) }

// all calls f for each host, by name.
func (t *Table) all(f func(h *Host)) {
	hosts := *t.hosts.Load()
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		f(hosts[name])
	}
}

// Update puts a new configuration in place, or keeps the old one and says why. The states, counts and wishes of members
// that stay survive; what the DNS and the directory said of sources that stay does, too.
func (t *Table) Update(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	t.mu.Lock()
	resolver := t.options.Resolver
	if len(cfg.Backend.DNSServers) > 0 {
		servers, err := newDNSServers(cfg.Backend.DNSServers)
		if err != nil {
			t.mu.Unlock()
			return err
		}
		resolver = servers
	}
	plans, err := t.plan(cfg)
	if err != nil {
		t.mu.Unlock()
		return err
	}
	t.resolver.Store(&resolver)
	old := *t.hosts.Load()
	hosts := make(map[string]*Host, len(plans))
	var left []*Member
	for name, p := range plans {
		h := old[name]
		if h == nil {
			h = &Host{table: t, name: name}
		}
		left = append(left, t.settle(h, p)...)
		hosts[name] = h
	}
	for name, h := range old {
		if hosts[name] == nil {
			left = append(left, t.retire(h)...)
		}
	}
	t.config = cfg
	t.checks.bound(cfg.Backend.maxChecks(), cfg.Backend.checksPerSecond())
	t.hosts.Store(&hosts)
	t.pace()
	t.generation.Add(1)
	t.mu.Unlock()
	t.tellLeft(left)
	return nil
}

// plan is what a host's row is to become.
type plan struct {
	config  HostConfig
	sources []*source
	specs   []spec
	made    []*effective // one a spec
}

// plan reads every file and makes the settings of every member, so that an Update that fails changes nothing. mu is
// held.
func (t *Table) plan(cfg Config) (map[string]plan, error) {
	f := newFiles()
	said := make(map[string]bool)
	var errs []error
	plans := make(map[string]plan, len(cfg.Hosts))
	base := cfg.Backend.Settings.under(builtin())
	for _, name := range slices.Sorted(maps.Keys(cfg.Hosts)) {
		p, err := t.planHost(canonical(name), cfg.Hosts[name], base, f)
		if err != nil && !said[err.Error()] {
			said[err.Error()] = true // a file that is missing is missing for every member
			errs = append(errs, fmt.Errorf("hosts.%s: %w", name, err))
		}
		plans[canonical(name)] = p
	}
	return plans, errors.Join(errs...)
}

// planHost is the plan for one row. mu is held.
func (t *Table) planHost(name string, row HostConfig, base Settings, f *files) (plan, error) {
	p := plan{config: row}
	var known []*source
	if h := (*t.hosts.Load())[name]; h != nil {
		known = h.row.Load().sources
	}
	base = row.Settings.under(base)
	for _, m := range row.Members {
		if m.Address == "" {
			s := t.source(m, m.Settings.under(base), known)
			p.sources = append(p.sources, s)
			p.specs = append(p.specs, s.specs(m, base, p.specs)...)
			continue
		}
		a, err := parseAddress(m.Address)
		if err != nil {
			return p, err
		}
		p.specs = append(p.specs, m.spec(m.name(), a, base))
	}
	for _, s := range p.specs {
		e, err := f.compile(name, s)
		if err != nil {
			return p, err
		}
		p.made = append(p.made, e)
	}
	return p, nil
}

// spec is the member of a configured line, or of one that a source listed.
func (m MemberConfig) spec(name string, a address, base Settings) spec {
	s := spec{name: name, address: a, weight: 1, priority: m.Priority, settings: m.Settings.under(base), own: m.Settings.Ports}
	if m.Weight != nil {
		s.weight = *m.Weight
	}
	return s
}

// settle gives a host its row, and returns the members that are not in it any more. mu is held.
func (t *Table) settle(h *Host, p plan) (left []*Member) {
	r := &row{config: p.config, hash: slices.Contains([]string{"", "hash", "claim"}, p.config.Sticky),
		claim: p.config.Sticky == "claim", sources: p.sources}
	var before []seat
	if old := h.row.Load(); old != nil {
		before = old.seats
		for _, s := range old.sources {
			if !slices.Contains(p.sources, s) {
				t.sources.remove(s.task)
			}
		}
	}
	for i, s := range p.specs {
		at := slices.IndexFunc(before, func(b seat) bool { return b.member.name == s.name })
		var m *Member
		due := true
		if at >= 0 && before[at].member.settings.Load().address == s.address {
			m = before[at].member
			due = m.adopt(p.made[i])
		} else { // at another address it is another server, however it is called: the accounts have to leave the old one
			m = newMember(t, h.name, s.name, p.made[i])
		}
		m.obey(t.wishFor(h.name, s.name))
		m.decide(t.decided)
		if due {
			t.checks.at(m.task, time.Now())
		}
		r.seats = append(r.seats, seat{member: m, seed: m.seed, weight: float64(s.weight), priority: s.priority})
	}
	r.equal = equalWeights(r.seats)
	for _, b := range before {
		if !slices.ContainsFunc(r.seats, func(s seat) bool { return s.member == b.member }) {
			b.member.leave()
			left = append(left, b.member)
		}
	}
	h.row.Store(r)
	for _, s := range p.sources {
		s.watch(h)
	}
	return left
}

// retire takes a host out of the table. mu is held.
func (t *Table) retire(h *Host) (left []*Member) {
	r := h.row.Load()
	for _, s := range r.sources {
		t.sources.remove(s.task)
	}
	for _, s := range r.seats {
		s.member.leave()
		left = append(left, s.member)
	}
	h.row.Store(&row{config: r.config, hash: r.hash, retired: true})
	return left
}

func equalWeights(seats []seat) bool {
	first := 0.0
	for _, s := range seats {
		switch {
		case s.weight == 0:
		case first == 0:
			first = s.weight
		case s.weight != first:
			return false
		}
	}
	return true
}

// leave marks a member as gone: sessions that hold it go on, it gets no new ones and no checks.
func (m *Member) leave() {
	m.table.checks.remove(m.task)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set(m.state.Load() | goneBit)
}

func (t *Table) tellLeft(left []*Member) {
	for _, m := range left {
		t.tell(Event{Member: m, Change: Left, Why: "not in the table any more"})
	}
}

// tell logs an event and passes it on. The zero Event is none.
func (t *Table) tell(e Event) {
	if e.Member == nil {
		return
	}
	attrs := []any{"host", e.Member.host, "member", e.Member.name, "service", e.Service, "reason", e.Why}
	switch e.Change {
	case WentDown:
		t.log.Warn("member is down", attrs...)
	case CameUp:
		t.log.Info("member is up", attrs...)
	default:
		t.log.Info("member has changed", append(attrs, "change", e.Change.String())...)
	}
	if t.options.Changed != nil {
		t.options.Changed(e)
	}
}

// seen is the lists of capabilities of one service as they were at a generation.
type seen struct {
	generation uint64
	lists      [][]string
}

// Seen are the different lists of capabilities that members of any host showed for the service, each sorted. It is the
// same slice again and again until they may have changed. Neither they nor their contents may be changed.
func (t *Table) Seen(service string) [][]string {
	i, ok := serviceIndex(service)
	if !ok {
		return nil
	}
	generation := t.generation.Load()
	if s := t.seen[i].Load(); s != nil && s.generation == generation {
		return s.lists
	}
	var lists [][]string
	t.all(func(h *Host) {
		for _, seat := range h.row.Load().seats {
			seat.member.mu.Lock()
			list := seat.member.health[i].learnt
			seat.member.mu.Unlock()
			if list != nil && !slices.ContainsFunc(lists, func(known []string) bool { return slices.Equal(known, list) }) {
				lists = append(lists, list)
			}
		}
	})
	t.seen[i].Store(&seen{generation, lists})
	return lists
}
