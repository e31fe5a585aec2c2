// Package splice is the relay: it moves bytes between the two legs of a session after the hand-over.
//
// Most mail sessions are idle most of the time, so what counts is what an idle pair holds. Here that is two
// descriptors, one small record and, under TLS, the cipher states: no goroutine, no buffer, no pipe. The descriptors are
// taken away from Go's network poller and put into an epoll instance of the relay's own, edge-triggered. A few pollers,
// one for each processor, wait for all pairs; the epoll instances themselves are waited for through Go's poller, so that
// no thread is blocked.
//
// When bytes come, a poller moves them:
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
