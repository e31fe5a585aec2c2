package proxy

import "sync/atomic"

// Learnt are the lists of capabilities that members showed for the session's service so far. A protocol offers only what
// is in all of them. Neither they nor their contents may be changed.
func (s *Session) Learnt() [][]string { return s.LearntOf(s.Service()) }

// LearntOf is Learnt for the service by which members take mail, which need not be that of the listener.
func (s *Session) LearntOf(service string) [][]string { return s.state.Hosts.Seen(service) }

// Common is what a protocol makes of what members have in common, worked out once for as long as they show the same. Its
// zero value is ready, and serves many sessions at once.
type Common[T any] struct{ made atomic.Pointer[made[T]] }

// made is the work done for some lists. They are kept with it, so that no later ones can stand at their address.
type made[T any] struct {
	lists [][]string
	what  T
}

// Of is what work makes of the lists of Learnt.
func (c *Common[T]) Of(lists [][]string, work func(lists [][]string) T) T {
	known := c.made.Load()
	if known != nil && len(known.lists) == len(lists) && (len(lists) == 0 || &known.lists[0] == &lists[0]) {
		return known.what
	}
	known = &made[T]{lists, work(lists)}
	c.made.Store(known)
	return known.what
}
