// Package sieve speaks ManageSieve (RFC 5804) up to the hand-over: with the client until it has said who it is, then with
// its home backend until that has let it in.
//
//	S: "IMPLEMENTATION" "mailmux"                  B: "IMPLEMENTATION" "…"
//	S: "SASL" "PLAIN"                              B: "SASL" "PLAIN"
//	S: "SIEVE" "fileinto reject …"                 B: "SIEVE" "fileinto reject …"
//	S: "VERSION" "1.0"                             B: "XCLIENT"
//	S: OK "mail.example.com ready"                 B: OK "ready"
//	C: AUTHENTICATE "PLAIN" "AGFubgBzZXNhbWU="     P: XCLIENT ADDR=203.0.113.5 PORT=51234 SESSION=…
//	                                               P: AUTHENTICATE "PLAIN" "AGFubgBzZXNhbWU="
//	S: OK "Logged in."                        ◀──  B: OK, OK "Logged in."
//
// The member's own answer is what the client gets at the end, with its response code: in SCRAM that holds the proof
// that the server knows the password. What the client is told when it does not come to that is in refusals, one text a
// cause.
//
// A string is quoted, or a literal whose bytes follow on the next line. Everything is read by one tokeniser, readTokens,
// from both sides and with a bound on all literals of a line together.
//
// # Known divergences
//
//   - RFC 5804 section 1.7: what the greeting shows is what every member can do; until members were seen, a short list of
//     Sieve extensions. A client that wants the member's own asks CAPABILITY after the login.
//   - Section 2.14.1: UNAUTHENTICATE is not shown. Behind the hand-over it belongs to the member; who logs in as somebody
//     else after it stays where the first account lives.
//   - Section 1.3: REFERRAL is not passed on. A client that followed it would go past the frontend.
//   - Section 4: a client's literal is taken as {n+} or {n}, the latter without asking for it: there is no way to ask.
package sieve
