// Package stage starts real servers for the integration tests: an OpenLDAP slapd, Dovecots, a Postfix, and the mailmux
// under test, each from a literal configuration, in one temporary directory and on one loopback network.
//
// A Network is a random 127.A.B.0/24. Every server gets an address of its own on it, and the same port numbers as its
// neighbours, as a site has them: so nothing has to guess a free port, the configuration reads like a real one, and a
// client can connect from an address that the backend's log must show.
//
//	127.A.B.1         slapd
//	127.A.B.2         the token service that Dovecot asks about OAuth bearer tokens
//	127.A.B.11, .12   Dovecot back1 and back2
//	127.A.B.13        Postfix
//	127.A.B.21 …      mailmux, one address for each daemon started
//	127.A.B.40 …      members that misbehave, played by the tests
//	127.A.B.100 …     clients
//
// Every server is waited for by speaking to it, never by sleeping, and is ended by its process id. A program that is not
// installed is a MissingError, so that a test can skip with a reason. The package needs no privileges except for
// Postfix, whose master wants to be root.
package stage
