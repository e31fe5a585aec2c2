package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// source finds members outside the configuration: in the DNS or in the directory. It keeps what it was told last: an
// outage of the DNS must not be the outage of a cluster.
type source struct {
	table   *Table
	key     string // what it asks for; a reload that keeps it keeps what it knows
	line    MemberConfig
	queries []query // for SRV
	task    *task

	mu    sync.Mutex
	host  *Host
	list  []listing
	asked time.Time // when it was answered last
	why   string    // what is wrong with it, "" if nothing is
}

// query is one SRV lookup.
type query struct {
	service string // whose ports it gives, "" for all
	label   string // "" if name says all
	name    string
}

// listing is a member as a source lists it.
type listing struct {
	name     string
	address  address
	weight   int // -1 if it does not say
	priority int // -1 if it does not say
	ports    map[string]int
}

const (
	sourcesAtOnce = 8
	sourceTimeout = 5 * time.Second
	sourceRetry   = 5 * time.Second
)

// source is the source of a configured line: one that is known already, or a new one.
func (t *Table) source(m MemberConfig, settings Settings, known []*source) *source {
	or(&m.Refresh, defaultRefresh)
	or(&m.Attribute, defaultAttribute)
	s := &source{table: t, line: m}
	if m.SRV != "" {
		s.queries = queries(m.SRV, settings)
	}
	s.key = fmt.Sprint(m.DNS, "|", m.SRV, s.queries, "|", m.Directory, "|", m.Attribute, "|", m.Refresh)
	for _, k := range known {
		if k.key == s.key {
			return k
		}
	}
	return s
}

// queries are the SRV names of a domain: one for each service, by whether its TLS is implicit (RFC 6186, RFC 8314).
func queries(name string, settings Settings) []query {
	if strings.HasPrefix(name, "_") {
		label, _, _ := strings.Cut(name, ".")
		for _, service := range services {
			if label == service.label || label == service.tlsLabel {
				return []query{{service: service.name, name: name}}
			}
		}
		return []query{{name: name}}
	}
	var out []query
	for i := len(services) - 1; i >= 0; i-- {
		service := services[i]
		word := settings.TLS
		if w, ok := settings.TLSServices[service.name]; ok {
			word = w
		}
		label := service.label
		if word == "implicit" {
			label = service.tlsLabel
		}
		out = append(out, query{service: service.name, label: strings.TrimPrefix(label, "_"), name: name})
	}
	return out
}

// watch begins the polling for a host, or goes on with it.
func (s *source) watch(h *Host) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.host = h
	if s.task == nil {
		s.task = newTask(func() int { return 1 }, s.refresh)
		s.table.sources.at(s.task, time.Now())
	}
}

// specs are the members that the source lists, without those that the row has already.
func (s *source) specs(line MemberConfig, base Settings, have []spec) []spec {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []spec
	for _, l := range s.list {
		named := func(other spec) bool { return other.name == l.name }
		if slices.ContainsFunc(have, named) || slices.ContainsFunc(out, named) {
			continue
		}
		one := line.spec(l.name, l.address, base)
		one.ports = l.ports
		if l.weight >= 0 {
			one.weight = l.weight
		}
		if l.priority >= 0 {
			one.priority = l.priority
		}
		out = append(out, one)
	}
	return out
}

// failure is what is wrong with the source, "" if nothing is.
func (s *source) failure() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

// refresh asks the source and, if it says something new, gives its host a new row.
func (s *source) refresh(ctx context.Context) (next time.Time, urgent bool) {
	ask, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	list, err := s.ask(ask)
	if ctx.Err() != nil {
		return time.Now().Add(s.line.Refresh), false
	}
	if len(list) == 0 && err == nil {
		err = errors.New("lists no members")
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", s.what(), err)
	}
	s.mu.Lock()
	changed := len(list) > 0 && !slices.EqualFunc(list, s.list, listing.equal)
	if len(list) > 0 {
		s.list, s.asked = list, time.Now()
	}
	before := s.why
	s.why = ""
	if err != nil {
		s.why = err.Error()
	}
	host, news := s.host, s.why != before
	s.mu.Unlock()
	if news && err != nil {
		s.table.log.Warn("members are not known for sure, those known last serve on", "host", host.name, "error", err)
	}
	if changed {
		s.table.reseat(host)
	}
	if err != nil {
		return time.Now().Add(jitter(min(sourceRetry, s.line.Refresh))), false
	}
	return time.Now().Add(jitter(s.line.Refresh)), false
}

// what names the source.
func (s *source) what() string {
	switch {
	case s.line.DNS != "":
		return "dns " + s.line.DNS
	case s.line.SRV != "":
		return "srv " + s.line.SRV
	}
	return "directory " + s.line.Directory
}

func (l listing) equal(other listing) bool {
	if l.name != other.name || l.address != other.address || l.weight != other.weight || l.priority != other.priority ||
		len(l.ports) != len(other.ports) {
		return false
	}
	for service, port := range l.ports {
		if other.ports[service] != port {
			return false
		}
	}
	return true
}

// reseat gives a host a row from what its sources list now.
func (t *Table) reseat(h *Host) {
	t.mu.Lock()
	if (*t.hosts.Load())[h.name] != h {
		t.mu.Unlock()
		return
	}
	p, err := t.planHost(h.name, h.row.Load().config, t.config.Backend.Settings.under(builtin()), newFiles())
	if err != nil {
		t.mu.Unlock()
		t.log.Warn("new members are left out, those known last serve on", "host", h.name, "error", err)
		return
	}
	left := t.settle(h, p)
	t.pace()
	t.generation.Add(1)
	t.mu.Unlock()
	t.tellLeft(left)
}

// ask asks for the members, sorted by name. Members beside an error are believed.
func (s *source) ask(ctx context.Context) ([]listing, error) {
	switch {
	case s.line.DNS != "":
		return s.askDNS(ctx)
	case s.line.SRV != "":
		return s.askSRV(ctx)
	}
	return s.askDirectory(ctx)
}

func (s *source) askDNS(ctx context.Context) ([]listing, error) {
	addrs, err := (*s.table.resolver.Load()).LookupNetIP(ctx, "ip", s.line.DNS)
	if err != nil {
		return nil, err
	}
	var list []listing
	for _, a := range addrs {
		a = a.Unmap()
		list = append(list, listing{name: a.String(), address: address{ip: a}, weight: -1, priority: -1})
	}
	return sorted(list), nil
}

func (s *source) askSRV(ctx context.Context) ([]listing, error) {
	byName := make(map[string]*listing)
	var odd error
	for _, q := range s.queries {
		proto := "tcp"
		if q.label == "" {
			proto = ""
		}
		_, records, err := (*s.table.resolver.Load()).LookupSRV(ctx, q.label, proto, q.name)
		if notFound := (*net.DNSError)(nil); errors.As(err, &notFound) && notFound.IsNotFound {
			continue // no record for this service
		}
		if err != nil && len(records) == 0 {
			return nil, err
		}
		odd = errors.Join(odd, err) // records with targets that are no names are left out (net.Resolver.LookupSRV)
		weights(records)
		for _, r := range records {
			name := canonical(r.Target)
			if name == "" {
				continue // the target "." says that the service is not offered (RFC 2782)
			}
			l := byName[name]
			if l == nil {
				l = &listing{name: name, address: address{name: name}, weight: int(r.Weight), priority: int(r.Priority)}
				l.ports = make(map[string]int)
				byName[name] = l
			}
			for _, service := range services {
				if _, has := l.ports[service.name]; !has && (q.service == "" || q.service == service.name) {
					l.ports[service.name] = int(r.Port)
				}
			}
		}
	}
	var list []listing
	for _, l := range byName {
		list = append(list, *l)
	}
	return sorted(list), odd
}

// weights makes weights of SRV records fit: 0 means "hardly ever" beside others (RFC 2782), and no preference alone.
func weights(records []*net.SRV) {
	most := uint16(0)
	for _, r := range records {
		most = max(most, r.Weight)
	}
	for _, r := range records {
		switch {
		case most == 0:
			r.Weight = 1
		case r.Weight == 0:
			r.Weight = 1
		case most <= maxWeight/10:
			r.Weight *= 10
		}
	}
}

func (s *source) askDirectory(ctx context.Context) ([]listing, error) {
	if s.table.options.Source == nil {
		return nil, errors.New("no directory to ask")
	}
	values, err := s.table.options.Source.Values(ctx, s.line.Directory, s.line.Attribute)
	if err != nil {
		return nil, err
	}
	var list []listing
	var errs []error
	for _, value := range values {
		l, err := parseListing(value)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if slices.ContainsFunc(list, func(other listing) bool { return other.name == l.name && other.address != l.address }) {
			errs = append(errs, fmt.Errorf("two values name a member %s", l.name))
		}
		list = append(list, l)
	}
	return sorted(list), errors.Join(errs...)
}

// parseListing reads a value of the directory: an address, then words like weight=2, priority=1, name=n2, imap=1143.
func parseListing(value string) (listing, error) {
	words := strings.Fields(value)
	if len(words) == 0 {
		return listing{}, errors.New("a value is empty")
	}
	a, err := parseAddress(words[0])
	if err != nil {
		return listing{}, err
	}
	l := listing{name: words[0], address: a, weight: -1, priority: -1}
	for _, word := range words[1:] {
		key, text, ok := strings.Cut(word, "=")
		if ok && key == "name" && text != "" && !strings.Contains(text, "/") {
			l.name = text
			continue
		}
		n, err := strconv.Atoi(text)
		_, service := serviceIndex(key)
		switch {
		case !ok || err != nil || n < 0:
			return listing{}, fmt.Errorf("%q: %q is not a word like weight=2", value, word)
		case key == "weight" && n <= maxWeight:
			l.weight = n
		case key == "priority":
			l.priority = n
		case service && n >= 1 && n <= 65535:
			if l.ports == nil {
				l.ports = make(map[string]int)
			}
			l.ports[key] = n
		default:
			return listing{}, fmt.Errorf("%q: %q is not a word like weight=2, priority=1, name=n2, imap=1143", value, word)
		}
	}
	return l, nil
}

// sorted sorts by name. Of several with one name it keeps the same one, in whatever order they come: frontends have to agree.
func sorted(list []listing) []listing {
	slices.SortFunc(list, func(a, b listing) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.address.at(a.address.port), b.address.at(b.address.port)))
	})
	return slices.CompactFunc(list, func(a, b listing) bool { return a.name == b.name })
}
