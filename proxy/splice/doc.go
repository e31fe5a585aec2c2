// Package splice holds the connections of sessions: it accepts and dials them, waits for them, and, after the hand-over,
// relays between the two legs.
//
// Most mail sessions are idle most of the time, so what counts is what an idle pair holds. Here that is two
// descriptors, one small record and, under TLS, the cipher states: no goroutine, no buffer, no pipe. A few pollers, one
// for each processor, wait for all descriptors, each by an epoll instance, edge-triggered; the epoll instances themselves
// are waited for through Go's network poller, so that no thread is blocked.
//
// Before the hand-over a Sock is a net.Conn: the session's goroutine sleeps in Read until the poller wakes it. At the
// hand-over the poller is told that the descriptor is the Pair's from now on. That is all: the descriptor stays
// where it is, with whatever has come meanwhile.
//
// When bytes come for a pair, the poller moves them itself:
//
//   - A small exchange goes through the poller's one scratch buffer: one read, one write. A read that comes back short
//     has emptied the socket; there is no second one to be told so.
//   - A bulk transfer between plain legs goes through a pipe by splice(2) and never enters user space. The pipe is
//     borrowed while it lasts.
//   - A TLS leg is crypto/tls over a Sock, whose reads never wait and whose writes gather records until one write(2)
//     sends them.
//
// A peer that reads slowly stops its counterpart: what could not be written waits, at most one buffer or pipe for each
// direction, and nothing more is read until it is gone. A pair that has much to move is put off after a while in favour
// of the others.
//
// Half-close is passed on: the end of one direction becomes a FIN, or a close_notify, for the other leg, while the other
// direction goes on. TCP's out-of-band data is not passed on.
//
// Connections that are no TCP sockets, such as net.Pipe in tests, are relayed by two goroutines.
package splice
