package admin

import (
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"mailmux/directory"
	"mailmux/proxy"
)

// Metrics counts for Prometheus. What the engine, the directory and the backends report goes through its methods, which
// may be called from many goroutines at once; what they are asked for is read when Prometheus asks (collect.go).
type Metrics struct {
	registry *prometheus.Registry
	services map[string]*serviceMetrics
	other    *serviceMetrics // of a service that is none: it keeps the label a closed set

	lookups       map[string]prometheus.Counter
	lookupSeconds prometheus.Histogram
	requests      *prometheus.CounterVec
	requestTime   *prometheus.HistogramVec
	claimTime     *prometheus.HistogramVec
	claimFailures *prometheus.CounterVec
}

var (
	_ proxy.Metrics     = (*Metrics)(nil)
	_ directory.Metrics = (*Metrics)(nil)

	_ proxy.DeliveryMetrics = (*Metrics)(nil)
)

// serviceMetrics are the counters of one service, found once instead of at each session.
type serviceMetrics struct {
	started  prometheus.Counter
	open     atomic.Int64
	ended    map[string]prometheus.Counter
	up, down prometheus.Counter
	lasted   prometheus.Observer
	login    prometheus.Observer
	failures map[proxy.Cause]prometheus.Counter
	full     prometheus.Counter
	resumed  prometheus.Counter
	failed   prometheus.Counter
	panics   prometheus.Counter

	delivered map[string]prometheus.Counter // by outcome; nil for a service that brings no messages
	delivery  prometheus.Observer
}

// handedOver is the outcome of a session that came to its hand-over, beside the names of the causes.
const handedOver = "ok"

// NewMetrics makes metrics in a registry of their own. Every series that can be is there from the start, at zero, so that
// the first event is a rise.
func NewMetrics(version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), services: make(map[string]*serviceMetrics)}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	info := m.gauge("build_info", "The version that runs; always 1.", "version")
	info.WithLabelValues(version).Set(1)
	m.registerServices()
	m.registerDeliveries()
	m.registerDirectory()
	m.registerClaims()
	return m
}

func (m *Metrics) registerServices() {
	started := m.counter("sessions_started_total", "Connections accepted.", "service")
	ended := m.counter("sessions_ended_total", "Sessions ended, by what became of them: ok if they were handed over to a backend.",
		"service", "outcome")
	bytes := m.counter("relayed_bytes_total", "Bytes relayed: up from clients to backends, down from backends to clients.",
		"service", "direction")
	lasted := m.histogram("session_seconds", "How long sessions lasted.",
		[]float64{0.1, 1, 10, 60, 300, 1800, 3600, 6 * 3600, 24 * 3600}, "service")
	login := m.histogram("login_seconds", "From the credentials to the hand-over: directory, connect, TLS and login at the backend.",
		[]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}, "service")
	failures := m.counter("login_failures_total", "Logins that came to no hand-over, by cause.", "service", "cause")
	handshakes := m.counter("tls_handshakes_total", "TLS handshakes with clients: full, resumed or failed.", "service", "result")
	panics := m.counter("panics_total", "Sessions ended by an error in mailmux itself; the stack is in the log.", "service")

	for _, service := range append(services(), "other") {
		s := &serviceMetrics{
			started: started.WithLabelValues(service), ended: make(map[string]prometheus.Counter),
			failures: make(map[proxy.Cause]prometheus.Counter),
			up:       bytes.WithLabelValues(service, "up"), down: bytes.WithLabelValues(service, "down"),
			lasted: lasted.WithLabelValues(service), login: login.WithLabelValues(service),
			full: handshakes.WithLabelValues(service, "full"), resumed: handshakes.WithLabelValues(service, "resumed"),
			failed: handshakes.WithLabelValues(service, "failed"), panics: panics.WithLabelValues(service),
		}
		s.ended[handedOver] = ended.WithLabelValues(service, handedOver)
		for _, cause := range proxy.Causes() {
			s.ended[cause.String()] = ended.WithLabelValues(service, cause.String())
			s.failures[cause] = failures.WithLabelValues(service, cause.String())
		}
		m.services[service] = s
	}
	m.other = m.services["other"]
	delete(m.services, "other")
}

// services are the protocols that clients connect by.
func services() []string {
	return []string{"imap", "pop3", "submission", "sieve", "smtp", "lmtp", "outgoing"}
}

// carriers are the services that bring messages.
func carriers() []string { return []string{"smtp", "lmtp", "outgoing"} }

// outcomes are the words of a delivery's event.
func outcomes() []string { return []string{"delivered", "deferred", "refused"} }

func (m *Metrics) registerDeliveries() {
	count := m.counter("deliveries_total", "Attempts to deliver a message to one recipient while its sender waits, those refused at RCPT included; "+
		"the queue's are in mailmux_queue_deliveries_total.", "service", "outcome")
	seconds := m.histogram("delivery_seconds", "How long such attempts took.",
		[]float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120}, "service")
	for _, service := range carriers() {
		s := m.services[service]
		s.delivery, s.delivered = seconds.WithLabelValues(service), make(map[string]prometheus.Counter)
		for _, outcome := range outcomes() {
			s.delivered[outcome] = count.WithLabelValues(service, outcome)
		}
	}
}

// Delivered counts an attempt for one recipient. One that was refused before a member was asked takes no time.
func (m *Metrics) Delivered(service, outcome string, took time.Duration) {
	s := m.of(service)
	if c, ok := s.delivered[outcome]; ok {
		c.Inc()
		if took > 0 {
			s.delivery.Observe(took.Seconds())
		}
	}
}

// lookupOutcomes are the words of directory.Metrics.
func lookupOutcomes() []string {
	return []string{"hit", "negative", "stale", "found", "no_user", "ambiguous", "no_host", "unavailable"}
}

func (m *Metrics) registerDirectory() {
	lookups := m.counter("directory_lookups_total", "Lookups of accounts, by where the answer came from or why there was none.", "outcome")
	m.lookups = make(map[string]prometheus.Counter)
	for _, outcome := range lookupOutcomes() {
		m.lookups[outcome] = lookups.WithLabelValues(outcome)
	}
	seconds := m.histogram("directory_lookup_seconds", "How long lookups took that memory could not answer.",
		[]float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10})
	m.lookupSeconds = seconds.WithLabelValues().(prometheus.Histogram)
	m.requests = m.counter("directory_requests_total", "Requests to servers of the directory.", "server", "operation", "outcome")
	m.requestTime = m.histogram("directory_request_seconds", "How long servers of the directory took.",
		[]float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5}, "server", "operation")
}

func (m *Metrics) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
	m.registry.MustRegister(v)
	return v
}

const namespace = "mailmux"

func (m *Metrics) of(service string) *serviceMetrics {
	if s, ok := m.services[service]; ok {
		return s
	}
	return m.other
}

// SessionStarted counts an accepted connection.
func (m *Metrics) SessionStarted(service string) {
	s := m.of(service)
	s.started.Inc()
	s.open.Add(1)
}

// SessionEnded counts its end. An outcome that is no Cause counts as temporary.
func (m *Metrics) SessionEnded(service, outcome string, up, down int64, lasted time.Duration) {
	s := m.of(service)
	s.open.Add(-1)
	ended, ok := s.ended[outcome]
	if !ok {
		ended = s.ended[proxy.CauseTemporary.String()]
	}
	ended.Inc()
	s.up.Add(float64(up))
	s.down.Add(float64(down))
	s.lasted.Observe(lasted.Seconds())
}

// Open is how many sessions each service has, those without any left out.
func (m *Metrics) Open() map[string]int {
	open := make(map[string]int)
	for name, s := range m.services {
		if n := s.open.Load(); n > 0 {
			open[name] = int(n)
		}
	}
	return open
}

// LoggedIn counts a hand-over.
func (m *Metrics) LoggedIn(service string, took time.Duration) {
	m.of(service).login.Observe(took.Seconds())
}

// LoginFailed counts a login that came to no hand-over.
func (m *Metrics) LoginFailed(service string, cause proxy.Cause) {
	if c, ok := m.of(service).failures[cause]; ok {
		c.Inc()
	}
}

// Handshake counts a TLS handshake with a client.
func (m *Metrics) Handshake(service string, resumed bool, err error) {
	s := m.of(service)
	switch {
	case err != nil:
		s.failed.Inc()
	case resumed:
		s.resumed.Inc()
	default:
		s.full.Inc()
	}
}

// Panicked counts a session that was ended by an error in mailmux itself.
func (m *Metrics) Panicked(service string) { m.of(service).panics.Inc() }

// DirectoryLookup counts a lookup. Answers from memory take microseconds and would bury the others, so their time is
// left out.
func (m *Metrics) DirectoryLookup(outcome string, took time.Duration) {
	if c, ok := m.lookups[outcome]; ok {
		c.Inc()
	}
	if outcome != "hit" && outcome != "negative" {
		m.lookupSeconds.Observe(took.Seconds())
	}
}

// DirectoryRequest counts a request to a server. Servers are those of the configuration, so the label is a closed set.
func (m *Metrics) DirectoryRequest(server, op, outcome string, took time.Duration) {
	m.requests.WithLabelValues(server, op, outcome).Inc()
	m.requestTime.WithLabelValues(server, op).Observe(took.Seconds())
}

// Handler answers Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, MaxRequestsInFlight: 4})
}

// Metric is one line of the list of metrics.
type Metric struct {
	Name   string
	Type   string // counter, gauge or histogram
	Help   string
	Labels []string
}

// List gives the metrics of mailmux itself, sorted by name, for the reference. Those of Go and the process are left out:
// they are of the Prometheus library.
func (m *Metrics) List() ([]Metric, error) {
	families, err := m.registry.Gather()
	if err != nil {
		return nil, err
	}
	var list []Metric
	for _, f := range families {
		if len(f.GetName()) < len(namespace) || f.GetName()[:len(namespace)] != namespace {
			continue
		}
		metric := Metric{Name: f.GetName(), Type: typeName(f.GetType().String()), Help: f.GetHelp()}
		for _, l := range f.GetMetric()[0].GetLabel() {
			metric.Labels = append(metric.Labels, l.GetName())
		}
		list = append(list, metric)
	}
	if len(list) == 0 {
		return nil, errors.New("no metrics are registered")
	}
	return slices.Clip(list), nil
}

func typeName(s string) string {
	switch s {
	case "COUNTER":
		return "counter"
	case "GAUGE":
		return "gauge"
	case "HISTOGRAM":
		return "histogram"
	}
	return s
}
