package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// agentState is what a member's agent said last. Silence changes nothing: that the member is reachable is for the checks
// to say.
type agentState struct {
	due     time.Time
	percent *int // of its weight
	admin   string
	oper    string
	words   string    // as said last
	why     string    // why it could not be asked, "" if it was
	since   time.Time // when it took its member out, or put it back
}

// report is one answer of an agent by HAProxy's agent-check protocol: words on one line, such as "up 75%", "drain",
// "down#disk is full". What it does not say stays as it was.
type report struct {
	percent *int
	admin   string // ready, drain or maint
	oper    string // up, down, failed or stopped
}

// parseReport reads an agent's line. maxconn is understood and left to the limits of the frontends.
func parseReport(line string) (report, error) {
	var r report
	said, _, _ := strings.Cut(line, "#") // a description goes to the end of the line
	words := strings.FieldsFunc(said, func(c rune) bool { return c == ' ' || c == '\t' || c == ',' })
	for _, word := range words {
		switch lower := strings.ToLower(word); {
		case lower == "ready" || lower == "drain" || lower == "maint":
			r.admin = lower
		case lower == "up" || lower == "down" || lower == "failed" || lower == "fail" || lower == "stopped":
			r.oper = lower
		case strings.HasPrefix(lower, "maxconn:"):
		case strings.HasSuffix(lower, "%"):
			n, err := strconv.Atoi(strings.TrimSuffix(lower, "%"))
			if err != nil || n < 0 {
				return report{}, fmt.Errorf("agent says %.60q: %q is no share", line, word)
			}
			n = min(n, 256*100)
			r.percent = &n
		default:
			return report{}, fmt.Errorf("agent says %.60q: %q is no word of the agent-check protocol", line, word)
		}
	}
	if len(words) == 0 {
		return report{}, errors.New("agent says nothing")
	}
	return r, nil
}

// out says whether the agent takes its member out of service.
func (a agentState) out() bool {
	return a.admin == "drain" || a.admin == "maint" || a.oper != "" && a.oper != "up" || a.percent != nil && *a.percent == 0
}

func (m *Member) agentDue() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.agent.due
}

// askAgent connects to the member's agent and takes its report over.
func (m *Member) askAgent(ctx context.Context, e *effective) {
	line, err := m.agentLine(ctx, e)
	var r report
	if err == nil {
		r, err = parseReport(line)
	}
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	a := &m.agent
	a.due = time.Now().Add(jitter(e.Check.Interval))
	was := a.out()
	if err != nil {
		a.why = err.Error()
		m.mu.Unlock()
		return
	}
	a.why, a.words = "", line
	if r.percent != nil {
		a.percent = r.percent
	}
	if r.admin != "" {
		a.admin = r.admin
	}
	if r.oper != "" {
		a.oper = r.oper
	}
	out := a.out()
	if out != was {
		a.since = time.Now()
	}
	state := m.state.Load() &^ agentOutBit
	if out {
		state |= agentOutBit
	}
	m.set(state)
	m.mu.Unlock()
	switch {
	case out && !was:
		m.table.tell(Event{Member: m, Change: WentDown, Why: "agent says " + line})
	case was && !out:
		m.table.tell(Event{Member: m, Change: CameUp, Why: "agent says " + line})
	}
}

// agentLine is the agent's answer: up to the first line end, or all it says before it closes.
func (m *Member) agentLine(ctx context.Context, e *effective) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, e.Check.Timeout)
	defer cancel()
	conn, err := m.connect(ctx, nil, e, uint16(e.Check.AgentPort), 0)
	if err != nil {
		return "", fmt.Errorf("agent: %w", err)
	}
	defer conn.Close()
	ended := context.AfterFunc(ctx, func() { conn.Close() })
	defer ended()
	if e.Check.AgentSend != "" {
		if _, err := io.WriteString(conn, e.Check.AgentSend+"\n"); err != nil {
			return "", fmt.Errorf("agent: %w", err)
		}
	}
	return readReport(conn)
}

// readReport reads an agent's line: it ends with a carriage return, a line feed, or the connection.
func readReport(conn net.Conn) (string, error) {
	buf := make([]byte, 0, 512)
	for len(buf) < cap(buf) {
		n, err := conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if line, _, ended := strings.Cut(strings.ReplaceAll(string(buf), "\r", "\n"), "\n"); ended || err == io.EOF {
			return strings.TrimSpace(line), nil
		}
		if err != nil {
			return "", fmt.Errorf("agent: %w", err)
		}
	}
	return "", errors.New("agent says too much")
}
