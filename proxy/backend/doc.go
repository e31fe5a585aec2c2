// Package backend is the host table: it turns the home host of an account, a name, into a member that answers.
//
//	Table ── Host(name) ──▶ Host ── Choose(service, key, tried) ──▶ Member ── Dial ──▶ a connection
//
// A host is a row of the table: a name and one or more members. A static backend is a host with one member, a dynamic
// cluster is a host with several; there is one code path for both. Members are listed in the configuration, found in
// the DNS (the addresses of a name, or SRV records), or read from the directory. What a source said last serves on
// while it is away.
//
// # State
//
// Four judges look at a member, and each undoes only its own verdict: the checks, per service, with rise and fall; the
// breaker, per service, by sessions that fail in a row; the member's agent, if it has one; and the operator. A member
// takes new sessions of a service when none of them objects. Sessions count at once, and bring the next check forward.
// A shortage of ours (descriptors, ports), a DNS that is away, and a client that leaves count against nobody.
//
// A member that is down still gets one session now and then: the breaker lets one through after each pause, and where
// every member of a host is down by the checks one session per check interval finds out. So an outage ends by itself
// even if no check can see its end.
//
// # Choice
//
// With sticky: hash, an account's member is the one nearest to its name by weighted rendezvous hashing, among the
// members in service. Frontends agree because they compute the same from the same names and weights; nothing that one
// frontend alone knows goes into it: neither session counts nor slow start nor the load that an agent reports (an
// agent's drain, maint, down and 0% do, because they mean out of service). When a service that opens mailboxes is down
// on a member and works on another, all services of a mailbox move, so that an account never is on two members at once
// by our choice. Frontends that see an outage at different moments disagree for that long; whoever cannot bear that
// needs sticky: claim. Then the hash only says where an account goes that no frontend has; where one has it, all ask
// package claims, which also tells the table what the frontends' controller has decided down (claim.go).
//
// With sticky: none, the member with the fewest sessions for its weight serves; the weight grows back slowly after an
// outage, and is scaled by what the agent reports.
//
// # What checks cost
//
// The checks of a table are bounded: 1000 a second and 128 at once by default. Measured with a thousand hosts of four
// members each, with IMAP checked by greeting, capabilities and LOGOUT: 860 checks a second take 30 % of one CPU of a busy
// machine of two, and at most 70 descriptors were open. Where the bounds are too low for all members the intervals are
// stretched evenly (CheckFactor), a tenth is left for the confirmation of failures, and that goes first. So a thousand
// members that die together are out within 7.3 s; a member of an ordinary table within 2.7 s.
//
// # Withdrawing
//
// A withdrawn member gets no new accounts. Those that have sessions there may open more (Joinable) until they are gone,
// or, with evacuate, until the engine has moved them; the engine owns the sessions and reads the wish here.
package backend
