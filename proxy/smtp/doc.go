// Package smtp takes messages in by SMTP (RFC 5321), from other sites: it is the MX of the domains whose accounts are in the
// directory. The conversation is in package incoming; here is what becomes of recipients and messages.
//
// # Without a queue
//
// SMTP has one answer to DATA, so all recipients of a transaction have to be of one member:
//
//	RCPT  the first one chooses the member; the transaction is opened there, and RCPT passed on: the reply is the member's
//	RCPT  of the same member: passed on as well; of another one: 452 4.5.3, the sender brings it in its next transaction
//	      (RFC 5321 section 4.5.3.1.10)
//	DATA  the text goes to the member as it comes in; the member's own answer is passed on
//
// So nothing is ever accepted here that is not safe already, and nothing is stored.
//
// A member that is spoken to by LMTP gives an answer for each recipient. Where they differ the sender is told the worst
// one: a temporary refusal, so that it tries again, and those who have the message get it twice; else a permanent one,
// and it learns that not everybody could be reached. Who cannot bear that has a queue, or members that speak SMTP.
//
// # With a queue
//
// Every recipient that has a home is taken. The message is delivered to all members at once, before the answer; what could
// not be delivered goes into the queue (package spool), and the answer comes when it is safe there. A message that
// every recipient's member refuses for good is refused, and not queued to be bounced.
//
// DSN is offered whatever the members have (RFC 3461): NOTIFY, RET and ENVID go to those that have it, and hold for the
// queue's own notifications. Recipients whose success is to be told go through the queue, which knows how to.
//
// # Smuggling
//
// What follows "text" in a message, and what servers make of it (TestSmuggling here; TestSmugglingToPostfix in integration
// with a real one). Only CRLF.CRLF is an end.
//
//	behind the text         go-smtp's server            Postfix 3.7 as it comes  here: refuse  here: repair
//	LF.CRLF LF.LF CRLF.LF   one, LF handed on           two messages             554 5.6.0     one, CRLF for LF
//	CRLF.CRCRLF             one, dot and CR are lost    two messages             554 5.6.0     one
//	CR.CR CR.CRLF CR.LF     one, CR handed on           one                      554 5.6.0     one, CRLF for CR
//	CRLF.CR                 one, dot and CR are lost    one                      554 5.6.0     one
//	CRCRLF.CRLF             one: overlooks a real end   one, ended               554, ended    one, ended
//	CRLF.NULCRLF            one                         one                      one           one
//
// # Outgoing
//
// The service outgoing (NewOutgoing) is for what backends send by themselves, such as forwarded mail. Clients outside of
// outgoing.networks are refused in place of the greeting. Every message is queued: recipients of the directory go straight
// to their home, all others to a smarthost. An address that nobody has in a domain of delivery.local_domains is refused.
// What goes round in circles, by two mailboxes that forward to each other, ends by its hops (delivery.max_hops).
//
// # Never an open relay
//
// Mail is taken for accounts of the directory alone: an address that nobody has is refused with 550 5.1.1, one outside
// delivery.local_domains, where that is set, with 550 5.7.1 before the directory is asked.
package smtp
