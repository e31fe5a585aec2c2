// Package talk is a mail client for tests: it speaks IMAP, POP3, submission and ManageSieve in one vocabulary, so that
// one table of tests serves all four, and it shows every byte of what a server answers.
//
//	c, err := talk.Dial(talk.IMAP, addr, talk.Options{TLS: talk.StartTLS, Roots: pool})
//	reply, err := c.Login("SCRAM-SHA-256", "ann@example.com", "sesame")
//	reply.OK, reply.Final          // the words of the server, for the table of refusals
//	where, err := c.Where()        // the backend that the session was handed over to
//
// An error means that the conversation itself broke: a lost connection, a timeout, an answer outside the grammar. A
// refusal is a Reply whose OK is false.
//
// The client is as strict as a test wants it and no more: it keeps no state of mailboxes, and is used by one goroutine at
// a time.
package talk
