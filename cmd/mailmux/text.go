package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"mailmux/proxy"
	"mailmux/proxy/admin"
	"mailmux/proxy/backend"
)

// columns lays lines out in columns; flush ends them.
func columns(w io.Writer, head ...string) (*tabwriter.Writer, func(cells ...any)) {
	t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	row := func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, printable(c))
		}
		fmt.Fprintln(t)
	}
	if len(head) > 0 {
		fmt.Fprintln(t, strings.Join(head, "\t"))
	}
	return t, row
}

// printable keeps what a directory or a backend said from speaking to the terminal, or from breaking the columns.
func printable(cell any) any {
	text, ok := cell.(string)
	if !ok {
		return cell
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, strings.ReplaceAll(text, "\n", "; "))
}

// showStatus prints the state of a frontend.
func showStatus(w io.Writer, s *admin.Status) {
	fmt.Fprintf(w, "%s  %s  mailmux %s  pid %d  up %s\n", s.Hostname, s.State, s.Version, s.PID, admin.Span(time.Since(s.Started)))
	fmt.Fprintf(w, "configuration %s of %s\n", s.Config, clock(s.Loaded))
	if s.LastFault != "" {
		fmt.Fprintf(w, "the last reload kept it, because the new one has faults:\n%s\n", indent(s.LastFault))
	}
	fmt.Fprintf(w, "sessions %d of %d, %d logged in", s.Sessions.Open, s.Sessions.Limit, s.Sessions.Relayed)
	for _, service := range slices.Sorted(maps.Keys(s.Sessions.Service)) {
		fmt.Fprintf(w, ", %s %d", service, s.Sessions.Service[service])
	}
	fmt.Fprint(w, "\n\n")
	showHosts(w, s)
	showServers(w, s)
	showClaims(w, s.Claims)
	showQueue(w, s.Queue)
	t, row := columns(w, "LISTENER", "ADDRESS", "TLS")
	for _, l := range s.Listeners {
		row(l.Service, l.Address, l.TLS)
	}
	flush(t)
}

// showClaims prints how the frontends agree.
func showClaims(w io.Writer, s *proxy.ClaimStatus) {
	if s == nil {
		return
	}
	switch {
	case s.State != "held":
		fmt.Fprintf(w, "claims: %s\n", spaced("no lease, new sessions of claimed hosts have to wait", s.Error))
	default:
		fmt.Fprintf(w, "claims: %s, %s; lease %s, %s left; epoch %d\n", plural(s.Accounts, "account"), plural(s.Sessions, "session"),
			s.Lease, s.Left.Round(100*time.Millisecond), s.Epoch)
		if s.Error != "" {
			fmt.Fprintf(w, "claims: the last account that asked for a claim got none: %s\n", printable(s.Error))
		}
	}
	if s.Unclaimed > 0 {
		fmt.Fprintf(w, "%s went by hash while etcd was away\n", plural(s.Unclaimed, "session"))
	}
	for _, m := range s.Down {
		fmt.Fprintf(w, "decided down: %s\n", printable(m))
	}
	if len(s.Frontends) > 0 {
		t, row := columns(w, "FRONTEND", "LEASE", "SINCE", "ACCOUNTS", "EPOCH", "SEES DOWN")
		for _, f := range s.Frontends {
			name := f.Name
			if f.Lease == s.Lease {
				name += " (this one)"
			}
			row(name, f.Lease, clock(f.Since), f.Accounts, acknowledged(f.Epoch, s.Epoch), dash(strings.Join(f.Down, ", ")))
		}
		flush(t)
		fmt.Fprintf(w, "controller: %s\n", printable(dash(s.Controller)))
	}
	fmt.Fprintln(w)
}

// acknowledged says whether a frontend has no session left on the members that were decided down.
func acknowledged(epoch, now int64) string {
	if epoch == now {
		return fmt.Sprint(epoch)
	}
	return fmt.Sprintf("%d, closing sessions for %d", epoch, now)
}

// showClaim prints which member has an account.
func showClaim(w io.Writer, c *proxy.ClaimInfo) {
	if c == nil {
		return
	}
	fmt.Fprintln(w)
	t, row := columns(w)
	if c.Member == "" {
		row("claim", "nobody has the account: its next session goes where the hash says")
	} else {
		row("claim", c.Member, "since "+clock(c.Since), "held by "+strings.Join(c.Holders, ", "))
	}
	if c.Moving != "" {
		row("move", c.Moving)
	}
	flush(t)
}

func showHosts(w io.Writer, s *admin.Status) {
	t, row := columns(w, "HOST", "MEMBER", "ADDRESS", "STATE", "SINCE", "SESSIONS", "LOGINS/S", "CHECK", "WEIGHT", "LOAD", "WHY")
	for _, h := range s.Hosts {
		for i, m := range h.Members {
			name := h.Name
			if i > 0 {
				name = ""
			}
			c := admin.ConditionOf(m)
			row(name, m.Name, m.Address, c.Word, since(c.Since), m.Sessions, fmt.Sprintf("%.1f", m.Rate), checkTime(m), m.Weight, load(m), c.Why)
		}
		if len(h.Members) == 0 {
			row(h.Name, "-", "-", "no members", "-", 0, "0.0", "-", "-", "-", "")
		}
		for _, source := range h.Sources {
			if source.Error != "" {
				row("", source.Name, "-", "not answering", since(source.Asked), "", "", "", "", "", source.Error)
			}
		}
	}
	flush(t)
	if s.CheckFactor > 1 {
		fmt.Fprintf(w, "checks: %.1f times as far apart as configured; raise backend.checks_per_second to keep check.interval\n", s.CheckFactor)
	}
	if s.CheckLag > time.Second {
		fmt.Fprintf(w, "checks: %s late; raise backend.max_checks and checks_per_second, or see which members hang\n", admin.Span(s.CheckLag))
	}
	fmt.Fprintln(w)
}

// since is a time of the past: the time of day if it is of today.
func since(t time.Time) string {
	switch {
	case t.IsZero():
		return "-"
	case time.Since(t) < 20*time.Hour:
		return t.Local().Format("15:04:05")
	}
	return t.Local().Format("2006-01-02 15:04")
}

// checkTime is what the slowest of a member's services took to answer its last good check.
func checkTime(m backend.MemberStatus) string {
	var slowest time.Duration
	for _, s := range m.Services {
		slowest = max(slowest, s.Check)
	}
	if slowest == 0 {
		return "-"
	}
	return slowest.Round(100 * time.Microsecond).String()
}

// load is the share of its weight that a member takes by its agent's report.
func load(m backend.MemberStatus) string {
	if m.Agent == "" && m.AgentWhy == "" {
		return "-"
	}
	return fmt.Sprintf("%d%%", m.Load)
}

func showServers(w io.Writer, s *admin.Status) {
	t, row := columns(w, "DIRECTORY", "STATE", "ANSWERS IN", "REQUESTS", "FAILURES")
	for _, server := range s.Directory.Servers {
		state := "up"
		if !server.Up {
			state = spaced("down", server.LastError)
		}
		row(server.URL, state, server.Latency.Round(10*time.Microsecond), server.Requests, server.Failures)
	}
	flush(t)
	c := s.Directory.Cache
	fmt.Fprintf(w, "remembered: %s; from memory %d, asked %d, stale %d\n\n",
		plural(c.Entries, "account"), c.Hits+c.NegativeHits, c.Misses, c.Stale)
}

// showSessions prints a list of sessions.
func showSessions(w io.Writer, list *[]admin.Session) {
	if len(*list) == 0 {
		fmt.Fprintln(w, "no sessions")
		return
	}
	t, row := columns(w, "ID", "SERVICE", "ACCOUNT", "CLIENT", "TLS", "HOST", "MEMBER", "SINCE", "UP", "DOWN")
	for _, s := range *list {
		row(s.ID, s.Service, dash(s.Account), s.Client, dash(s.TLS), dash(s.Host), dash(s.Member), clock(s.Began), size(s.Up), size(s.Down))
	}
	flush(t)
	fmt.Fprintln(w, plural(len(*list), "session"))
}

func orNobody(member string) string {
	if member == "" {
		return "no member"
	}
	return member
}

func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// spaced puts a reason behind a word.
func spaced(word, why string) string {
	if why == "" {
		return word
	}
	return word + ": " + why
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// size is a number of bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	for value >= unit && prefix < 4 {
		value /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[prefix])
}

// flush ends a table. What was written to a terminal that is gone is lost, and nothing is to be done about it.
func flush(t *tabwriter.Writer) { _ = t.Flush() }
