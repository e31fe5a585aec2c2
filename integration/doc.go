// Package integration runs the real mailmux in front of real servers and lets real clients work with it.
//
// What stands where:
//
//   - stage starts the servers: slapd, two Dovecots, Postfix, and mailmux itself, each at an address of its own on a
//     loopback network.
//   - talk is a client that speaks every protocol in one vocabulary; it is used where a test wants to see every byte.
//   - testdata has the Python programs that log in with imaplib, poplib and smtplib.
//   - Every other file here is one story, told in the comment above its first test.
//
// Most stories share one world, which is started when the first of them needs it: slapd with the accounts of
// stage.Accounts, and one mailmux with the configuration in world_test.go. A story that stops or breaks a server, or
// needs another configuration, starts what it needs for itself.
//
// A server that is not installed skips the story with the reason and the package that has it; when CI is set in the
// environment it fails instead. MAILMUX_RACE=1 builds mailmux with the race detector. MAILMUX_BINARY and
// HOSTFAILOVER_BINARY name binaries to test instead of building them.
package integration
