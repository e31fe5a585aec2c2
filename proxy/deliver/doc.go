// Package deliver hands messages to members, by LMTP (RFC 2033) or SMTP.
//
//	a message, and its recipients with their routes
//	  → each recipient's member: groups, each delivered by a goroutine with a deadline of its own
//	      → a connection from the pool, or a new one: greeting, EHLO, STARTTLS, XCLIENT
//	          → MAIL, RCPT …, DATA
//	  → one reply for each recipient, in the order in which they were given
//
// Nothing that one member does, or does not do, is felt by the recipients of another. Before the text is sent, a member
// that fails is left for the next one of its host; once it was sent in full the answer is awaited, and never asked for
// twice. A recipient that is refused while the directory's answer came from memory is looked up again, and follows its
// account if that has moved.
//
// The conversation is go-smtp's client. What it cannot do, or does in a way that loses mail, is handled around it
// (leg.go): it sets and takes back deadlines of its own, so that the body has none; it knows no XCLIENT; it would
// deliver a truncated message on Close; its LMTP answers are a map, so that a recipient given twice would be one. It
// does not pipeline: a delivery costs a round trip for each recipient and three more.
//
// # Known divergences
//
//   - BODY=8BITMIME is sent to every member that lists 8BITMIME, also for messages of 7 bits. A message that its sender
//     declared as 8 bits is refused for members that do not (RFC 6152 section 3); nothing is converted.
//   - Messages that came by BDAT leave by DATA. Binary ones (BINARYMIME) are not offered.
package deliver
