// Package mailstore is a mail server in memory for the demo and for tests: one backend, with real mailboxes behind real
// sockets.
//
//	Storage (mailboxes, scripts) ── Attach ──▶ Backend ── Serve(service, listener) ──▶ IMAP, POP3, submission, LMTP, ManageSieve
//
// A Storage is the disk and a Backend is the machine. Detach a Storage from one Backend and attach it to another one to
// play what an operator does when a server has failed: the same mailboxes, with the same UIDs, on another machine. All
// services of a backend work on the same mailboxes: what is submitted or delivered is there by IMAP and by POP3.
//
// A backend names itself in every greeting, so that a person sees where he is, and remembers for each login what it was
// told about the client (IMAP ID, POP3 XCLIENT).
//
// IMAP is go-imap's server with its in-memory mailboxes; ID, STARTTLS and the texts are added in front of it. Submission
// and LMTP are go-smtp. POP3 and ManageSieve are written out here.
//
// Known differences from a real server: every login mechanism is PLAIN or LOGIN; Sieve scripts are kept, not run or
// checked; nothing is ever written to a disk; and a slow reader of a message holds up the others of the same mailbox.
package mailstore
