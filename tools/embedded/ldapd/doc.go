// Package ldapd is a small LDAP server in memory, for the demo and for tests that want a real directory on a real socket
// without installing one.
//
//	Tree (entries, from LDIF) ── Server ── Serve(listener) ──▶ bind, search, add, delete, modify, compare, transactions
//
// A Tree outlives the servers in front of it: close a Server and start another one on the same Tree to play a directory
// that is stopped and comes back, or serve one Tree from two Servers to play replicas.
//
// It answers with the result codes a careful client depends on: deleting a value that is not there is
// noSuchAttribute (16), adding one that is there attributeOrValueExists (20), so that a modify that deletes the exact old
// value and adds the new one is a compare-and-set. The assertion control (RFC 4528), simple paged results (RFC 2696) and
// transactions (RFC 5805) are there; each can be switched off to play a server that lacks it.
//
// A Hook sees each request before it is served, and may delay it, refuse it, or lose the connection before or after the
// work was done.
//
// Known differences from a real directory server: there is no schema beyond single-valued attributes; values compare
// without case and with spaces folded, except for userPassword, which is hidden from searches; there is no access
// control beyond "reading needs a bind", "writing needs a bind"; modifyDN, referrals, aliases and SASL binds are
// refused; operational attributes exist in the root DSE only.
package ldapd
