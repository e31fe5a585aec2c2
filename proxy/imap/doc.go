// Package imap speaks IMAP before the home backend is known: it greets, answers the few commands that make sense before
// a login, takes the login, and says it again to the backend. Then the session is handed over, and every byte belongs
// to client and backend.
//
//	client                      mailmux                                  home backend
//	                            * OK [CAPABILITY ...]
//	a LOGIN ann sesame    ──▶   (account, home host, member, dial)  ──▶  * OK [CAPABILITY ... ID]
//	                            I ID ("x-originating-ip" ...)
//	                            L LOGIN "ann@example.com" "sesame"  ──▶  I OK, L OK [CAPABILITY ...] Logged in
//	a OK [CAPABILITY ...] Logged in  ◀──
//	b SELECT INBOX        ══════════════════════════════════════════════▶
//
// Everything that goes to a backend whose capabilities its greeting shows goes in one write, so that a login costs one
// round trip behind the greeting. With STARTTLS to the backend, nothing but STARTTLS is said in the clear.
//
// A client learns capabilities twice. Before the login they are what every member can do, because the member is not
// known yet, and what the frontend does itself: STARTTLS, AUTH=, SASL-IR, ID, LITERAL+. After the login they are those
// of its own member, once, without what only concerns a login.
//
// Implemented: RFC 3501 and RFC 9051 (CAPABILITY, NOOP, LOGOUT, STARTTLS, LOGIN, AUTHENTICATE), RFC 2971 (ID), RFC 4959
// (SASL-IR), RFC 5530 (response codes), RFC 7888 (LITERAL+, LITERAL-). The identity in ID is Dovecot's.
//
// # Known divergences
//
//   - Arguments of LOGIN that are neither quoted strings nor literals may hold any visible character, such as "*" and
//     "%", which RFC 3501 wants quoted: people type them.
//   - Quoted strings may hold UTF-8, as in RFC 9051, without ENABLE.
//   - A backend that greets with PREAUTH is refused: its mailbox would be somebody else's.
//   - UNAUTHENTICATE (RFC 8437) is taken out of the member's capabilities: it would leave the client on a backend that
//     need not be that of its next login. LOGIN-REFERRALS (RFC 2221) is taken out, too, with the code REFERRAL of an OK, and
//     so is STARTTLS.
//   - Untagged lines of the backend that come before its OK and hold a literal are not passed on.
package imap
