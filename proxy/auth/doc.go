// Package auth knows credentials: how a client states them, and how they are stated again to the home backend. It is
// shared by all protocols; each of them supplies only its way to carry a challenge and a response.
//
//	client ── Begin ──▶ Credentials ── Exchange ──▶ home backend
//
// Two kinds of mechanism go through mailmux:
//
//   - Told ones, PLAIN and LOGIN (and the protocols' own LOGIN and USER/PASS commands): the credentials are known after
//     the client's part, and are stated to the backend in whatever way it offers, under the account's canonical name, or
//     replaced by those of a master user once the password was verified here.
//   - Relayed ones, OAUTHBEARER, XOAUTH2 and SCRAM: the client's first message names the user, which is enough to find
//     the home backend. From there the exchange belongs to client and backend; each message is passed on as it is. For
//     SCRAM that means that mailmux never sees a password and could not log in by itself.
//
// EXTERNAL stands between: the client proves itself by its TLS certificate here, and the backend is told by a master
// login.
//
// Channel binding (RFC 5929, RFC 9266) does not go through a relay: the client's TLS channel ends here. A SCRAM client
// that insists on it ("p=") is refused. One that only says it could have ("y") claims that the server does not offer
// it; that is true of mailmux, but a backend that offers SCRAM-…-PLUS on its own would take it for an attack and refuse.
// Such backends have to have the PLUS mechanisms switched off.
package auth
