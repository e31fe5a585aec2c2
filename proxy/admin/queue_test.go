package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"mailmux/proxy/spool"
)

// openSpool is a real queue that delivers nothing, with messages for ann on back1 and for bob on back2.
func openSpool(t *testing.T) (s *spool.Spool, ann, bob string) {
	t.Helper()
	s, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: 1 << 20}, spool.Services{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	accept := func(name, host string) string {
		id, err := s.Accept(t.Context(), &spool.Envelope{From: "someone@example.net", To: []spool.Recipient{{Address: name + "@example.com", Host: host}}},
			strings.NewReader("Subject: for "+name+"\r\n\r\ntext\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	return s, accept("ann", "back1.example.com"), accept("bob", "back2.example.com")
}

// queueServer is a server with that queue.
func queueServer(t *testing.T) (h http.Handler, s *spool.Spool, ann, bob string) {
	t.Helper()
	s, ann, bob = openSpool(t)
	server := newServer(t, newFake())
	server.Queue = s
	return server.operator(), s, ann, bob
}

func ask(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

// The list and the commands take what the selection says, and nothing without one.
func TestQueueCommands(t *testing.T) {
	h, s, ann, bob := queueServer(t)
	for _, tt := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/queue", "", 200, ann},
		{"GET", "/queue", "", 200, bob},
		{"GET", "/queue?recipient=ANN@example.com", "", 200, ann},
		{"GET", "/queue?held=perhaps", "", 400, "neither true nor false"},
		{"GET", "/queue?older=-1", "", 400, "number of seconds"},
		{"GET", "/queue/" + ann, "", 200, `"to": "ann@example.com"`},
		{"GET", "/queue/" + ann + "/message", "", 200, "Subject: for ann\r\n\r\ntext\r\n"},
		{"GET", "/queue/1k7va0000000000000", "", 404, "no such message"},
		{"GET", "/queue/..%2f..%2fetc%2fpasswd", "", 404, "no such message"},
		{"POST", "/queue/delete", "{}", 400, "say which messages"},
		{"POST", "/queue/delete", `{"recipent":"ann@example.com"}`, 400, "unknown field"},
		{"POST", "/queue/hold", `{"host":"back1.example.com"}`, 200, `"changed": 1`},
		{"POST", "/queue/hold", `{"host":"back1.example.com"}`, 200, `"changed": 0`},
		{"GET", "/queue?held=true", "", 200, ann},
		{"POST", "/queue/release", `{"held":true}`, 200, `"changed": 1`},
		{"POST", "/queue/retry", `{"domain":"example.com"}`, 200, `"changed": 2`},
		{"POST", "/queue/retry", `{"older":3600}`, 200, `"changed": 0`},
		{"POST", "/queue/delete", fmt.Sprintf(`{"ids":[%q]}`, ann), 200, `"changed": 1`},
		{"POST", "/queue/flush", "{}", 200, `"messages": 12`}, // of the frontend's status
		{"POST", "/queue/delete", `{"all":true}`, 200, `"changed": 1`},
		{"POST", "/queue/import", "no export", 400, "not a whole export"},
		{"GET", "/queue/delete", "", 404, ""},
	} {
		w := ask(h, tt.method, tt.path, tt.body)
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s %s %s: %d %s, want %d with %s", tt.method, tt.path, tt.body, w.Code, w.Body, tt.code, tt.want)
		}
	}
	if st := s.Stats(); st.Messages+st.Held != 0 {
		t.Errorf("left in the queue: %+v", st)
	}
	if w := ask(newServer(t, newFake()).operator(), "GET", "/queue", ""); w.Code != 409 || !strings.Contains(w.Body.String(), "spool.dir") {
		t.Errorf("without a queue: %d %s", w.Code, w.Body)
	}
}

// A selection survives its way through an address, and chooses the same.
func TestSelection(t *testing.T) {
	held := false
	want := Selection{IDs: []string{"a", "b"}, Recipient: "a+b@x", Domain: "x", Host: "h", Sender: "<>", Older: 1.5, Younger: 86400, Held: &held}
	got, err := selectionOf(want.Query())
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if !bytes.Equal(a, b) {
		t.Errorf("got %s, want %s", a, b)
	}
	if empty := (&Selection{All: true}); !empty.Empty() || want.Empty() {
		t.Error("Empty is wrong")
	}
}

// The reader of a list tells messages from an error that ends it.
func TestReadQueue(t *testing.T) {
	h, _, ann, bob := queueServer(t)
	seen := map[string]bool{}
	read := func(text string) error {
		return ReadQueue(strings.NewReader(text), func(i *spool.Info) error { seen[i.ID] = true; return nil })
	}
	list := ask(h, "GET", "/queue", "").Body.String()
	if err := read(list); err != nil || !seen[ann] || !seen[bob] || len(seen) != 2 {
		t.Errorf("%v, %v", seen, err)
	}
	if err := read(list + `{"error":"the disk is gone"}` + "\n"); err == nil || err.Error() != "the disk is gone" {
		t.Errorf("an error on the way: %v", err)
	}
	if err := read(list[:len(list)-10]); err == nil {
		t.Error("a list that breaks off is taken for a whole one")
	}
}

// An export of one frontend's spool is imported over the socket of another one, once.
func TestQueueImport(t *testing.T) {
	s, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: 1 << 20}, spool.Services{})
	if err != nil {
		t.Fatal(err)
	}
	dead := t.TempDir()
	old, err := spool.Open(spool.Config{Dir: dead, MinFree: 1 << 20}, spool.Services{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Accept(context.Background(), &spool.Envelope{To: []spool.Recipient{{Address: "ann@example.com"}}}, strings.NewReader("text")); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	x, err := spool.OpenExport(dead, "")
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	var tape bytes.Buffer
	if _, err := x.Write(t.Context(), &tape); err != nil {
		t.Fatal(err)
	}
	server := newServer(t, newFake())
	server.Queue = s
	web := httptest.NewServer(server.operator())
	t.Cleanup(func() { web.Close(); s.Close() })
	for _, want := range []string{`"messages": 1`, `"before": true`} {
		response, err := http.Post(web.URL+"/queue/import", "application/x-tar", bytes.NewReader(tape.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != 200 || !strings.Contains(string(text), want) {
			t.Errorf("%d %s %v, want %s", response.StatusCode, text, err, want)
		}
	}
}
