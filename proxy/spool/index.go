package spool

import (
	"container/heap"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// shelf is a directory below queue, with its window: the messages that are due first. Spool.mu guards it.
type shelf struct {
	name string // of the directory
	path string
	dir  *os.File

	window  window
	horizon *key // the window has everything that is due before it; nil: it has everything
	sweep   bool // the directory is being read: the window takes everything new
	fresh   bool // its messages are not counted yet
	running int
	count   int
}

// mixed is the shelf for messages of several hosts, or of unknown ones.
const mixed = "_"

// maxWindow bounds the windows of all shelves together, minWindow each from below.
const (
	maxWindow = 200_000
	minWindow = 1000
)

// shelfName is the directory of a host: its name, with what may not stand in a file name escaped.
func shelfName(host string) string {
	var b strings.Builder
	for i := range len(host) {
		switch c := host[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() == 0 || b.Len() > 255 {
		return mixed
	}
	return b.String()
}

// hostOf is the host of a shelf, "" for the mixed one.
func hostOf(name string) string {
	host, err := url.PathUnescape(name)
	if name == mixed || err != nil {
		return ""
	}
	return host
}

// key orders messages: by time, then by id, which orders them by arrival.
type key struct {
	due int64 // nanoseconds since 1970, by the wall clock
	id  string
}

func (k key) before(o key) bool { return k.due < o.due || k.due == o.due && k.id < o.id }

func (k key) time() time.Time { return time.Unix(0, k.due) }

// window is a heap of keys that knows where each id is.
type window struct {
	keys []key
	at   map[string]int
}

func (w *window) Len() int           { return len(w.keys) }
func (w *window) Less(i, j int) bool { return w.keys[i].before(w.keys[j]) }
func (w *window) Push(x any)         { w.keys = append(w.keys, x.(key)); w.at[x.(key).id] = len(w.keys) - 1 }
func (w *window) Swap(i, j int) {
	w.keys[i], w.keys[j] = w.keys[j], w.keys[i]
	w.at[w.keys[i].id], w.at[w.keys[j].id] = i, j
}

func (w *window) Pop() any {
	last := w.keys[len(w.keys)-1]
	w.keys = w.keys[:len(w.keys)-1]
	delete(w.at, last.id)
	return last
}

// set adds a message or changes its time.
func (w *window) set(k key) {
	if i, ok := w.at[k.id]; ok {
		w.keys[i] = k
		heap.Fix(w, i)
		return
	}
	heap.Push(w, k)
}

func (w *window) drop(id string) {
	if i, ok := w.at[id]; ok {
		heap.Remove(w, i)
	}
}

// fit keeps the first n messages and gives the first of the others.
func (w *window) fit(n int) *key {
	if len(w.keys) <= n {
		return nil
	}
	slices.SortFunc(w.keys, compareKeys) // a sorted slice is a heap
	cut := w.keys[n]
	w.keys = slices.Clone(w.keys[:n])
	w.index()
	return &cut
}

// index says where each id is, after the slice has been changed.
func (w *window) index() {
	w.at = make(map[string]int, len(w.keys))
	for i, k := range w.keys {
		w.at[k.id] = i
	}
}

func compareKeys(a, b key) int {
	switch {
	case a.before(b):
		return -1
	case b.before(a):
		return 1
	}
	return 0
}

// add puts a message into the window if it belongs there.
func (sh *shelf) add(k key, capacity int) {
	if !sh.sweep && sh.horizon != nil && !k.before(*sh.horizon) {
		sh.window.drop(k.id)
		return
	}
	sh.window.set(k)
	if len(sh.window.keys) > 2*capacity {
		if cut := sh.window.fit(capacity); cut != nil && !sh.sweep {
			sh.horizon = cut
		}
	}
}

// wants says whether the window has run empty before the directory has.
func (sh *shelf) wants() bool {
	return !sh.sweep && sh.horizon != nil && len(sh.window.keys) == 0
}

// capacity is the bound of each window. Spool.mu is held.
func (s *Spool) capacity() int {
	if s.cap > 0 {
		return s.cap
	}
	return max(minWindow, maxWindow/max(1, len(s.shelves)))
}

// found is what a sweep has seen so far: the first messages, and where it cut.
type found struct {
	keys  []key
	cut   *key
	count int
	bytes int64
}

func (f *found) add(k key, capacity int) {
	if f.cut != nil && !k.before(*f.cut) {
		return
	}
	if f.keys = append(f.keys, k); len(f.keys) < 2*capacity {
		return
	}
	slices.SortFunc(f.keys, compareKeys)
	cut := f.keys[capacity]
	f.cut, f.keys = &cut, f.keys[:capacity]
}

// fill reads the directory of a shelf, opening no file, and makes its window the messages that are due first. New messages
// and changes meanwhile are newer than what is found. The caller has set sh.sweep.
func (s *Spool) fill(sh *shelf) error {
	s.mu.Lock()
	capacity := s.capacity()
	s.mu.Unlock()

	latest := s.latest().UnixNano()
	var f found
	err := eachFile(sh.path, func(name string) error {
		id, ok := strings.CutSuffix(name, suffix)
		if !ok {
			return nil
		}
		info, err := os.Lstat(filepath.Join(sh.path, name))
		if err != nil {
			return ignoreMissing(err)
		}
		f.count++
		f.bytes += info.Size()
		f.add(key{min(info.ModTime().UnixNano(), latest), id}, capacity)
		return nil
	})

	s.mu.Lock()
	defer s.mu.Unlock()
	s.merge(sh, &f, capacity, err)
	return err
}

// merge makes what a sweep found the window. Spool.mu is held.
func (s *Spool) merge(sh *shelf, f *found, capacity int, err error) {
	sh.sweep = false
	if err != nil {
		return
	}
	for _, k := range f.keys {
		_, newer := sh.window.at[k.id]
		if _, busy := s.busy[k.id]; !newer && !busy {
			sh.window.set(k)
		}
	}
	cut := sh.window.fit(capacity)
	if f.cut != nil && (cut == nil || f.cut.before(*cut)) {
		cut = f.cut
		// What came meanwhile may be due behind the cut: the next sweep finds it.
		sh.window.keys = slices.DeleteFunc(sh.window.keys, func(k key) bool { return !k.before(*cut) })
		heap.Init(&sh.window)
		sh.window.index()
	}
	sh.horizon = cut
	if sh.fresh {
		sh.fresh = false
		sh.count += f.count
		s.bytes += f.bytes
	}
}

// latest is the last time that a next attempt can have by our schedule. What is later was written before the clock was
// set back.
func (s *Spool) latest() time.Time { return s.now().Add(2 * s.cfg.MaxRetry) }

const suffix = ".eml"

// eachFile calls do with the name of each entry of a directory, holding a thousand of them at a time.
func eachFile(dir string, do func(name string) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1000)
		for _, name := range names {
			if err := do(name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// isDir says whether a path is a directory, or leads to one.
func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
