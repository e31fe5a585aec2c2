package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"mailmux/proxy/admin"
	"mailmux/proxy/spool"
)

// listing prints messages as they come: sorted by their arrival, as far as one block reaches.
type listing struct {
	w    io.Writer
	json bool

	block    []*spool.Info
	messages int
	held     int
	bytes    int64
}

// blockSize is how many messages are held to be sorted: more come block by block.
const blockSize = 10_000

// add takes one more message.
func (l *listing) add(i *spool.Info) error {
	l.messages++
	l.bytes += i.Size
	if i.Held {
		l.held++
	}
	if l.block = append(l.block, i); len(l.block) < blockSize {
		return nil
	}
	return l.flush()
}

// flush prints a block.
func (l *listing) flush() error {
	slices.SortFunc(l.block, func(a, b *spool.Info) int { return cmp.Compare(a.ID, b.ID) })
	block := l.block
	l.block = nil
	if l.json {
		e := json.NewEncoder(l.w) // a line each: a million of them are no array
		e.SetEscapeHTML(false)
		for _, i := range block {
			if err := e.Encode(i); err != nil {
				return err
			}
		}
		return nil
	}
	if len(block) == 0 {
		return nil
	}
	t, row := columns(l.w, "ID", "AGE", "SIZE", "NEXT", "SENDER", "RECIPIENT", "HOST", "LAST ANSWER")
	for _, i := range block {
		head := []any{i.ID, admin.Span(time.Since(i.Arrived)), size(i.Size), nextTry(i), sender(i.From)}
		for _, r := range i.Recipients {
			if r.State == spool.Waiting {
				row(append(head, r.Address, dash(r.Host), dash(short(r.Reply)))...)
				head = []any{"", "", "", "", ""}
			}
		}
		if head[0] != "" { // nothing waits: it is about to go
			row(append(head, "-", "-", "-")...)
		}
	}
	flush(t)
	return nil
}

// end prints the rest, and the sum.
func (l *listing) end() error {
	if err := l.flush(); err != nil || l.json {
		return err
	}
	if l.messages == 0 {
		fmt.Fprintln(l.w, "no messages")
		return nil
	}
	text := fmt.Sprintf("%s, %s", plural(l.messages, "message"), size(l.bytes))
	if l.held > 0 {
		text += fmt.Sprintf(", %d on hold", l.held)
	}
	fmt.Fprintln(l.w, text)
	return nil
}

// short is the beginning of an answer; show has it whole.
func short(reply string) string {
	const most = 100
	if r := []rune(reply); len(r) > most {
		return string(r[:most]) + "…"
	}
	return reply
}

// nextTry says when a message is tried next.
func nextTry(i *spool.Info) string {
	switch left := time.Until(i.Next); {
	case i.Held:
		return "on hold"
	case left <= 0:
		return "now"
	default:
		return "in " + admin.Span(left)
	}
}

// sender is a sender as SMTP writes the null one.
func sender(from string) string {
	if from == "" {
		return "<>"
	}
	return from
}

// showMessage prints all that is known of a message.
func showMessage(w io.Writer, i *spool.Info) {
	t, row := columns(w)
	row("id", i.ID)
	row("sender", sender(i.From))
	row("size", size(i.Size))
	row("arrived", clock(i.Arrived)+", "+admin.Span(time.Since(i.Arrived))+" ago")
	row("from", dash(i.Client))
	row("next attempt", nextTry(i))
	if i.EnvID != "" {
		row("envelope id", i.EnvID)
	}
	flush(t)
	for _, r := range i.Recipients {
		fmt.Fprintf(w, "\n%s\n", printable(r.Address))
		t, row := columns(w)
		row("  state", string(r.State))
		row("  account", dash(r.Account))
		row("  home host", dash(r.Host))
		if r.Relay {
			row("  may leave", "by a smarthost, if nobody here has the address")
		}
		row("  attempts", r.Attempts)
		if r.Attempts > 0 {
			row("  last attempt", clock(r.Last))
			row("  member", dash(r.Member))
			row("  answer", dash(r.Reply))
		}
		if len(r.Notify) > 0 {
			row("  notify", strings.ToLower(strings.Join(r.Notify, ", ")))
		}
		flush(t)
	}
}

// showQueue prints the state of the queue, for status.
func showQueue(w io.Writer, q *admin.QueueStatus) {
	if q == nil {
		return
	}
	fmt.Fprintf(w, "queue %s", plural(q.Messages, "message"))
	if q.Messages > 0 {
		fmt.Fprintf(w, " waiting, %s", size(q.Bytes))
	}
	if !q.Oldest.IsZero() {
		fmt.Fprintf(w, ", the oldest for %s", admin.Span(time.Since(q.Oldest)))
	}
	fmt.Fprintf(w, "; %d on hold", q.Held)
	if q.Quarantined > 0 {
		fmt.Fprintf(w, "; %s not readable, in quarantine: see the log", plural(q.Quarantined, "file"))
	}
	fmt.Fprintln(w)
	if len(q.Hosts) > 0 {
		t, row := columns(w, "QUEUED FOR", "MESSAGES", "OLDEST", "TRIED NOW")
		for _, h := range q.Hosts {
			oldest := "-"
			if !h.Oldest.IsZero() {
				oldest = admin.Span(time.Since(h.Oldest))
			}
			row(cmp.Or(h.Host, "(several, or unknown)"), h.Messages, oldest, h.Running)
		}
		flush(t)
	}
	if len(q.Away) > 0 {
		fmt.Fprintf(w, "could not be reached: %s\n", strings.Join(q.Away, ", "))
	}
	fmt.Fprintln(w)
}
