// Package failover points many accounts at another home host, and back again: the work of cmd/hostfailover.
//
//	Feed ── Change ──▶ Run ── batches ──▶ Writer
//	search + Plan                        Applier: journal, then the directory, then the outcome
//	a list of accounts                   Dry: prints what would be changed
//	a journal, backwards
//
// A Plan is pure: a record of the directory in, a change out, or a reason to leave the entry alone. A change is a
// compare-and-set of one entry, made by the directory itself, so whoever writes at the same time wins or loses cleanly.
// oldHostServer keeps the original home host over several moves, and goes away when the account comes home.
//
// The run is done when the search finds nothing more: accounts that appear on the failed host meanwhile are found by the
// next pass. So a run that was interrupted, at any instant, is completed by running it again.
//
// The Applier writes a batch in one transaction (RFC 5805) where the directory has them, and else as single changes
// with many in flight. A transaction that aborts changes the run over to single changes for good: aborts can crash
// slapd 2.5. So can transactions that overlap, so there is one at a time. A directory that goes away is waited for; what
// was under way is read again then, because nobody can know whether it was done.
//
// The Journal is written ahead: a change is in it, and on the disk, before it is sent, and a change that the directory
// then refused is struck out. So it never claims less than what was done, and Undo, which reverts by compare-and-set
// too, finds everything.
package failover
