package admin

import (
	"cmp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Watch adds what is read of the frontend's Status whenever Prometheus asks. It is called once.
func (m *Metrics) Watch(f Frontend) { m.registry.MustRegister(newCollector(f), newClaimCollector(f)) }

// collector turns a Status into metrics. Hosts, members and servers are those of the configuration.
type collector struct {
	frontend Frontend

	open, limit, relayed, listening, reloadOK, reloaded   *prometheus.Desc
	memberUp, memberSessions, memberTotal, memberWithdraw *prometheus.Desc
	serverUp, serverConnections, cacheEntries, penalties  *prometheus.Desc

	queueMessages, queueHost, queueBytes, queueOldest, queueAway *prometheus.Desc
	queueAccepted, queueDeliveries, queueNotifications           *prometheus.Desc
}

func newCollector(f Frontend) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
	}
	return &collector{
		frontend:           f,
		open:               desc("sessions", "Sessions open now, those before the login included.", "service"),
		limit:              desc("sessions_limit", "How many sessions there may be at once (limits.sessions)."),
		relayed:            desc("sessions_relayed", "Sessions that are handed over to a backend now."),
		penalties:          desc("penalised_addresses", "Client addresses whose logins are delayed because of failed ones."),
		listening:          desc("listening", "1 while this frontend accepts sessions, 0 while it is withdrawn or draining."),
		reloadOK:           desc("config_reload_successful", "1 if the last reload took the configuration over, 0 if it kept the old one."),
		reloaded:           desc("config_loaded_timestamp_seconds", "When the configuration in use was loaded."),
		memberUp:           desc("member_available", "1 while a member takes sessions of a service, by checks, sessions and the operator.", "host", "member", "service"),
		memberSessions:     desc("member_sessions", "Sessions on a member now.", "host", "member"),
		memberTotal:        desc("member_sessions_total", "Sessions a member was chosen for.", "host", "member"),
		memberWithdraw:     desc("member_withdrawn", "1 while the operator has withdrawn a member.", "host", "member"),
		serverUp:           desc("directory_up", "1 while a server of the directory answers.", "server"),
		serverConnections:  desc("directory_connections", "Open connections to a server of the directory.", "server"),
		queueMessages:      desc("queue_messages", "Messages in the queue, by what they wait for: their next attempt, the operator, or a human to mend their file.", "state"),
		queueHost:          desc("queue_host_messages", "Messages that wait for a home host, or for the smarthosts (outgoing); other is for several hosts.", "host"),
		queueBytes:         desc("queue_bytes", "Bytes of the messages that wait."),
		queueOldest:        desc("queue_oldest_timestamp_seconds", "When the oldest message that waits came in; 0 when none does."),
		queueAway:          desc("queue_members_away", "Members and smarthosts that the queue could not reach when it last tried."),
		queueAccepted:      desc("queue_accepted_total", "Messages taken into the queue, notifications included."),
		queueDeliveries:    desc("queue_deliveries_total", "The queue's attempts for one recipient, by outcome; expired ones were tried for too long.", "outcome"),
		queueNotifications: desc("queue_notifications_total", "Delivery status notifications made."),
		cacheEntries:       desc("directory_cache_entries", "Names remembered: accounts, and nobody's.", "kind"),
	}
}

// Describe is of prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.open, c.limit, c.relayed, c.penalties, c.listening, c.reloadOK, c.reloaded, c.memberUp, c.memberSessions, c.memberTotal,
		c.memberWithdraw, c.serverUp, c.serverConnections, c.cacheEntries, c.queueMessages, c.queueHost, c.queueBytes,
		c.queueOldest, c.queueAway, c.queueAccepted, c.queueDeliveries, c.queueNotifications,
	} {
		ch <- d
	}
}

// Collect is of prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := c.frontend.Status()
	for _, service := range services() {
		gauge(c.open, float64(s.Sessions.Service[service]), service)
	}
	gauge(c.limit, float64(s.Sessions.Limit))
	gauge(c.relayed, float64(s.Sessions.Relayed))
	gauge(c.penalties, float64(s.Sessions.Penalised))
	gauge(c.listening, truth(s.State == Serving))
	gauge(c.reloadOK, truth(s.LastFault == ""))
	gauge(c.reloaded, float64(s.Loaded.UnixNano())/float64(time.Second))
	for _, h := range s.Hosts {
		for _, m := range h.Members {
			out := m.Wish != inService
			gauge(c.memberSessions, float64(m.Sessions), h.Name, m.Name)
			gauge(c.memberWithdraw, truth(out), h.Name, m.Name)
			ch <- prometheus.MustNewConstMetric(c.memberTotal, prometheus.CounterValue, float64(m.Total), h.Name, m.Name)
			for _, service := range m.Services {
				up := service.State != "down" && service.State != "failing"
				gauge(c.memberUp, truth(up && m.Available), h.Name, m.Name, service.Service)
			}
		}
	}
	for _, server := range s.Directory.Servers {
		gauge(c.serverUp, truth(server.Up), server.URL)
		gauge(c.serverConnections, float64(server.Connections), server.URL)
	}
	gauge(c.cacheEntries, float64(s.Directory.Cache.Entries), "account")
	gauge(c.cacheEntries, float64(s.Directory.Cache.Negative), "nobody")
	if s.Queue != nil {
		c.collectQueue(ch, s.Queue)
	}
}

// collectQueue sends the metrics of the queue. Hosts are home hosts of the host table, at present or before a reload.
func (c *collector) collectQueue(ch chan<- prometheus.Metric, q *QueueStatus) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	send(c.queueMessages, prometheus.GaugeValue, float64(q.Messages), "waiting")
	send(c.queueMessages, prometheus.GaugeValue, float64(q.Held), "held")
	send(c.queueMessages, prometheus.GaugeValue, float64(q.Quarantined), "quarantined")
	for _, h := range q.Hosts {
		send(c.queueHost, prometheus.GaugeValue, float64(h.Messages), cmp.Or(h.Host, "other"))
	}
	send(c.queueBytes, prometheus.GaugeValue, float64(q.Bytes))
	oldest := 0.0
	if !q.Oldest.IsZero() {
		oldest = float64(q.Oldest.UnixMilli()) / 1000
	}
	send(c.queueOldest, prometheus.GaugeValue, oldest)
	send(c.queueAway, prometheus.GaugeValue, float64(len(q.Away)))
	send(c.queueAccepted, prometheus.CounterValue, float64(q.Accepted))
	for outcome, n := range map[string]uint64{"delivered": q.Delivered, "deferred": q.Deferred, "refused": q.Refused, "expired": q.Expired} {
		send(c.queueDeliveries, prometheus.CounterValue, float64(n), outcome)
	}
	send(c.queueNotifications, prometheus.CounterValue, float64(q.Notifications))
}

// inService is the wish of backend.MemberStatus that is none.
const inService = "in service"

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
