// Package xclient says by SMTP's and LMTP's XCLIENT command who the client is: a Claim gathers what a trusted peer tells of
// its client, and Introduction writes what a member is told of ours.
//
// A peer's words are hostile until the engine has found that it may be believed (proxy.Session.Believe), and bounded in
// any case. What is written never holds more than the attributes that the other side has advertised, in lines of at most
// 512 bytes, and never LOGIN: Postfix would take it for a login.
//
//   - Postfix's XCLIENT_README
//   - Dovecot's attributes beside it: SESSION, TTL, CLIENT-TRANSPORT, DESTNAME (lib-smtp/smtp-server-cmd-xclient.c)
//   - RFC 3461 section 4: xtext
package xclient
