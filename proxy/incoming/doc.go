// Package incoming is the conversation by which messages come in: what SMTP (RFC 5321) and LMTP (RFC 2033) have in common.
// The packages smtp and lmtp say what differs, each by a Receiver: what becomes of a recipient, and of a message.
//
//	220 → EHLO/LHLO → [STARTTLS → EHLO] → MAIL → RCPT … → DATA or BDAT … → one reply, or one for each recipient
//	                                             │         └ Receiver.Message
//	                                             └ Router: name → account → home host; Receiver.Recipient
//
// # Why not go-smtp's server
//
// The members' side is go-smtp (package deliver). Its server was measured and read for this side, and is not used,
// because what follows cannot be mended from outside:
//
//   - it answers one command at a time with a write each, and cannot be told to gather the replies to pipelined ones;
//   - RCPT TO:<postmaster> and LMTP recipients without a domain are a 501 before any hook is asked;
//   - XCLIENT, by which another frontend tells who its client is, counts as an unknown command, and the fourth closes;
//   - a bare LF ends a command line, and how a line ended is not told; the text of DATA comes without any mark of a bare
//     CR or LF that was in it;
//   - a quoted local part comes unquoted, and so cannot be told from one that never was quoted;
//   - CHUNKING, PIPELINING and 8BITMIME are offered always, whatever the members can do.
//
// # Line ends
//
// Only CRLF ends a command, and a command that ends otherwise ends the session. The text is read by envelope.Text.
//
// # Loops
//
// A message is refused with 554 5.4.6 when it has more than delivery.max_hops Received fields, or ten of this site's own. A
// member that greets by our own name, and one that is a listener of ours, is never handed anything (proxy/backend).
//
// # Addresses of several
//
// An address stands for one account with one home. One that several entries have is a fault of the directory, and refused
// for now with 451 4.3.0; groups and lists are for the members, under an account of their own.
//
// # Known divergences
//
//   - SMTPUTF8, and DSN where there is no queue that makes notifications, are offered only while all members do, as far as
//     sessions and checks have seen, because a message that has to be refused for one of its recipients is better not asked for.
//   - VRFY is answered with 252, whoever it asks for.
//   - Source routes in paths are dropped (RFC 5321 appendix F.2).
//   - AUTH is not offered: nobody logs in where messages come in. Mail programs use the service submission.
package incoming
