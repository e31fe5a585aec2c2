// Package wire reads and writes the lines of a mail protocol before the hand-over.
//
// Every byte that arrives is hostile: a line, a literal and what is buffered in all are bounded, and a buffer is
// borrowed from a pool, not owned. Two habits of the package carry rules that each protocol would otherwise have to
// remember:
//
//   - Replies are gathered and sent when the conversation waits for the peer, that is, when a read finds nothing buffered.
//     Pipelined commands get their answers in one packet (RFC 2920 section 3.2).
//   - Upgrade, which puts TLS under the conversation, refuses when anything is buffered. Bytes that came before the
//     handshake were not protected by it; to use them afterwards is the STARTTLS injection of CVE-2011-0411 and
//     CVE-2021-33515.
//
// A line ends with CRLF; a lone LF is taken too, because people type into these protocols. Nothing of this concerns the
// text of a message: the relay never looks at lines, and deliveries have a reader of their own.
package wire
