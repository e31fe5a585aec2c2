// Package admin is the operator's door: what goes on inside a running frontend, and the few things that can be asked
// of it.
//
//	mailmux status, who, kick, … ──── HTTP on a unix socket ──▶ Server ──▶ Engine     the sessions, and closing them
//	                                                             │   Switches   withdraw and ready
//	Prometheus, load balancers, ───── HTTP on a TCP address ─────┘   Frontend   status, reload
//	a browser                                                        Explainer  why an account goes where it goes
//	                                                                 Forgetter  what memory is to lose after a failover
//	                                                                 Queue      the messages that wait
//
// Whoever may write to the unix socket is the operator: its permissions (0660) are the only password. A TCP address has
// no such guard, so what is served there changes nothing and names no account; beyond loopback it is metrics and the
// health answer alone.
//
// Metrics are Prometheus's, in a registry of their own. Names and labels are public: testdata/metrics.txt lists
// them, and a test holds the list. No label is a user, a client address or anything else that strangers choose.
//
// The JSON answers are public, too: the commands of mailmux print them as text, or as they are with -json. Times are
// RFC 3339, durations are seconds.
package admin
