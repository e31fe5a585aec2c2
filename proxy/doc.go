// Package proxy is the engine: it owns the sockets, and knows no verb and no reply code. A protocol package owns the
// words, and no socket.
//
// The way of a session:
//
//	accept (once a slot is free) → PROXY header, if the peer is listed → limits → TLS, if implicit
//	  → Handler.Serve: greeting, commands, credentials
//	      → Session.Login: name → account → home host → member → dial → TLS → the handler's words → logged in
//	      → Session.HandOver
//	  → the relay (package splice): from here on the session costs two sockets and a small record
//	→ one session event
//
// Each session is a goroutine until the hand-over. Then the goroutine ends, its buffers go back to their pools, and the
// relay moves bytes when there are some; a hundred thousand idle sessions are no goroutine at all.
//
// A running server holds one State, everything that the configuration decides. A session keeps the State it began
// with; a reload puts another one in place for the sessions to come.
package proxy
