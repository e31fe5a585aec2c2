// Package smtpwire knows the grammar that SMTP, LMTP and message submission share: replies, the list of extensions, xtext,
// addresses and the names clients give themselves. It knows no session and no socket; who reads lines gives it a LineReader.
//
// A backend's words are hostile until shown otherwise. A reply is bounded in lines and bytes while it is read, and it
// loses its control characters and overlong lines when it is passed on to a client or written to a log.
//
//   - RFC 5321 section 4.2: replies; section 4.1.1.1: the answer to EHLO
//   - RFC 2034, RFC 3463: enhanced status codes
//   - RFC 3461 section 4: xtext
package smtpwire
