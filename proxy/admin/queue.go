package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"mailmux/proxy/spool"
)

// Queue is the messages that wait in this frontend; *spool.Spool is one, and says what its methods do. They may be called
// from many goroutines at once.
type Queue interface {
	List(ctx context.Context, f spool.Filter, do func(*spool.Info) error) error
	Show(id string) (*spool.Info, io.ReadCloser, error)
	Retry(ctx context.Context, f spool.Filter) (spool.Result, error)
	Hold(ctx context.Context, f spool.Filter) (spool.Result, error)
	Release(ctx context.Context, f spool.Filter) (spool.Result, error)
	Delete(ctx context.Context, f spool.Filter) (spool.Result, error)
	Flush()
	Import(ctx context.Context, r io.Reader) (spool.Imported, error)
}

// Selection chooses messages of the queue. What is set has to match; texts compare without regard to case.
type Selection struct {
	IDs       []string `json:"ids,omitempty"`       // one of these
	Recipient string   `json:"recipient,omitempty"` // that waits: its address, or its account's login name
	Domain    string   `json:"domain,omitempty"`    // of a recipient that waits
	Host      string   `json:"host,omitempty"`      // the home host of a recipient that waits
	Sender    string   `json:"sender,omitempty"`    // <> is the null sender
	Older     float64  `json:"older,omitempty"`     // in the queue for longer, in seconds
	Younger   float64  `json:"younger,omitempty"`   // in the queue for less, in seconds
	Held      *bool    `json:"held,omitempty"`      // on hold, or not
	All       bool     `json:"all,omitempty"`       // every message, where nothing else is set
}

// Empty says whether nothing is chosen.
func (s *Selection) Empty() bool {
	return len(s.IDs) == 0 && s.Recipient == "" && s.Domain == "" && s.Host == "" && s.Sender == "" && s.Older == 0 && s.Younger == 0 && s.Held == nil
}

// Filter is the selection as the spool takes it.
func (s *Selection) Filter() spool.Filter {
	span := func(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }
	return spool.Filter{IDs: s.IDs, Recipient: s.Recipient, Domain: s.Domain, Host: s.Host, Sender: s.Sender, Older: span(s.Older),
		Younger: span(s.Younger), Held: s.Held}
}

// Query is the selection as GET /queue takes it.
func (s *Selection) Query() url.Values {
	q := url.Values{}
	for key, value := range map[string]string{"recipient": s.Recipient, "domain": s.Domain, "host": s.Host, "sender": s.Sender} {
		if value != "" {
			q.Set(key, value)
		}
	}
	for key, seconds := range map[string]float64{"older": s.Older, "younger": s.Younger} {
		if seconds != 0 {
			q.Set(key, strconv.FormatFloat(seconds, 'f', -1, 64))
		}
	}
	if s.Held != nil {
		q.Set("held", strconv.FormatBool(*s.Held))
	}
	if len(s.IDs) > 0 {
		q["id"] = s.IDs
	}
	return q
}

func selectionOf(q url.Values) (Selection, error) {
	s := Selection{IDs: q["id"], Recipient: q.Get("recipient"), Domain: q.Get("domain"), Host: q.Get("host"), Sender: q.Get("sender")}
	for key, seconds := range map[string]*float64{"older": &s.Older, "younger": &s.Younger} {
		if text := q.Get(key); text != "" {
			n, err := strconv.ParseFloat(text, 64)
			if err != nil || n < 0 {
				return s, fmt.Errorf("%s: %q is not a number of seconds", key, text)
			}
			*seconds = n
		}
	}
	if text := q.Get("held"); text != "" {
		held, err := strconv.ParseBool(text)
		if err != nil {
			return s, fmt.Errorf("held: %q is neither true nor false", text)
		}
		s.Held = &held
	}
	return s, nil
}

// Flushed is the answer to flush.
type Flushed struct {
	Messages int `json:"messages"` // that are tried now
}

// errNoQueue is what a frontend without a queue says.
var errNoQueue = errors.New("this frontend has no queue: its configuration has no spool.dir")

// queues adds what operators ask of the queue. Each may take as long as the queue is large: the deadlines of other
// commands do not hold.
func (s *Server) queues(mux *http.ServeMux) {
	handle := func(pattern string, do http.HandlerFunc) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if s.Queue == nil {
				fail(w, http.StatusConflict, errNoQueue)
				return
			}
			control := http.NewResponseController(w) // a recorder of tests has no deadlines to lift
			_ = control.SetReadDeadline(time.Time{})
			_ = control.SetWriteDeadline(time.Time{})
			do(w, r)
		})
	}
	handle("GET /queue", s.queueList)
	handle("GET /queue/{id}", s.queueShow)
	handle("GET /queue/{id}/message", s.queueMessage)
	handle("POST /queue/flush", s.queueFlush)
	handle("POST /queue/import", s.queueImport)
	// The queue is there by the time that a handler runs.
	handle("POST /queue/retry", s.queueChange("tried at once", func(ctx context.Context, f spool.Filter) (spool.Result, error) { return s.Queue.Retry(ctx, f) }))
	handle("POST /queue/hold", s.queueChange("put on hold", func(ctx context.Context, f spool.Filter) (spool.Result, error) { return s.Queue.Hold(ctx, f) }))
	handle("POST /queue/release", s.queueChange("released", func(ctx context.Context, f spool.Filter) (spool.Result, error) { return s.Queue.Release(ctx, f) }))
	handle("POST /queue/delete", s.queueChange("deleted", func(ctx context.Context, f spool.Filter) (spool.Result, error) { return s.Queue.Delete(ctx, f) }))
}

// queueList writes the messages that match, a line of JSON each, in no order. An error on the way is the last line, a
// Problem.
func (s *Server) queueList(w http.ResponseWriter, r *http.Request) {
	selection, err := selectionOf(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	header(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if err := s.Queue.List(r.Context(), selection.Filter(), func(i *spool.Info) error { return e.Encode(i) }); err != nil {
		_ = e.Encode(Problem{err.Error()}) // a caller that is gone does not read it
	}
}

func (s *Server) queueShow(w http.ResponseWriter, r *http.Request) {
	info, body, err := s.Queue.Show(r.PathValue("id"))
	if err != nil {
		fail(w, notFound(err), err)
		return
	}
	body.Close()
	answer(w, info)
}

// queueMessage writes the message itself, as it came.
func (s *Server) queueMessage(w http.ResponseWriter, r *http.Request) {
	info, body, err := s.Queue.Show(r.PathValue("id"))
	if err != nil {
		fail(w, notFound(err), err)
		return
	}
	defer body.Close()
	header(w)
	w.Header().Set("Content-Type", "message/rfc822")
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size, 10))
	_, _ = io.Copy(w, body) // the length tells the caller when not all came
}

func notFound(err error) int {
	if errors.Is(err, spool.ErrNotFound) {
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}

// queueChange does something to the messages of a selection. An empty one is refused: a field that was forgotten must not
// mean everybody's mail.
func (s *Server) queueChange(done string, do func(context.Context, spool.Filter) (spool.Result, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var selection Selection
		if !read(w, r, &selection) {
			return
		}
		if selection.Empty() && !selection.All {
			fail(w, http.StatusBadRequest, errors.New("say which messages: ids, recipient, domain, host, sender, older, younger, held or all"))
			return
		}
		result, err := do(r.Context(), selection.Filter())
		if text, e := json.Marshal(&selection); e == nil {
			s.Log.Info("messages of the queue "+done+" by the operator", "selection", string(text), "messages", result.Changed, "busy", result.Busy)
		}
		if err != nil {
			fail(w, http.StatusInternalServerError, fmt.Errorf("%d messages were %s, then: %w", result.Changed, done, err))
			return
		}
		answer(w, result)
	}
}

func (s *Server) queueFlush(w http.ResponseWriter, _ *http.Request) {
	n := 0
	if q := s.Frontend.Status().Queue; q != nil {
		n = q.Messages
	}
	s.Queue.Flush()
	s.Log.Info("the queue was flushed by the operator", "messages", n)
	answer(w, Flushed{n})
}

func (s *Server) queueImport(w http.ResponseWriter, r *http.Request) {
	done, err := s.Queue.Import(r.Context(), r.Body)
	_, _ = io.Copy(io.Discard, r.Body) // else the caller may see a broken pipe in place of the answer
	switch {
	case errors.Is(err, spool.ErrExport):
		fail(w, http.StatusBadRequest, err)
	case errors.Is(err, spool.ErrFull):
		fail(w, http.StatusInsufficientStorage, err)
	case err != nil:
		fail(w, http.StatusInternalServerError, err)
	default:
		answer(w, done)
	}
}

// ReadQueue reads the answer of GET /queue: do gets one message after the other.
func ReadQueue(r io.Reader, do func(*spool.Info) error) error {
	d := json.NewDecoder(r)
	for {
		var line json.RawMessage
		switch err := d.Decode(&line); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the frontend's answer: %w", err)
		}
		var p Problem
		if err := json.Unmarshal(line, &p); err == nil && p.Error != "" && !bytes.Contains(line, []byte(`"id":`)) {
			return errors.New(p.Error)
		}
		i := &spool.Info{}
		if err := json.Unmarshal(line, i); err != nil {
			return fmt.Errorf("read the frontend's answer: %w", err)
		}
		if err := do(i); err != nil {
			return err
		}
	}
}

// QueueStatus is the state of the queue.
type QueueStatus struct {
	Messages      int               `json:"messages"` // that wait, those on hold left out
	Bytes         int64             `json:"bytes"`    // of their files
	Oldest        time.Time         `json:"oldest,omitzero"`
	Held          int               `json:"held"`
	Quarantined   int               `json:"quarantined"` // files that cannot be read
	Hosts         []spool.HostStats `json:"hosts"`       // where messages wait for
	Away          []string          `json:"away"`        // members that could not be reached, as host/member
	Accepted      uint64            `json:"accepted"`    // since the start, as all that follows
	Delivered     uint64            `json:"delivered"`   // recipients
	Deferred      uint64            `json:"deferred"`    // attempts that left a recipient waiting
	Refused       uint64            `json:"refused"`     // recipients
	Expired       uint64            `json:"expired"`     // recipients
	Notifications uint64            `json:"notifications"`
}

// QueueOf is the state of a queue by its statistics.
func QueueOf(st spool.Stats) *QueueStatus {
	q := &QueueStatus{Messages: st.Messages, Bytes: st.Bytes, Oldest: st.Oldest, Held: st.Held, Quarantined: st.Quarantined, Hosts: st.Hosts,
		Away: []string{}, Accepted: st.Accepted, Delivered: st.Delivered, Deferred: st.Deferred, Refused: st.Failed, Expired: st.Expired,
		Notifications: st.Notifications}
	if q.Hosts == nil {
		q.Hosts = []spool.HostStats{}
	}
	for _, t := range st.Away {
		q.Away = append(q.Away, t.Host+"/"+t.Member)
	}
	return q
}
