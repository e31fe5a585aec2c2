// Package directory knows accounts. It turns what a mail program typed, or what a sender wrote behind RCPT TO, into an
// account: who it is, where its home host is, and whether it may be served now.
//
// The way of a lookup:
//
//	login name or address ── Domains.Login / Domains.Recipient ──▶ Name       one normalisation for logins and for mail
//	Name ── Directory.Lookup ──▶ Account                                      cache, single flight, then the source
//	Account.Host ──▶ a row of the host table (package backend)                a name, never an address taken on trust
//
// A source is an LDAP directory (a pool of connections over several servers) or an LDIF file. The cache remembers
// accounts, and for a short time that there is no such user. It never remembers an outage: when the source fails, what
// was remembered is served beyond its time, marked stale; what was not is ErrUnavailable, which every protocol tells the
// client as a temporary error. "No such user" is said only when the directory itself said so.
//
// The package is a leaf: it knows names of hosts, not their addresses, and no protocol.
package directory
