// Package claims agrees with all frontends of a site, through etcd, on the one member that an account is on: it is what
// a host with sticky: claim asks. Two members at once can corrupt a mailbox on shared storage, and a hash, which needs no
// agreement, has two answers while frontends see an outage at different moments. Half a minute of a storm over three
// frontends had accounts on two members 107 times with sticky: hash, ten minutes of it never with sticky: claim (make
// soak-claims; examples/cluster-of-clusters tells of it).
//
// # What is in etcd
//
// Under claims.prefix:
//
//	f/LEASE          a live frontend: its name, the members that it sees down, the epoch that it has acknowledged
//	a/ACCOUNT        the claim: the member that has the account, and since when
//	h/ACCOUNT/LEASE  a holder of the claim: one frontend, however many sessions of the account it has
//	m/ACCOUNT        the account is to leave its member: by an operator's move, or because that is evacuated or down
//	v                the controller's verdict: the members that are down, with an epoch
//	w                the operator's wishes: the members that are withdrawn
//	c/               the election of the controller
//
// A frontend has one lease. Its f/ and h/ keys live under it, so that they go when it does.
//
// # A login
//
// A session, or a delivery, takes the claim before it dials. One transaction has three ways out:
//
//	if no other frontend holds it, and nobody wants it moved → a/ = the member that the hash chooses; h/ = ours
//	else, if nobody wants it moved                           → h/ = ours; the answer is what a/ says: we have joined
//	else                                                     → nothing; wait until the others have left, then take it
//
// The next session of the account at this frontend joins the one before it, and costs etcd nothing. When the last one has
// ended, and claims.linger is over, one transaction takes our h/ back, and a/ too if it was the last. Every one of these
// transactions names the revision of our own h/ that it is about. One that etcd did not answer, and which it may carry
// out any time later, so finds nothing to change by then, or leaves an h/ of ours behind, which is the safe direction:
// the account stays where it is until that has been cleared away.
//
// # Why an account never is on two members
//
//   - A frontend sends bytes of an account to a member only while its h/ is there and a/ names that member: it writes h/
//     and reads a/ in the same transaction.
//   - a/ changes its member only in a transaction that finds nobody else's h/, by a frontend that has no session of the
//     account itself.
//   - h/ is taken back after the sessions are closed, never before: the member has been sent the end of the connection.
//   - h/ vanishes with the lease, so a frontend that may lose its lease closes its sessions before: see below.
//
// What checks see and who is the controller has no part in this argument. They only say when sessions have to be closed.
//
// # A frontend that loses etcd fences itself
//
// The lease is renewed each fifth of its time. etcd ends it no sooner than claims.lease after it has received the last
// renewal, which was not before we sent it. So the frontend remembers when it sent the last one that was answered;
// that, plus claims.lease, minus claims.margin, is its deadline, on a clock that goes on while the machine sleeps
// (CLOCK_BOOTTIME). At the deadline it closes the gate of the lease: no byte of a claimed session is read or written
// any more, and all of them are closed, which takes some 150 µs a session (4,000 were measured at 625 ms): with more
// than 10,000 the guard (below) helps, or a larger margin. The margin is for the time that this takes, and for clocks
// that do not run alike. A leader of etcd that is deposed may answer a renewal before it knows, which is worth nothing:
// so a renewal counts only when a read that asks the majority has found its leader's term still there. Whatever becomes
// of the lease then, this frontend starts anew with another one, and holds nothing under it.
//
// A process that is stopped (SIGSTOP, a debugger, a machine that swaps) cannot close anything. Therefore:
//
//   - Every write to a member asks the gate, and the relay asks it when it wakes up, before it moves a byte. splice(2)
//     moves nothing in a process that is stopped.
//   - That leaves the instruction between the question and the write. A guard closes it: a second process, a child of
//     this one, that reads the deadline in shared memory and, half a margin behind it, shuts the sockets of claimed
//     sessions down by pidfd_getfd(2) and shutdown(2). The member sees the end of the connection before the lease ends,
//     and a write that comes later fails. Where the kernel or a sandbox does not let it, it kills the process instead,
//     which closes everything.
//   - A whole machine that stands still, with its guard, sends nothing, but its connections stay open at the members until
//     it wakes up; then the gate is closed before the relay has moved anything, but for one write per processor that
//     was about to begin. Nothing inside the machine can do better: sites that pause machines under load need fencing
//     from outside. The same is true of a machine that dies: its members see no end, and no byte either.
//
// # The controller
//
// One frontend is elected. It alone decides that a member is down, when more than half of the live frontends see it so,
// unless no other member of the host would be left, and publishes that under a new epoch, in a transaction that fails if
// it is not the controller any more. Every frontend closes its sessions to that member, takes its holders back, and
// acknowledges the epoch. status shows who has not yet. An account is free as soon as its own holders are gone, it need
// not wait for the last account of the member; and a frontend that does not answer loses its lease. So a dead member
// together with a dead frontend delays the accounts that both had by claims.lease, and nothing else.
//
// A member that only some frontends cannot reach is not down. An account that nobody holds goes to a member that works
// from where it logs in; one that is held elsewhere can only wait.
//
// # etcd away
//
// Sessions live on until the deadline, new sessions of accounts that this frontend holds are served. Others get a
// temporary error after claims.timeout, or go by hash where claims.on_outage says so: then the rule above does not hold
// for them, and they are closed when etcd is back, to come again with a claim.
//
// # etcd put back
//
// An etcd that is put back to an older state, a snapshot or nothing at all, has forgotten claims that are in use. Its
// revision tells: it is lower than one that it has answered with before. A frontend that finds out, which it does with
// its next renewal, closes its sessions as if it had lost its lease, and takes no claim for the time of a lease, in which
// the others find out as well, or lose theirs. A frontend that starts in that very moment knows no revision from before,
// and a restore that skips revisions (--bump-revision) does not show: who restores etcd stops the frontends before, and
// starts them behind it.
//
// # Logging in to etcd
//
// With claims.user etcd gives a token for the password, which expires, and which an etcd that was started anew does not
// know. A new one is asked for then, by a connection of its own that shows no old one. Each renewal of the lease asks for
// one, too: the client of etcd does so for everything that is a stream. What etcd refuses is an outage like any other. It
// is said with the key that it is about, in status and in the log; the next try reads the password again.
//
// # Hostile or broken values
//
// What comes out of etcd is parsed strictly, bounded in size, and names of members are looked up in the host table. A
// value that makes no sense is an error of that login, or is left out with a warning; it never is an address.
package claims
