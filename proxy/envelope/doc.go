// Package envelope is a message on its way: who sent it, who is to get it, and its text. It knows no session and no
// member.
//
//	MAIL FROM:<…> SIZE= BODY= SMTPUTF8 RET= ENVID=   ParseMail       Sender
//	RCPT TO:<…> NOTIFY= ORCPT=                       ParseRecipient  Recipient
//	DATA, BDAT                                       Text            lines that end with CRLF, and nothing that could
//	                                                                 be taken for another end
//	                                                 Body            in memory up to a bound, then in a file without a name
//
// # Line ends
//
// Only CRLF ends a line, and only CRLF.CRLF ends the text. A bare CR or LF makes the text unacceptable, or is turned
// into CRLF where that is configured; it never begins or ends anything. This is what keeps one message from becoming
// two on its way through servers that disagree (SMTP smuggling), and it is decided here, before any other code sees the
// text.
//
//   - RFC 5321 section 4.1.1.2, 4.1.1.3: MAIL and RCPT; section 4.1.2: paths; section 4.5.2: transparency
//   - RFC 1870 SIZE, RFC 6152 8BITMIME, RFC 6531 SMTPUTF8, RFC 3461 DSN, RFC 3030 CHUNKING
package envelope
