package spool

import (
	"sync"
	"time"
)

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
	// Oldest is when the oldest of them came in: only by Survey.
	Oldest time.Time `json:"oldest,omitzero"`
}

// Stats is the state of a spool.
type Stats struct {
	Counters
	Messages int   // that wait, without those on hold
	Bytes    int64 // of their files
	Hosts    []HostStats
	Away     []Target  // members that could not be reached
	Oldest   time.Time // when the oldest message that waits came in: only by Survey
}

// Stats gives the state of now. It costs no disk access.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Counters: s.counters, Bytes: s.bytes}
	for _, sh := range s.shelves {
		st.Messages += sh.count
		if sh.count > 0 || sh.running > 0 {
			st.Hosts = append(st.Hosts, HostStats{Host: hostOf(sh.name), Messages: sh.count, Running: sh.running})
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

// ages is what was last found out about the oldest messages.
type ages struct {
	mu     sync.Mutex
	at     time.Time
	took   time.Duration
	oldest map[string]time.Time // by the name of the shelf
}

// Survey is Stats with the ages. It reads the names in the directories for them, opening no file, and so seldom that it
// takes a hundredth of the time at most: with very many messages the ages are as old as that.
func (s *Spool) Survey() Stats {
	oldest := s.oldest()
	st := s.Stats()
	for i := range st.Hosts {
		h := &st.Hosts[i]
		if h.Messages > 0 {
			h.Oldest = oldest[shelfName(h.Host)]
		}
		if !h.Oldest.IsZero() && (st.Oldest.IsZero() || h.Oldest.Before(st.Oldest)) {
			st.Oldest = h.Oldest
		}
	}
	return st
}

func (s *Spool) oldest() map[string]time.Time {
	s.ages.mu.Lock()
	defer s.ages.mu.Unlock()
	began := time.Now()
	if began.Sub(s.ages.at) < 100*s.ages.took {
		return s.ages.oldest
	}
	first := make(map[string]string)
	err := s.eachQueued(s.stopping, func(sh *shelf, id string) error {
		if ValidID(id) && (first[sh.name] == "" || id < first[sh.name]) {
			first[sh.name] = id
		}
		return nil
	})
	if err != nil {
		return s.ages.oldest // the spool ends, or its disk is away: Run tells of that
	}
	s.ages.oldest = make(map[string]time.Time, len(first))
	for name, id := range first {
		s.ages.oldest[name] = arrival(id)
	}
	s.ages.at, s.ages.took = began, time.Since(began)
	return s.ages.oldest
}
