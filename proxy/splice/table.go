package splice

import (
	"sync"
	"sync/atomic"
)

// watcher is told of what happens on a descriptor: a Sock, and from the hand-over on its Pair.
type watcher interface {
	// event is called by a poller. The generation tells an event of this descriptor from a late one of another that had
	// its number before.
	event(b *poller, fd int, generation int32, what uint32)
}

// table finds the watcher of a descriptor. Numbers of descriptors are small and dense, so it is an array, which grows by
// chunks; to look one up takes no lock.
type table struct {
	mu     sync.Mutex // held to grow
	chunks atomic.Pointer[[]*chunk]
}

const chunkSize = 1024

// chunk holds pointers to interfaces that lie in the watchers themselves: eight bytes for each descriptor.
type chunk [chunkSize]atomic.Pointer[watcher]

// watched is every descriptor that the pollers of this process wait for.
var watched table

// get is the descriptor's watcher, nil if there is none.
func (t *table) get(fd int) watcher {
	chunks := t.chunks.Load()
	if chunks == nil || fd/chunkSize >= len(*chunks) {
		return nil
	}
	if w := (*chunks)[fd/chunkSize][fd%chunkSize].Load(); w != nil {
		return *w
	}
	return nil
}

// set makes w the descriptor's watcher; nil is none. It is for the descriptor's owner.
func (t *table) set(fd int, w *watcher) {
	chunks := t.chunks.Load()
	if chunks == nil || fd/chunkSize >= len(*chunks) {
		chunks = t.grow(fd)
	}
	(*chunks)[fd/chunkSize][fd%chunkSize].Store(w)
}

func (t *table) grow(fd int) *[]*chunk {
	t.mu.Lock()
	defer t.mu.Unlock()
	var old []*chunk
	if p := t.chunks.Load(); p != nil {
		old = *p
	}
	if fd/chunkSize < len(old) { // somebody else has grown it
		return &old
	}
	grown := append([]*chunk(nil), old...)
	for len(grown) <= fd/chunkSize {
		grown = append(grown, new(chunk))
	}
	t.chunks.Store(&grown)
	return &grown
}

// pairs lists the pairs of a pump.
func (t *table) pairs(p *Pump) (list []*Pair) {
	chunks := t.chunks.Load()
	if chunks == nil {
		return nil
	}
	for i, c := range *chunks {
		for j := range c {
			w := c[j].Load()
			if w == nil {
				continue
			}
			if pair, ok := (*w).(*Pair); ok && pair.pump == p && pair.client.fd == i*chunkSize+j {
				list = append(list, pair)
			}
		}
	}
	return list
}
