// Package pop3 speaks POP3 up to the hand-over: with the client until it has said who it is, then with its home backend
// until that has let it in.
//
//	S: +OK mail.example.com ready            B: +OK [XCLIENT] ready
//	C: USER ann                              P: XCLIENT ADDR=203.0.113.5 PORT=51234 SESSION=…
//	S: +OK                                   P: USER ann
//	C: PASS sesame                           P: PASS sesame
//	S: +OK Logged in.                   ◀──  B: +OK, +OK, +OK Logged in.
//
// The member's own line is what the client gets at the end; from there on every byte is theirs. What the client is told
// when it does not come to that is in refusals, one text a cause.
//
// Read for it: RFC 1939 (POP3), 2449 (CAPA, response codes), 3206 (SYS and AUTH), 2595 (STLS), 5034 (AUTH), 6856 (UTF8
// and LANG) as far as they are before the login, and Dovecot's XCLIENT, by which one hop tells the next who the client is.
//
// # Known divergences
//
//   - RFC 2449 section 4 ends a command line at 255 octets. USER, PASS, AUTH and XCLIENT may be as long as the listener's
//     line limit: passwords that are tokens do not fit.
//   - RFC 1939 section 7: APOP is refused. Its digest would need the password in the clear in the directory.
//   - RFC 2449 section 5: what CAPA shows before the login is what every member can do, and after it what the member
//     says. RESP-CODES and AUTH-RESP-CODE are always shown: the codes before the login are ours.
//   - RFC 6856 section 2.1: a user name in UTF-8 is taken before the command UTF8, too.
//   - RFC 6856 section 3: LANG knows i-default alone, before the login, and is not shown by CAPA.
//   - RFC 5034 section 4: AUTH without a mechanism lists the mechanisms, as the drafts before the RFC had it; mail programs
//     still ask so.
//   - A member's [REFERRAL/…] (Dovecot) is not passed on. A client that followed it would go past the frontend.
//   - NOOP is answered before the login (RFC 1939 has it only after): some mail programs keep a connection open by it.
package pop3
