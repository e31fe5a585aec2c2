package admin

import (
	"bytes"
	_ "embed" // for the page
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"time"

	"mailmux/directory"
	"mailmux/proxy/backend"
)

//go:embed page.html
var pageText string

// pageTemplate reads the page. It is part of the program, so a fault in it is found by the first test.
func pageTemplate() (*template.Template, error) {
	return template.New("page").Funcs(template.FuncMap{
		"since":     func(t time.Time) string { return Span(time.Since(t)) },
		"clock":     func(t time.Time) string { return t.Format("2006-01-02 15:04:05") },
		"percent":   percent,
		"millis":    func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) },
		"hits":      hits,
		"condition": ConditionOf,
		"minute":    minute,
	}).Parse(pageText)
}

// view is a Status as the page shows it.
type view struct {
	Status
	Services []serviceCount
}

type serviceCount struct {
	Name     string
	Sessions int
}

// page is the status for people: it runs no script and loads nothing.
func (s *Server) page(w http.ResponseWriter, _ *http.Request) {
	status := s.Frontend.Status()
	v := view{Status: status}
	for _, name := range slices.Sorted(maps.Keys(status.Sessions.Service)) {
		v.Services = append(v.Services, serviceCount{name, status.Sessions.Service[name]})
	}
	var text bytes.Buffer
	if err := s.template.Execute(&text, v); err != nil {
		s.Log.Error("show the status page", "error", err)
		http.Error(w, "the page cannot be shown; see the log", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(text.Bytes())
}

// Condition is a member's state in a word, for people.
type Condition struct {
	Word  string
	Since time.Time // zero when that is not known
	Why   string
	Class string // good, warn or bad
}

// ConditionOf sums a member up: the operator's wish first, then what its services say.
func ConditionOf(m backend.MemberStatus) Condition {
	var down []backend.ServiceStatus
	checked := false
	var since time.Time // all services are up
	for _, s := range m.Services {
		if s.State == "down" || s.State == "failing" {
			down = append(down, s)
		}
		checked = checked || s.State != "unchecked"
		if s.Since.After(since) {
			since = s.Since
		}
	}
	switch {
	case m.Wish != inService:
		return Condition{m.Wish, m.WishSince, "by the operator", "warn"}
	case len(down) > 0 && len(down) == len(m.Services):
		return Condition{"down", down[0].Since, down[0].Why, "bad"}
	case len(down) > 0:
		return Condition{"partly down", down[0].Since, down[0].Service + ", " + down[0].Why, "bad"}
	case !m.Available && m.Agent != "":
		return Condition{"out", m.AgentFrom, "its agent says " + m.Agent, "warn"}
	case m.Weight == 0:
		return Condition{Word: "out", Why: "its weight is 0", Class: "warn"}
	case m.Slow:
		return Condition{"starting", m.Returned, "", "warn"}
	case !checked:
		return Condition{Word: "unchecked", Class: "warn"}
	}
	return Condition{"up", since, "", "good"}
}

func minute(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

// Span is a duration for people: its two largest units.
func Span(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

func percent(n, of int) int {
	if of <= 0 {
		return 0
	}
	return min(100, n*100/of)
}

// hits is the share of lookups that needed no server.
func hits(c directory.CacheStats) string {
	answered := c.Hits + c.NegativeHits
	all := answered + c.Misses
	if all == 0 {
		return "0 %"
	}
	return fmt.Sprintf("%d %%", answered*100/all)
}
