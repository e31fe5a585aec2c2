package backend

import (
	"encoding/json"
	"fmt"
	"time"
)

// What hosts with sticky: claim need of the table: the frontends agree on members through package claims, which reads
// here what this frontend sees, and puts here what all have agreed on.

// Claimed says whether the frontends agree on the member of an account before they use it.
func (h *Host) Claimed() bool { return h.row.Load().claim }

// Decided says whether the frontends' controller has decided that the member is down.
func (m *Member) Decided() bool { return m.state.Load()&decidedBit != 0 }

// Down lists the members of claimed hosts, as host/member, that the checks see down for a service that opens mailboxes.
func (t *Table) Down() []string {
	var list []string
	mask := t.services.Load() & mailbox
	t.all(func(h *Host) {
		if !h.Claimed() {
			return
		}
		for _, m := range h.Members() {
			if m.state.Load()&mask != 0 {
				list = append(list, m.String())
			}
		}
	})
	return list
}

// Decide takes members out of service, by host/member with the reason, and gives back all others that were taken out so.
// Those that are yet to come are remembered.
func (t *Table) Decide(down map[string]string) {
	t.mu.Lock()
	t.decided = down
	var events []Event
	t.all(func(h *Host) {
		for _, m := range h.Members() {
			if e := m.decide(down); e.Member != nil {
				events = append(events, e)
			}
		}
	})
	t.mu.Unlock()
	for _, e := range events {
		t.tell(e)
	}
}

// decide puts what was decided in force, and says whether that changes anything.
func (m *Member) decide(down map[string]string) Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	why, out := down[m.String()]
	m.decided = why
	state := m.state.Load()
	if out == (state&decidedBit != 0) {
		return Event{}
	}
	m.set(state ^ decidedBit)
	if !out {
		why = "the controller has given it back"
	}
	return Event{Member: m, Change: WasDecidedOn, Why: why}
}

// Wishes is what the operator wants of hosts and members, for SetWishes of another frontend.
func (t *Table) Wishes() ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return json.Marshal(t.wishes)
}

// SetWishes puts the wishes of another frontend in place of those here. The text may come from anywhere: after an error
// nothing has changed.
func (t *Table) SetWishes(text []byte) error {
	wishes := make(map[string]wish)
	if err := json.Unmarshal(text, &wishes); err != nil {
		return fmt.Errorf("read the wishes: %w", err)
	}
	if wishes == nil {
		wishes = make(map[string]wish)
	}
	t.mu.Lock()
	t.wishes = wishes
	var changed []*Member
	t.all(func(h *Host) {
		for _, m := range h.Members() {
			if m.obey(t.wishFor(h.name, m.name)) {
				changed = append(changed, m)
			}
		}
	})
	err := t.saveWishes()
	t.mu.Unlock()
	for _, m := range changed {
		withdrawn, evacuate := m.Withdrawn()
		t.tell(Event{Member: m, Change: WasWishedOn, Why: wish{Withdrawn: withdrawn, Evacuate: evacuate, Since: time.Now()}.String()})
	}
	return err
}
