// Package submission speaks message submission (RFC 6409) to a mail program until it has authenticated, and to its home
// backend until that has accepted the login. Then the bytes are spliced, so whatever the backend can do the client can
// use: CHUNKING, DSN, SMTPUTF8 and what is to come.
//
// The way of a session:
//
//	220 → EHLO → [STARTTLS → EHLO] → AUTH ──┐          credentials and the client's name are known
//	        member:  220 → EHLO → [STARTTLS → EHLO] → [XCLIENT → EHLO] → AUTH → 235
//	235 ◀───────────────────────────────────┘          in the member's own words
//
// After the 235 a client may say EHLO again and most do not, so our EHLO lists what the members can do before the client
// logs in: what all of them showed to sessions and checks so far (offer.go).
//
// # On the member's leg
//
// EHLO carries our own name. The client's name follows in XCLIENT's HELO, where the member takes it, and in the EHLO
// behind XCLIENT, because Postfix keeps the name of that one. XCLIENT's LOGIN is never sent: for Postfix it is a login,
// and the AUTH behind it an error. Only a member that lists SESSION (Dovecot, another frontend) gets XCLIENT, EHLO and
// AUTH in one write; others answer one after the other, because Postfix may refuse what comes behind a command that has to
// be the last of its packet (smtpd_forbid_unauth_pipelining).
//
// # Written by
//
//   - RFC 6409 message submission, RFC 5321 SMTP, RFC 2920 pipelining
//   - RFC 4954 AUTH, RFC 3207 STARTTLS
//   - RFC 2034, 3463 and 5248: enhanced status codes
//   - Postfix's XCLIENT_README and Dovecot's attributes beside it
//
// # Known divergences
//
//   - AUTH is taken after HELO, too; RFC 4954 wants EHLO. Nothing is gained by refusing.
//   - A line may be as long as limits.line_length says, not 512 bytes (RFC 5321 section 4.5.3.1.4); a longer one ends the
//     session.
//   - VRFY is answered 530, which RFC 4954 section 6 allows, not 252.
//   - XCLIENT of a peer that is not believed is refused with 550, as Postfix and Dovecot do, and not ignored: its answer,
//     220, would promise that the session begins anew as another client's.
//   - LIMITS (RFC 9422), BURL, DELIVERBY and others with parameters are offered before the login only while all members
//     show the same ones; SIZE is the smallest.
package submission
