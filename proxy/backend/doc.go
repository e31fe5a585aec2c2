// Package backend is the host table: it turns the home host of an account, a name, into a member that answers.
//
//	Table ── Host(name) ──▶ Host ── Choose(service, key, tried) ──▶ Member ── Dial ──▶ a connection
//
// A host is a row of the table: a name and one or more members. A static backend is a host with one member, a dynamic
// cluster is a host with several; there is one code path for both. Members are listed in the configuration, found in
// the DNS, or read from the directory.
//
// A member has two states that never overwrite each other: what the checks and the sessions saw (up, down, starting
// slowly), and what the operator wishes (in service, drained, withdrawn). It takes new sessions when both say so.
package backend
