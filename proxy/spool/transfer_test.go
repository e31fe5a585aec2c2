package spool

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// exported makes an export of a spool, and says what is in it.
func exported(t *testing.T, dir, again string) (name string, messages int, tape []byte) {
	t.Helper()
	x, err := OpenExport(dir, again)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	var b bytes.Buffer
	if messages, err = x.Write(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if err := x.Done(); err != nil {
		t.Fatal(err)
	}
	return x.Name, messages, b.Bytes()
}

// deadSpool is a spool that nobody serves, with so many messages for a@x, the last of them on hold; h1 is away.
func deadSpool(t *testing.T, w *world, n int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	w.homes["a@x"], w.down["h1"] = "h1", true
	r := start(t, testConfig(dir), w)
	var last string
	for i := range n {
		last = r.accept(t, to("a@x"), fmt.Sprintf("%s %d", text, i))
	}
	until(t, "all were tried", func() bool { return r.Stats().Running() == 0 })
	until(t, "the last is on hold", func() bool {
		res, err := r.Hold(t.Context(), Filter{IDs: []string{last}})
		return err == nil && res.Changed == 1
	})
	r.end()
	return dir
}

// The queue of a dead frontend moves to another one, with the state of its recipients. Imported again it is known, even
// when its messages were delivered meanwhile: nobody gets them twice.
func TestExportImport(t *testing.T) {
	dead, w := t.TempDir(), newWorld()
	w.homes["a@x"], w.homes["b@x"], w.down["h1"] = "h1", "h2", true
	r := start(t, testConfig(dead), w)
	r.accept(t, to("a@x", "b@x"), text)
	held := r.accept(t, to("a@x"), text)
	until(t, "b@x has it", func() bool { return len(w.box("b@x")) == 1 && r.Stats().Running() == 0 })
	until(t, "it is on hold", func() bool {
		res, err := r.Hold(t.Context(), Filter{IDs: []string{held}})
		return err == nil && res.Changed == 1
	})
	r.end()
	name, n, tape := exported(t, dead, "")
	if n != 2 {
		t.Fatalf("%d messages exported, want 2", n)
	}
	if r := start(t, testConfig(dead), w); r.Stats().Messages != 0 || r.Stats().Held != 0 {
		t.Errorf("the exported queue still serves: %+v", r.Stats())
	} else {
		r.end()
	}
	if _, err := OpenExport(dead, ""); !errors.Is(err, ErrNothing) {
		t.Errorf("a second export: %v, want ErrNothing", err)
	}
	if _, _, again := exported(t, dead, name); !bytes.Equal(again, tape) {
		t.Error("the export made again is another one")
	}

	r = start(t, testConfig(t.TempDir()), w)
	if got, err := r.Import(t.Context(), bytes.NewReader(tape)); err != nil || got != (Imported{Export: name, Messages: 2}) {
		t.Errorf("import: %+v, %v", got, err)
	}
	w.set(func() { w.down["h1"] = false })
	r.Wake("h1")
	until(t, "the queue is empty", r.empty)
	if got, err := r.Import(t.Context(), bytes.NewReader(tape)); err != nil || got != (Imported{Export: name, Before: true}) {
		t.Errorf("import again: %+v, %v", got, err)
	}
	if a, b := len(w.box("a@x")), len(w.box("b@x")); a != 1 || b != 1 || r.Stats().Held != 1 || r.Stats().Messages != 0 {
		t.Errorf("a@x has %d, b@x has %d, %d on hold, %d wait; want 1, 1, 1, 0", a, b, r.Stats().Held, r.Stats().Messages)
	}
}

// breaks ends a stream with an error after so many bytes.
type breaks struct{ left int }

func (b *breaks) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

// An export that breaks off keeps the queue out of the dead frontend's hands, and is made again under its name. Mail that
// came meanwhile is for the next one.
func TestExportInterrupted(t *testing.T) {
	w := newWorld()
	dead := deadSpool(t, w, 5)
	x, err := OpenExport(dead, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Write(t.Context(), &breaks{left: 3000}); !errors.Is(err, io.ErrClosedPipe) {
		t.Fatalf("a pipe that breaks: %v", err)
	}
	x.Close()
	r := start(t, testConfig(dead), w)
	if r.Stats().Messages != 0 || !strings.Contains(r.log.String(), x.Name) {
		t.Errorf("%d messages serve; the log says:\n%s", r.Stats().Messages, r.log)
	}
	r.accept(t, to("a@x"), text)
	r.end()
	name, n, _ := exported(t, dead, "")
	if name != x.Name || n != 5 {
		t.Errorf("the next export is %s with %d messages, want %s with 5", name, n, x.Name)
	}
	if other, n, _ := exported(t, dead, ""); other == name || n != 1 {
		t.Errorf("the one after it is %s with %d messages, want another one with 1", other, n)
	}
}

// An import whose stream ends anywhere before its end takes nothing in, and leaves nothing; the whole one then does.
func TestImportInterrupted(t *testing.T) {
	w := newWorld()
	_, n, tape := exported(t, deadSpool(t, w, 4), "")
	r := start(t, testConfig(t.TempDir()), w)
	for size := 0; size <= bytes.Index(tape, []byte(entryEnd)); size += 251 {
		if got, err := r.Import(t.Context(), bytes.NewReader(tape[:size])); !errors.Is(err, ErrExport) || got.Messages != 0 {
			t.Fatalf("%d of %d bytes: %+v, %v", size, len(tape), got, err)
		}
	}
	if left := files(t, r.cfg.Dir); len(left) > 0 || r.Stats().Messages+r.Stats().Held > 0 {
		t.Errorf("left behind: %q, %+v", left, r.Stats())
	}
	if got, err := r.Import(t.Context(), bytes.NewReader(tape)); err != nil || got.Messages != n {
		t.Errorf("the whole export: %+v, %v", got, err)
	}
	if st := r.Stats(); st.Messages != n-1 || st.Held != 1 {
		t.Errorf("%d wait, %d on hold; want %d and 1", st.Messages, st.Held, n-1)
	}
}

// A frontend that dies at any step of an import goes on with it at its next start, or has taken nothing in; imported again,
// everybody gets each message once.
func TestImportCrashes(t *testing.T) {
	w := newWorld()
	_, n, tape := exported(t, deadSpool(t, w, 6), "")
	for step := 1; ; step++ {
		w.set(func() { w.boxes, w.down["h1"] = map[string][]string{}, true })
		cfg := testConfig(t.TempDir())
		steps := 0
		crash := func(string, string) error {
			if steps++; steps >= step { // and every one behind it: the process is dead
				return errors.New("crash")
			}
			return nil
		}
		s := prepare(cfg, Services{Router: w, Deliverer: w})
		if err := s.open(); err != nil {
			t.Fatal(err)
		}
		s.disk.fault = crash
		_, err := s.Import(t.Context(), bytes.NewReader(tape))
		died := err != nil
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		r := start(t, cfg, w)
		had := r.Stats().Messages + r.Stats().Held
		if had != 0 && had != n {
			t.Fatalf("step %d: %d of %d messages after the start", step, had, n)
		}
		if got, err := r.Import(t.Context(), bytes.NewReader(tape)); err != nil || got.Before != (had == n) {
			t.Fatalf("step %d: import again: %+v, %v, had %d", step, got, err, had)
		}
		if _, err := r.Release(t.Context(), Filter{}); err != nil {
			t.Fatal(err)
		}
		w.set(func() { w.down["h1"] = false })
		r.Flush()
		until(t, "the queue is empty", r.empty)
		if got := w.box("a@x"); len(got) != n {
			t.Fatalf("step %d: %d messages arrived, want %d", step, len(got), n)
		}
		r.end()
		if left := files(t, cfg.Dir); len(left) != 1 || !strings.HasSuffix(left[0], suffixDone) {
			t.Fatalf("step %d: left behind: %q", step, left)
		}
		if !died {
			t.Logf("%d steps", step-1)
			return
		}
	}
}

// What is no export, or has names that lead elsewhere, is refused, and nothing of it stays.
func TestImportRefuses(t *testing.T) {
	make := func(name, export string, files ...string) []byte {
		var b bytes.Buffer
		out := tar.NewWriter(&b)
		if err := writeEntry(out, name, entry{Format: format, Export: export}); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := out.WriteHeader(&tar.Header{Name: f, Size: 4, Mode: 0o600}); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Write([]byte("text")); err != nil {
				t.Fatal(err)
			}
		}
		if err := writeEntry(out, entryEnd, entry{Export: export, Messages: len(files)}); err != nil {
			t.Fatal(err)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	id := newID(time.Now())
	cfg := testConfig(t.TempDir())
	r := start(t, cfg, newWorld())
	for what, tape := range map[string][]byte{
		"nothing":            nil,
		"no tar":             []byte(strings.Repeat("no tar ", 500)),
		"no begin":           make("queue/h1/"+id+suffix, "exported-1"),
		"a name that climbs": make(entryBegin, "exported-../../x"),
		"no name":            make(entryBegin, ""),
		"a file that climbs": make(entryBegin, "exported-1", "queue/../../"+id+".txt"),
		"no message":         make(entryBegin, "exported-1", "queue/h1/short.eml"),
		"one message twice":  make(entryBegin, "exported-1", "queue/h1/"+id+suffix, "queue/h2/"+id+suffix),
	} {
		if got, err := r.Import(t.Context(), bytes.NewReader(tape)); err == nil || got.Messages > 0 {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
	if left := files(t, cfg.Dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if got, err := r.Import(t.Context(), bytes.NewReader(make(entryBegin, "exported-1", "queue/h1/"+id+suffix))); err != nil || got.Unreadable != 1 {
		t.Errorf("a message that is none: %+v, %v", got, err)
	}
	cfg.MaxSize = 3
	small := start(t, Config{Dir: t.TempDir(), MinFree: 1 << 20, MaxSize: 3}, newWorld())
	if _, err := small.Import(t.Context(), bytes.NewReader(make(entryBegin, "exported-1", "queue/h1/"+id+suffix))); !errors.Is(err, ErrFull) {
		t.Errorf("a queue that is full: %v", err)
	}
}

// The survey says how old the oldest message is, by host.
func TestSurvey(t *testing.T) {
	w := newWorld()
	w.homes["a@x"], w.down["h1"] = "h1", true
	r := start(t, testConfig(t.TempDir()), w)
	before := time.Now().Add(-time.Millisecond)
	first := r.accept(t, to("a@x"), text)
	r.accept(t, to("a@x"), text)
	st := r.Survey()
	if st.Messages != 2 || st.Oldest.Before(before) || st.Oldest.After(time.Now()) || !st.Oldest.Equal(arrival(first)) ||
		len(st.Hosts) != 1 || !st.Hosts[0].Oldest.Equal(st.Oldest) {
		t.Errorf("%+v", st)
	}
	if _, err := os.Stat(filepath.Join(r.cfg.Dir, dirQueue, "h1", first+suffix)); err != nil {
		t.Error(err)
	}
}
