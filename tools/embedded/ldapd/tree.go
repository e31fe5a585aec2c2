package ldapd

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Rules are what a tree knows about attributes, instead of a schema.
type Rules struct {
	// Index lists the attributes whose equality searches must be fast. Absent: uid, mail, mailAlternateAddress,
	// hostServer and oldHostServer.
	Index []string
	// SingleValue lists attributes that hold at most one value: a change that would leave two is refused with
	// constraintViolation. Entries loaded from LDIF are not held to it, so that tests can have broken ones.
	SingleValue []string
}

// Tree is the content of a directory. Its methods may be called from many goroutines, also while servers use it.
type Tree struct {
	rules Rules

	mu       sync.RWMutex
	entries  map[string]*node
	children map[string]int // number of entries directly below a key
	suffixes map[string]bool
	index    map[string]map[string]map[*node]struct{} // attribute, folded value, entries
	sequence int64
}

// node is an entry in its place. It is never changed once it is in the tree: a modification puts a new one there, so
// that a search under way keeps a consistent entry.
type node struct {
	Entry
	key      string
	parent   string
	sequence int64 // order of arrival, the order of search results
}

// NewTree makes an empty directory. The first entry that has no parent in the tree becomes a suffix, by LDIF only.
func NewTree(rules Rules) *Tree {
	if rules.Index == nil {
		rules.Index = []string{"uid", "mail", "mailAlternateAddress", "hostServer", "oldHostServer"}
	}
	t := &Tree{
		rules:    rules,
		entries:  make(map[string]*node),
		children: make(map[string]int),
		suffixes: make(map[string]bool),
		index:    make(map[string]map[string]map[*node]struct{}),
	}
	for _, name := range rules.Index {
		t.index[strings.ToLower(name)] = make(map[string]map[*node]struct{})
	}
	return t
}

// Put stores an entry, in place of the one with the same DN if there is one. An entry whose parent is missing becomes a
// suffix of the tree. The error is about the DN.
func (t *Tree) Put(e Entry) error {
	dn, err := parseDN(e.DN)
	if err != nil {
		return fmt.Errorf("store entry: %w", err)
	}
	if dn.key == "" {
		return fmt.Errorf("store entry: %w: it is empty", errDN)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.entries[dn.key]; old != nil {
		t.replaceLocked(old, e.clone())
		return nil
	}
	parent, ok := dn.parent()
	if !ok || t.entries[parent] == nil {
		t.suffixes[dn.key] = true
	}
	t.insertLocked(&node{Entry: e.clone(), key: dn.key, parent: parent})
	return nil
}

// Get finds an entry by its DN. The copy belongs to the caller.
func (t *Tree) Get(dn string) (Entry, bool) {
	parsed, err := parseDN(dn)
	if err != nil {
		return Entry{}, false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := t.entries[parsed.key]
	if n == nil {
		return Entry{}, false
	}
	return n.clone(), true
}

// Len is the number of entries.
func (t *Tree) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.entries)
}

// Entries copies all entries, in the order in which they came.
func (t *Tree) Entries() []Entry {
	nodes := t.snapshot()
	out := make([]Entry, len(nodes))
	for i, n := range nodes {
		out[i] = n.clone()
	}
	return out
}

// snapshot lists all nodes in the order in which they came.
func (t *Tree) snapshot() []*node {
	t.mu.RLock()
	nodes := make([]*node, 0, len(t.entries))
	for _, n := range t.entries {
		nodes = append(nodes, n)
	}
	t.mu.RUnlock()
	sortNodes(nodes)
	return nodes
}

// sortNodes puts nodes in the order in which they came.
func sortNodes(nodes []*node) {
	slices.SortFunc(nodes, func(a, b *node) int { return cmp.Compare(a.sequence, b.sequence) })
}

// get finds a node by its key, or nil.
func (t *Tree) get(key string) *node {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.entries[key]
}

// insertLocked puts a new node in its place.
func (t *Tree) insertLocked(n *node) {
	if n.sequence == 0 { // else it comes back by a rollback, to where it was
		t.sequence++
		n.sequence = t.sequence
	}
	t.entries[n.key] = n
	t.children[n.parent]++
	t.indexLocked(n)
}

// removeLocked takes a node out.
func (t *Tree) removeLocked(n *node) {
	delete(t.entries, n.key)
	if t.children[n.parent]--; t.children[n.parent] == 0 {
		delete(t.children, n.parent)
	}
	t.unindexLocked(n)
}

// replaceLocked puts a changed copy in a node's place.
func (t *Tree) replaceLocked(old *node, changed Entry) *node {
	n := &node{Entry: changed, key: old.key, parent: old.parent, sequence: old.sequence}
	n.DN = old.DN
	t.swapLocked(old, n)
	return n
}

// swapLocked puts one node where another one with the same key is.
func (t *Tree) swapLocked(old, n *node) {
	t.unindexLocked(old)
	t.entries[n.key] = n
	t.indexLocked(n)
}

// indexLocked enters a node under its indexed values.
func (t *Tree) indexLocked(n *node) {
	for _, a := range n.Attributes {
		values, ok := t.index[strings.ToLower(a.Name)]
		if !ok {
			continue
		}
		for _, v := range a.Values {
			key := fold(v)
			if values[key] == nil {
				values[key] = make(map[*node]struct{}, 1)
			}
			values[key][n] = struct{}{}
		}
	}
}

// unindexLocked removes a node from under its indexed values.
func (t *Tree) unindexLocked(n *node) {
	for _, a := range n.Attributes {
		values, ok := t.index[strings.ToLower(a.Name)]
		if !ok {
			continue
		}
		for _, v := range a.Values {
			key := fold(v)
			delete(values[key], n)
			if len(values[key]) == 0 {
				delete(values, key)
			}
		}
	}
}

// nearestLocked is the DN of the deepest existing entry above a DN: the matchedDN of noSuchObject.
func (t *Tree) nearestLocked(dn parsedDN) string {
	for i := 1; i < len(dn.rdns); i++ {
		if n := t.entries[strings.Join(dn.rdns[i:], ",")]; n != nil {
			return n.DN
		}
	}
	return ""
}

// nearest is nearestLocked for callers that hold no lock.
func (t *Tree) nearest(dn parsedDN) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.nearestLocked(dn)
}

// bases lists the suffixes' DNs: the namingContexts of the root DSE.
func (t *Tree) bases() []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var out []string
	for key := range t.suffixes {
		if n := t.entries[key]; n != nil {
			out = append(out, n.DN)
		}
	}
	slices.Sort(out)
	return out
}
