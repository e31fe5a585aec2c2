package failover

import (
	"fmt"
	"hash/fnv"
	"math"
	"strings"
	"unicode/utf8"

	"mailmux/directory"
)

// Plan decides about one record. It knows no directory and has no state: the same record has the same decision.
type Plan interface {
	// Query finds the records that the plan may change.
	Query() directory.Query
	// Decide gives the change, or the reason why the record is left alone.
	Decide(r directory.Record) (c directory.Change, leave string)
}

// Target is a host that accounts move to, and its share of them.
type Target struct {
	Host   string
	Weight int
}

// Move points accounts at other hosts. At least one of From and Original is given.
type Move struct {
	From     string   // the home host now
	Original string   // the home host before the first failover
	To       []Target // one, or several that share
}

// Query asks for the accounts on From, or for those whose original host is Original.
func (m *Move) Query() directory.Query {
	return directory.Query{Host: m.From, OldHost: m.Original}
}

// Decide moves an account, and keeps where it is at home: the host it is on now, unless it is away from home already.
func (m *Move) Decide(r directory.Record) (directory.Change, string) {
	if leave := unclear(r); leave != "" {
		return directory.Change{}, leave
	}
	if m.From != "" && !strings.EqualFold(r.Host, m.From) {
		return directory.Change{}, fmt.Sprintf("its home host is %s", r.Host)
	}
	if m.Original != "" && !strings.EqualFold(r.OldHost, m.Original) {
		return directory.Change{}, fmt.Sprintf("its original home host is %s", orNone(r.OldHost))
	}
	to := choose(m.To, r.DN)
	if strings.EqualFold(r.Host, to) {
		return directory.Change{}, fmt.Sprintf("it is on %s already", to)
	}
	c := directory.Change{DN: r.DN, From: r.Host, To: to, OldFrom: r.OldHost, OldTo: r.OldHost}
	switch {
	case r.OldHost == "":
		c.OldTo = r.Host
	case strings.EqualFold(r.OldHost, to):
		c.OldTo = "" // home again
	}
	return c, ""
}

// Restore brings the accounts home whose original host is Host.
type Restore struct {
	Host string
	From string // only those that are on From now; "" for wherever they are
}

// Query asks for the accounts that are away from Host.
func (p *Restore) Query() directory.Query {
	return directory.Query{Host: p.From, OldHost: p.Host}
}

// Decide brings an account home, and forgets that it was away.
func (p *Restore) Decide(r directory.Record) (directory.Change, string) {
	if leave := unclear(r); leave != "" {
		return directory.Change{}, leave
	}
	if !strings.EqualFold(r.OldHost, p.Host) {
		return directory.Change{}, fmt.Sprintf("its original home host is %s", orNone(r.OldHost))
	}
	if p.From != "" && !strings.EqualFold(r.Host, p.From) {
		return directory.Change{}, fmt.Sprintf("its home host is %s", r.Host)
	}
	return directory.Change{DN: r.DN, From: r.Host, To: r.OldHost, OldFrom: r.OldHost}, ""
}

// unclear names what forbids to touch a record at all.
func unclear(r directory.Record) string {
	switch {
	case r.Referral != "":
		return "another server holds this part of the directory: run the command there, too, or choose a base"
	case !utf8.ValidString(r.DN):
		return "its DN is not UTF-8: mend the entry first"
	case r.Several:
		return "it has several home hosts, or several original ones: mend the entry first"
	case r.Host == "":
		return "it has no home host: mend the entry first"
	}
	return ""
}

func orNone(host string) string {
	if host == "" {
		return "none"
	}
	return host
}

// choose shares accounts among targets by weighted rendezvous hashing of the DN: the same account goes to the same
// target in every run, and another target, or another weight, moves only the shares that it concerns.
func choose(targets []Target, dn string) string {
	if len(targets) == 1 {
		return targets[0].Host
	}
	key := directory.CanonicalDN(dn)
	best, host := math.Inf(-1), ""
	for _, t := range targets {
		h := fnv.New64a()
		h.Write([]byte(strings.ToLower(t.Host)))
		h.Write([]byte{0})
		h.Write([]byte(key))
		// A uniform number in (0,1), from the upper bits of a well-mixed hash.
		u := (float64(mix(h.Sum64())>>11) + 0.5) / (1 << 53)
		if score := -float64(t.Weight) / math.Log(u); score > best {
			best, host = score, t.Host
		}
	}
	return host
}

// mix spreads FNV's bits, whose upper ones change little from key to key (the finaliser of MurmurHash3).
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// ParseTargets reads "B" or "B=2,C=1".
func ParseTargets(text string) ([]Target, error) {
	var targets []Target
	for field := range strings.SplitSeq(text, ",") {
		host, weight, weighted := strings.Cut(strings.TrimSpace(field), "=")
		t := Target{Host: strings.TrimSpace(host), Weight: 1}
		if weighted {
			if _, err := fmt.Sscanf(weight+"\n", "%d\n", &t.Weight); err != nil || t.Weight < 1 {
				return nil, fmt.Errorf("%q: the weight behind = is a whole number from 1", field)
			}
		}
		if t.Host == "" {
			return nil, fmt.Errorf("%q names no host", text)
		}
		for _, other := range targets {
			if strings.EqualFold(other.Host, t.Host) {
				return nil, fmt.Errorf("%q names %s twice", text, t.Host)
			}
		}
		targets = append(targets, t)
	}
	return targets, nil
}
