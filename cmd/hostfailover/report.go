package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"mailmux/directory"
	"mailmux/failover"
)

// preview is how many changes a dry run names without -v.
const preview = 20

// reporter tells people, or machines, what happens. Its methods may be called from several goroutines.
type reporter struct {
	con     console
	json    bool
	verbose bool
	apply   bool

	mu      sync.Mutex
	drawn   bool // a progress bar is on the terminal
	printed int
	total   int // accounts expected, 0 if not known
}

func (r *reporter) event(name string, fields map[string]any) {
	fields["event"] = name
	fields["time"] = time.Now().UTC().Format(time.RFC3339Nano)
	text, _ := json.Marshal(fields) // maps of strings and numbers
	fmt.Fprintf(r.con.out, "%s\n", text)
}

// line writes one line for people.
func (r *reporter) line(w io.Writer, format string, args ...any) {
	r.clear()
	fmt.Fprintf(w, format+"\n", args...)
}

func (r *reporter) clear() {
	if r.drawn {
		fmt.Fprint(r.con.err, "\r\x1b[K")
		r.drawn = false
	}
}

// say is for what goes on beside the entries.
func (r *reporter) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.json {
		r.event("say", map[string]any{"text": fmt.Sprintf(format, args...)})
		return
	}
	r.line(r.con.err, format, args...)
}

// would tells a change of a dry run.
func (r *reporter) would(c directory.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.json {
		r.event("would", map[string]any{"dn": c.DN, "from": c.From, "to": c.To, "old": c.OldFrom, "old_to": c.OldTo})
		return
	}
	if r.printed++; r.printed > preview && !r.verbose {
		return
	}
	r.line(r.con.out, "%s: %s -> %s%s", printable(c.DN), c.From, c.To, original(c))
}

func original(c directory.Change) string {
	switch {
	case c.OldTo == "" && c.OldFrom != "":
		return ", at home again"
	case c.OldFrom == "" && c.OldTo != "":
		return ", original " + c.OldTo
	case c.OldTo != "":
		return ", original " + c.OldTo + " kept"
	}
	return ""
}

// note tells what became of an entry that was not simply changed.
func (r *reporter) note(n failover.Note) {
	r.mu.Lock()
	defer r.mu.Unlock()
	word := map[failover.Result]string{failover.Changed: "left", failover.Conflict: "conflict", failover.Failed: "failed"}[n.Result]
	if n.Broken {
		word = "broken"
	}
	if r.json {
		r.event(word, map[string]any{"dn": n.DN, "reason": n.Reason})
		return
	}
	if word == "left" && !r.verbose {
		return
	}
	text := "left alone"
	if word == "failed" {
		text = "FAILED"
	}
	r.line(r.con.err, "%s: %s: %s", text, printable(n.DN), n.Reason)
}

// printable keeps a DN with control characters from writing on the terminal.
func printable(s string) string {
	if quoted := fmt.Sprintf("%q", s); strings.Contains(quoted, `\x`) || strings.Contains(quoted, `\u`) || strings.ContainsAny(s, "\r\n\t\x00") {
		return quoted
	}
	return s
}

// progress tells how far the run is, on a terminal in place, elsewhere as lines.
func (r *reporter) progress(s failover.Summary) {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := s.Total()
	n := done.Changed + done.Already + done.Conflict + done.Failed
	rate := float64(n) / max(s.Seconds, 0.001)
	if r.json {
		r.event("progress", map[string]any{"done": n, "total": r.total, "failed": done.Failed, "conflicts": done.Conflict, "rate": int(rate), "seconds": s.Seconds})
		return
	}
	text := fmt.Sprintf("%d accounts, %.0f/s", n, rate)
	if r.total > 0 {
		share := min(float64(n)/float64(r.total), 1)
		text = fmt.Sprintf("%3.0f %%  %d of %d accounts, %.0f/s", 100*share, n, r.total, rate)
		if rate > 0 && r.total > n {
			text += fmt.Sprintf(", %s left", (time.Duration(float64(r.total-n)/rate) * time.Second).Round(time.Second))
		}
	}
	if done.Failed > 0 {
		text += fmt.Sprintf(", %d failed", done.Failed)
	}
	if !r.con.terminal {
		r.line(r.con.err, "%s", text)
		return
	}
	r.clear()
	fmt.Fprint(r.con.err, bar(r.con.errWidth, n, r.total, text))
	r.drawn = true
}

// summary is the end of a run on one directory.
func (r *reporter) summary(name, journal string, s failover.Summary) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := s.Total()
	left := 0
	for _, n := range s.Left {
		left += n
	}
	if r.json {
		r.event("summary", r.fields(name, journal, s, left))
		return
	}
	r.clear()
	if !r.apply && r.printed > preview && !r.verbose {
		fmt.Fprintf(r.con.out, "… and %d more (-v names them all)\n", r.printed-preview)
	}
	word := "changed"
	if !r.apply {
		word = "would change"
	}
	rows := []row{{[2]string{"host before", "host after"}, []string{word, "skipped", "failed"}, ""}}
	add := func(from, to string, c failover.Count) {
		rows = append(rows, row{[2]string{from, to}, []string{strconv.Itoa(c.Changed), strconv.Itoa(c.Already + c.Conflict), strconv.Itoa(c.Failed)}, ""})
	}
	for _, way := range s.Sorted() {
		add(way.From, way.To, *s.Ways[way])
	}
	add("total", "", t)
	fmt.Fprintf(r.con.out, "\non %s:\n", name)
	table(r.con.out, r.con.width, [2]int{30, 30}, []int{12, 8, 8}, rows)
	fmt.Fprintf(r.con.out, "%.1f s, %.0f/s\n", s.Seconds, float64(t.Changed)/max(s.Seconds, 0.001))
	for _, reason := range sorted(s.Left) {
		fmt.Fprintf(r.con.out, "left alone, %d: %s\n", s.Left[reason], reason)
	}
	if journal != "" && t.Changed > 0 {
		fmt.Fprintf(r.con.out, "journal: %s (hostfailover undo -journal %s reverts it)\n", journal, journal)
	}
}

func (r *reporter) fields(name, journal string, s failover.Summary, left int) map[string]any {
	t := s.Total()
	var ways []map[string]any
	for _, way := range s.Sorted() {
		c := s.Ways[way]
		ways = append(ways, map[string]any{"from": way.From, "to": way.To, "changed": c.Changed, "already": c.Already, "conflicts": c.Conflict, "failed": c.Failed})
	}
	fields := map[string]any{
		"directory": name, "applied": r.apply, "changed": t.Changed, "already": t.Already, "conflicts": t.Conflict, "failed": t.Failed,
		"left": left, "seconds": s.Seconds, "rate": float64(t.Changed) / max(s.Seconds, 0.001), "hosts": ways, "journal": journal, "passes": s.Passes,
	}
	if r.apply && !s.LastChange.IsZero() {
		fields["last_change"] = s.LastChange.UTC().Format(time.RFC3339Nano)
	}
	return fields
}
