package directory

import (
	"context"
	"time"
)

// Explanation says where an account comes from, for people who ask why.
type Explanation struct {
	Name       string          `json:"name"`       // as looked up
	Filter     string          `json:"filter"`     // as sent, escaped
	Base       string          `json:"base"`       // under which was searched
	Server     string          `json:"server"`     // that answered now; "" when none did
	DN         string          `json:"dn"`         // of the entry found; "" when there is none
	Attributes []AttributeText `json:"attributes"` // as the directory wrote them
	Account    Account         `json:"account"`    // what sessions are served by now: from memory if it is fresh there
	Remembered bool            `json:"remembered"` // whether there is something in memory
	Fresh      bool            `json:"fresh"`      // whether it is believed without asking
	Age        time.Duration   `json:"age"`        // of what is in memory
	Refused    string          `json:"refused"`    // what is in memory instead of an account: no such user, more than one entry matches …
	Now        Account         `json:"now"`        // what the directory says now
}

// AttributeText is an attribute with its values.
type AttributeText struct {
	Name   string   `json:"name"`
	Values []string `json:"values"`
}

// Explain looks a name up in memory and, beside that, in the directory, and leaves the memory as it is. Its error is
// what the directory answers now; the Explanation is filled in as far as possible.
func (d *Directory) Explain(ctx context.Context, name Name) (Explanation, error) {
	x := Explanation{Name: name.String(), Filter: d.source.filter(name), Base: d.cfg.Base}
	var remembersErr error
	if kept := d.memory.recall(name); kept != nil {
		now := time.Now()
		x.Remembered, x.Fresh, x.Age = true, now.Before(kept.fresh), now.Sub(kept.learnt)
		if x.Account, remembersErr = kept.answer(now); remembersErr != nil {
			x.Refused = remembersErr.Error()
		}
	}
	e, server, err := d.source.find(ctx, name, d.reader.names())
	x.Server = server
	if err == nil {
		x.DN = e.dn
		for _, a := range e.attributes {
			x.Attributes = append(x.Attributes, AttributeText{a.name, a.values})
		}
		x.Now, err = d.reader.account(e, name)
	}
	switch {
	case x.Fresh && remembersErr == nil:
	case err == nil || isAnswer(err):
		x.Account = x.Now
	case x.Remembered && remembersErr == nil:
		x.Account.Stale = true
	}
	return x, err
}

// Stats is the directory's state, for status pages and metrics.
type Stats struct {
	Servers []ServerStats `json:"servers"`
	Cache   CacheStats    `json:"cache"`
}

// ServerStats is the state of one server.
type ServerStats struct {
	URL         string        `json:"url"`
	Up          bool          `json:"up"`
	Since       time.Time     `json:"since"`       // of being up or down
	LastError   string        `json:"last_error"`  // the last failure, also of a server that is up again
	Latency     time.Duration `json:"latency"`     // of requests, as a moving average
	Requests    uint64        `json:"requests"`    // since the start
	Failures    uint64        `json:"failures"`    // since the start
	Connections int           `json:"connections"` // open ones
	InFlight    int           `json:"in_flight"`   // requests without an answer yet
}

// CacheStats is the state of the memory. Counts are since the start.
type CacheStats struct {
	Entries      int    `json:"entries"`       // accounts remembered, fresh or not
	Negative     int    `json:"negative"`      // names remembered as nobody's
	Hits         uint64 `json:"hits"`          // accounts answered from memory
	NegativeHits uint64 `json:"negative_hits"` // "no such user" answered from memory
	Misses       uint64 `json:"misses"`        // lookups that asked the directory
	Stale        uint64 `json:"stale"`         // accounts answered beyond their time, because the directory was away
	Forgotten    uint64 `json:"forgotten"`     // names dropped on request
	Unremembered uint64 `json:"unremembered"`  // "no such user" for which there was no room
}

// Stats gives the state now.
func (d *Directory) Stats() Stats {
	c := &d.memory.counts
	return Stats{
		Servers: d.source.stats(),
		Cache: CacheStats{
			Entries: d.memory.accounts.ItemCount(), Negative: d.memory.strangers.ItemCount(),
			Hits: c.hits.Load(), NegativeHits: c.negatives.Load(), Misses: c.misses.Load(), Stale: c.stale.Load(),
			Forgotten: c.forgotten.Load(), Unremembered: c.unremembered.Load(),
		},
	}
}
