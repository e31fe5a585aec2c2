package spool

// Counters count since the spool was opened, but for what they say is there now. Recipients are counted, not messages,
// where attempts are.
type Counters struct {
	Accepted      uint64 // messages, notifications included
	Delivered     uint64 // recipients
	Deferred      uint64 // attempts at recipients that left them waiting
	Failed        uint64 // recipients that were refused for good
	Expired       uint64 // recipients that were given up
	Notifications uint64 // messages to senders
	Held          int    // messages there now
	Quarantined   int    // files there now, as far as this process knows
}

// HostStats is what waits for a host.
type HostStats struct {
	Host     string `json:"host"` // "" for messages of several hosts, or of unknown ones
	Messages int    `json:"messages"`
	Running  int    `json:"running"` // being attempted just now
}

// Stats is the state of a spool.
type Stats struct {
	Counters
	Messages int   // that wait, without those on hold
	Bytes    int64 // of their files
	Hosts    []HostStats
	Away     []Target // members that could not be reached
}

// Stats gives the state of now. It costs no disk access.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Counters: s.counters, Bytes: s.bytes}
	for _, sh := range s.shelves {
		st.Messages += sh.count
		if sh.count > 0 || sh.running > 0 {
			st.Hosts = append(st.Hosts, HostStats{hostOf(sh.name), sh.count, sh.running})
		}
	}
	for t, m := range s.members {
		if m.failures > 0 {
			st.Away = append(st.Away, t)
		}
	}
	return st
}

func (s *Spool) tally(add func(*Counters)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	add(&s.counters)
}
