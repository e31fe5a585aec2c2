// Package spool is the frontends' queue: it keeps mail for accounts whose server is away, and hands it over when the
// server is back or the account has moved to another one. It knows neither SMTP nor LMTP; a Router says where a
// recipient's mail goes, and a Deliverer takes it there.
//
// # Layout
//
//	DIR/lock              held by flock(2) as long as a process serves the spool; holds its process id
//	DIR/tmp/C/ID.eml      being written; never acknowledged, and removed at start. C is the last character of the id: the
//	                      files are spread over 32 directories, and those over the disk (see spread)
//	DIR/queue/HOST/ID.eml waiting, under the home host that its recipients had at the last attempt
//	DIR/queue/_/ID.eml    waiting, for recipients of several home hosts, or of unknown ones
//	DIR/hold/ID.eml       kept by the operator; nothing happens to it until it is released
//	DIR/quarantine/ID.eml not readable: for a human to look at
//	DIR/exported-…/       what Export has set aside for another frontend; remove it when that has it
//	DIR/import/           what Import takes in, and the names of the exports that it has taken in
//
// One message is one file, and the file is the only truth about it:
//
//	{"mailmux":1,"id":"0d5k1…","size":        1234,"rcpts":2,"at":"2026-11-21T12:00:00Z","from":"ann@example.org"}
//	{"to":"bob@example.com","host":"back1.example.com"}
//	{"to":"eve@example.com","host":"back1.example.com"}
//
//	…the message, size bytes, as it came…
//
//	{"at":"2026-11-21T12:00:09Z","rcpt":[0],"state":"delivered","member":"10.0.0.11:24","reply":"250 2.0.0 saved"}
//	{"at":"2026-11-21T12:00:09Z","rcpt":[1],"state":"waiting","host":"back1.example.com","reply":"452 4.2.2 full"}
//
// Behind the message stands one line for each thing that happened to recipients; a last line that is cut short did not
// happen. The time of the next attempt is the file's modification time, so that ls -l shows the schedule, and a scan
// needs to open no file.
//
// # The way of a message
//
//	Accept: tmp/C/ID.eml → fsync → rename to queue/HOST → fsync of the directory → the caller may say 250
//	Run:    due → read → ask the Router for every recipient → one Deliver for each member → record the outcomes
//	        → nothing left: remove; else: set the time of the next attempt, in the directory of the host it has now
//
// Accepts share their syncs: one committer takes all files that are written, makes them durable by one sync of the file
// system (a few of them, or all where that is slow, by an fsync each, many at a time), renames them, and syncs each
// directory once for all of them. Meanwhile the next ones are written.
//
// A process that is killed at any instruction loses nothing: before the rename the message was not acknowledged, and
// after it the file has everything. An outcome is recorded in the file (and synced, when other recipients still wait)
// before anything else follows from it. So a recipient gets a message twice only if the frontend dies after the member
// accepted it and before that is recorded; and if the power fails, also when it does so within a second after the
// removal of the file, which is synced with the next round.
//
// # Schedule
//
// The pause before the next attempt is the message's age, from FirstRetry up to MaxRetry, give or take a fifth. It
// needs no counter, so it survives restarts. A member that cannot be reached is not dialled again for every message:
// its messages are looked up (they may have moved) and wait on, while one of them at a time tries it, after 1, 2, 4 …
// times FirstRetry and at least once a minute. When the member answers, or somebody calls Wake, all of its host's
// messages are due at once. WakeAccount does the same for single accounts.
//
// # Memory
//
// Each directory below queue has a window in memory: its messages that are due first, up to a bound. What is due later
// is found again by reading the directory when the window has run empty. So a million messages take as much memory as
// the windows do, and one host's flood neither delays nor displaces the mail of another.
//
// # Figures
//
// make soak-spool on two processors, little else running, on ext4:
//
//   - the daemon killed 300 times under load: 23,337 messages acknowledged for two recipients each, 47,888 copies
//     delivered, 130 of them doubled, none lost. Doubled are those whose member had answered, or was about to, at the
//     instant of the kill; messages that were never acknowledged are among the copies as well.
//   - the spool alone killed 300 times: 9,312 messages for three recipients each, 140 doubled, none lost
//   - start with 1,000,000 queued messages: 4.9 s, and 111 KiB of heap for a window of 1,000; each message of a window
//     takes about 120 bytes, so that the windows together, 200,000 messages, stay below 25 MiB whatever waits
//   - a failover while 10,000 messages wait: all of them delivered to the new host in 3.2 s (members that only count),
//     or in 45 s from the start of hostfailover to the last message in a real Dovecot's mailbox
//
// # Notifications
//
// Delivery status notifications (RFC 3464) are sent for failures and for delays, and for success where it was asked for
// and the member cannot do it (RFC 3461). They have the null sender, never answer a message with a null sender, and go
// through the queue like every message. Their file's name derives from the message's, so that a notification that a
// crash has interrupted is not made twice while the first one waits.
//
// # Known divergences
//
// RFC 3461 section 6.2: without RET, and for messages above 1 MiB, the headers alone are returned.
package spool
