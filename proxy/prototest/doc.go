// Package prototest plays wire scripts: a conversation of a mail program with mailmux, and of mailmux with a member,
// written down line by line. The real engine runs between the two ends, on connections in memory, inside
// testing/synctest: a timeout of half an hour takes no time, and a conversation that hangs ends at once.
//
//	func TestScripts(t *testing.T) { prototest.Run(t, pop3.New(), "pop3", "testdata/*.txt") }
//
// A script is a text file. The comment at its top is its story. Each script is played twice, the second time with
// connections that give one byte at a read.
//
//	# The backend's wrong-password text is replaced by ours.
//	S: +OK {*}
//	C: USER ann@example.com
//	S: +OK
//	C: PASS sesame
//	B: +OK ready
//	P: USER ann@example.com
//	B: +OK
//	P: PASS sesame
//	B: -ERR [AUTH] user ann unknown on store7
//	S: -ERR [AUTH] Authentication failed. {*}
//
// # Lines
//
//	C: text    the client says it            B: text    the backend says it
//	S: text    mailmux has to answer it      P: text    mailmux has to say it to the backend
//
// CRLF is added to what is said, and wanted behind what is heard. With ">" in place of ":" the text goes as it is,
// without a line end: "C> sesame" is a literal of six bytes. Lines of one end that follow each other directly are sent
// in one write; a blank line or a comment between them makes it two.
//
// The first line of the backend's leg waits for mailmux to dial; after an end of that leg, the next one waits for the
// next dial. At the end of the script mailmux must have said nothing beyond it.
//
// Every session is traced, and neither a trace nor the session event may show "sesame", "secret" or "t0ken" (the passwords
// of these worlds), plain or in base64.
//
// In a text, the following stand for something else; any other brace is itself:
//
//	\r \n \t \0 \\ \xHH     a byte
//	{*}                     any text, only in what is heard
//	{name}                  a word: the first hearing binds it, from then on it is that text, also in what is said
//	{x*5000}                x, 5000 times
//	{base64:text}           the text, which may hold escapes but no brace, in base64
//
// # Directives
//
//	TLS client [NAME]       the client makes TLS, asking for the server NAME (frontend.example.com)
//	TLS backend             the backend makes TLS
//	close client|backend    that end closes its connection
//	reset client|backend    that end resets it
//	shut client|backend     that end says no more (half-close)
//	end client|backend      mailmux has to close that leg, having said nothing more
//	refuse                  dials fail from now on; stands before the line that makes mailmux dial
//	accept                  and work again
//	dial MEMBER             mailmux has to dial this member next
//	wait 30m                time passes
//	shutdown                mailmux begins to shut down
//	event key=value ...     the session has ended, and its event has these
//
// # Settings
//
// Comments of the form "# set key=value" stand before the first line:
//
//	account.status=hold            of ann@example.com: active, hold, disabled, unknown
//	account.host=other.example     her home host, store.example.com otherwise
//	account.login=ann              her canonical login name
//	account.password=sesame        what the directory knows; for backend.login=master
//	directory=down                 or ambiguous, nohost
//	members=2                      store.example.com has one member otherwise: 10.0.0.1, then 10.0.0.2 ...
//	capabilities=A B C             what members showed to health checks; several lines are several members
//	listener.tls=implicit          or off; starttls otherwise
//	listener.allow_plaintext=false true otherwise
//	listener.identity_from=PREFIX  who is believed; the client connects from 192.0.2.7
//	backend.login=master           as the user admin with the password secret
//	backend.format=separator       the master user is account*admin
//	backend.tls=starttls           or implicit
//	backend.identity=off
//	limits.bad_commands=3          and line_length, per_account, per_address, exempt, login_timeout, hand_over_timeout
//	auth.mechanisms=plain,login    what is offered
//	certificate=ann@example.com    the client has a certificate with this address
//	trace=off                      no trace, for benchmarks
//	chunk=off                      do not play the script byte by byte; for those that depend on what is in one packet
package prototest
