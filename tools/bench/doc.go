// Bench measures mailmux beside its peers: nginx's mail proxy, Dovecot's login proxy, Perdition, HAProxy in TCP mode and
// a bare relay of Go, which are the floors, and a direct connection.
//
// All peers stand in front of the same backends, which accept every password and answer the few commands that the tests
// use, and those that look accounts up ask the same slapd with 100,000 of them. Each test runs for a short while on one
// peer after the other, for several rounds, so that what else the machine does hits all of them alike. What counts is
// the CPU time of the peer's own processes for each operation; the rate only says where the whole machine is busy, with
// clients, backends and directory on it.
//
//	go run ./tools/bench                         # everything, five rounds
//	go run ./tools/bench -only imap-plain,relay-tls -peers mailmux,haproxy
//	go run ./tools/bench -quick                  # one short round: does it all work?
//
// It needs the peers from Debian's packages, which make bench installs. A peer that is missing is left out, with a word.
// Everything stays on the loopback, and all that was started ends with it.
//
// The program is its own helper, too: started with a role as its first argument it is a backend, nginx's answer to
// auth_http, or the bare relay.
package main
