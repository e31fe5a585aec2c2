package backend

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// wish is what the operator wants of a member. Checks never change it.
type wish struct {
	Withdrawn bool      `json:"withdrawn"`
	Evacuate  bool      `json:"evacuate,omitempty"`
	Since     time.Time `json:"since"`
}

// Withdraw takes a host's members, or one member, out of service: no new accounts. With evacuate those that are there
// are to leave, which is the engine's work: it reads Member.Withdrawn. name is a host, "host/member", or a member's name
// if only one host has it. The wish survives reloads, and restarts with Options.StateFile.
func (t *Table) Withdraw(name string, evacuate bool) error {
	return t.decide(name, wish{Withdrawn: true, Evacuate: evacuate, Since: time.Now()})
}

// Ready takes Withdraw back. Whether the member gets sessions is then for the checks to say.
func (t *Table) Ready(name string) error { return t.decide(name, wish{}) }

func (t *Table) decide(name string, w wish) error {
	t.mu.Lock()
	changed, err := t.decideLocked(name, w)
	if err == nil {
		err = t.saveWishes()
	}
	t.mu.Unlock()
	for _, m := range changed {
		t.tell(Event{Member: m, Change: WasWishedOn, Why: w.String()})
	}
	return err
}

func (w wish) String() string {
	switch {
	case w.Evacuate:
		return "withdrawn, accounts leave"
	case w.Withdrawn:
		return "withdrawn"
	}
	return "in service"
}

// decideLocked keeps the wish and gives it to the members concerned, which it returns. mu is held.
func (t *Table) decideLocked(name string, w wish) ([]*Member, error) {
	h, m, err := t.find(name)
	if err != nil {
		return nil, err
	}
	members := h.Members()
	if m == nil {
		// A wish for the host stands in place of those for its members.
		for key := range t.wishes {
			if key == h.name || strings.HasPrefix(key, h.name+"/") {
				delete(t.wishes, key)
			}
		}
		if w.Withdrawn {
			t.wishes[h.name] = w
		}
	} else {
		if whole, ok := t.wishes[h.name]; ok {
			delete(t.wishes, h.name)
			for _, other := range members {
				t.wishes[other.String()] = whole
			}
		}
		delete(t.wishes, m.String())
		if w.Withdrawn {
			t.wishes[m.String()] = w
		}
		members = []*Member{m}
	}
	return slices.DeleteFunc(members, func(m *Member) bool { return !m.obey(w) }), nil
}

// find is the host, and the member if the name means one. mu is held.
func (t *Table) find(name string) (*Host, *Member, error) {
	hosts := *t.hosts.Load()
	if h := hosts[canonical(name)]; h != nil {
		return h, nil, nil
	}
	if host, member, ok := strings.Cut(name, "/"); ok {
		if h := hosts[canonical(host)]; h != nil {
			if m := h.Member(member); m != nil {
				return h, m, nil
			}
			return nil, nil, fmt.Errorf("%w: %s has no member %q", ErrNoSuch, h.name, member)
		}
	}
	var host *Host
	var found *Member
	for _, h := range hosts {
		m := h.Member(name)
		if m != nil && found != nil {
			return nil, nil, fmt.Errorf("%w: %q is a member of %s and of %s, say which as host/member", ErrNoSuch, name, host.name, h.name)
		}
		if m != nil {
			host, found = h, m
		}
	}
	if found == nil {
		return nil, nil, fmt.Errorf("%w: %q", ErrNoSuch, name)
	}
	return host, found, nil
}

// obey takes a wish over and says whether it is a new one.
func (m *Member) obey(w wish) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wish.Withdrawn == w.Withdrawn && m.wish.Evacuate == w.Evacuate {
		return false
	}
	m.wish = w
	state := m.state.Load() &^ withdrawnBit
	if w.Withdrawn {
		state |= withdrawnBit
	}
	m.set(state)
	return true
}

// wishFor is the wish that holds for a member: its own, or its host's. mu is held.
func (t *Table) wishFor(host, member string) wish {
	if w, ok := t.wishes[host+"/"+member]; ok {
		return w
	}
	return t.wishes[host]
}

// loadWishes reads the state file; one that is not there holds no wishes.
func (t *Table) loadWishes() error {
	if t.options.StateFile == "" {
		return nil
	}
	text, err := os.ReadFile(t.options.StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the withdrawn members: %w", err)
	}
	if err := json.Unmarshal(text, &t.wishes); err != nil {
		return fmt.Errorf("read the withdrawn members: %s: %w: mend or remove the file", t.options.StateFile, err)
	}
	if t.wishes == nil { // the file says null
		t.wishes = make(map[string]wish)
	}
	return nil
}

// saveWishes replaces the state file in one step, so that a crash leaves the old or the new one. mu is held.
func (t *Table) saveWishes() error {
	path := t.options.StateFile
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(t.wishes, "", "  ")
	if err != nil {
		return fmt.Errorf("keep the wish over restarts: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("keep the wish over restarts: %w", err)
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("keep the wish over restarts: %w", err)
	}
	return nil
}
