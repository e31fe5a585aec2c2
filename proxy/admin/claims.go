package admin

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Mover moves accounts between the members of a host on all frontends.
type Mover interface {
	// Move has an account leave its member and go to another one. It returns when the frontends have been told.
	Move(ctx context.Context, account, member string) error
}

// Move is what move is asked with.
type Move struct {
	Account string `json:"account"`
	Member  string `json:"member"` // its name, or host/member
}

func (s *Server) move(w http.ResponseWriter, r *http.Request) {
	var m Move
	if !read(w, r, &m) {
		return
	}
	if m.Account == "" || m.Member == "" {
		fail(w, http.StatusBadRequest, errors.New("say which account is to go to which member"))
		return
	}
	if err := s.Mover.Move(r.Context(), m.Account, m.Member); err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	s.Log.Info("account moved by the operator", "account", m.Account, "member", m.Member)
	answer(w, Done{m.Account, "moves to " + m.Member})
}

// claimRequests are the words of claims.Metrics.
func claimRequests() []string { return []string{"take", "release", "renew", "other"} }

func (m *Metrics) registerClaims() {
	m.claimTime = m.histogram("claim_request_seconds", "How long etcd took for requests about claims.",
		[]float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5}, "request")
	m.claimFailures = m.counter("claim_request_failures_total", "Requests about claims that etcd did not answer.", "request")
	for _, what := range claimRequests() {
		m.claimTime.WithLabelValues(what)
		m.claimFailures.WithLabelValues(what)
	}
}

// ClaimTransaction counts a request to etcd: take, release, renew or other.
func (m *Metrics) ClaimTransaction(what string, ok bool, took time.Duration) {
	m.claimTime.WithLabelValues(what).Observe(took.Seconds())
	if !ok {
		m.claimFailures.WithLabelValues(what).Inc()
	}
}

// claimCollector turns the claims of a Status into metrics. Without claims there are none.
type claimCollector struct {
	frontend Frontend

	held, sessions, unclaimed, left, controller, epoch, fenced, frontends *prometheus.Desc
}

func newClaimCollector(f Frontend) *claimCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(namespace+"_"+name, help, nil, nil)
	}
	return &claimCollector{
		frontend:   f,
		held:       desc("claims", "Accounts that this frontend has a claim on."),
		sessions:   desc("claimed_sessions", "Sessions and deliveries under claims."),
		unclaimed:  desc("unclaimed_sessions", "Sessions and deliveries of claimed hosts that went by hash because etcd was away."),
		left:       desc("claim_lease_seconds", "Time until claimed sessions are closed, if no renewal of the lease is answered; 0 without a lease."),
		controller: desc("claim_controller", "1 while this frontend decides which members are down."),
		epoch:      desc("claim_epoch", "The controller's decision that is in force here."),
		fenced:     desc("claim_leases_lost_total", "How often this frontend lost its lease and closed its claimed sessions."),
		frontends:  desc("claim_frontends", "Live frontends of the site, as this one saw them last."),
	}
}

// Describe is of prometheus.Collector.
func (c *claimCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.held, c.sessions, c.unclaimed, c.left, c.controller, c.epoch, c.fenced, c.frontends} {
		ch <- d
	}
}

// Collect is of prometheus.Collector.
func (c *claimCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.frontend.Status().Claims
	if s == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	gauge(c.held, float64(s.Accounts))
	gauge(c.sessions, float64(s.Sessions))
	gauge(c.unclaimed, float64(s.Unclaimed))
	gauge(c.left, s.Left.Seconds())
	gauge(c.controller, truth(s.Leading))
	gauge(c.epoch, float64(s.Epoch))
	gauge(c.frontends, float64(len(s.Frontends)))
	ch <- prometheus.MustNewConstMetric(c.fenced, prometheus.CounterValue, float64(s.Fenced))
}
