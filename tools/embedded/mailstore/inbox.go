package mailstore

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"sync"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"
)

// messages reads the whole INBOX.
func (a *account) messages() ([]Message, error) {
	var out []Message
	err := a.visit(func(c *imapclient.Client) error {
		if c.Mailbox().NumMessages == 0 {
			return nil
		}
		section := &imap.FetchItemBodySection{Peek: true}
		all := imap.SeqSet{{Start: 1, Stop: 0}}
		found, err := c.Fetch(all, &imap.FetchOptions{UID: true, BodySection: []*imap.FetchItemBodySection{section}}).Collect()
		if err != nil {
			return err
		}
		for _, m := range found {
			out = append(out, Message{UID: uint32(m.UID), Raw: m.FindBodySection(section)})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read INBOX of %s: %w", a.login, err)
	}
	return out, nil
}

// remove deletes messages from the INBOX. Those that are gone already do not matter.
func (a *account) remove(uids []uint32) error {
	if len(uids) == 0 {
		return nil
	}
	err := a.visit(func(c *imapclient.Client) error {
		var set imap.UIDSet
		for _, uid := range uids {
			set.AddNum(imap.UID(uid))
		}
		deleted := &imap.StoreFlags{Op: imap.StoreFlagsAdd, Silent: true, Flags: []imap.Flag{imap.FlagDeleted}}
		if err := c.Store(set, deleted, nil).Close(); err != nil {
			return err
		}
		return c.UIDExpunge(set).Close()
	})
	if err != nil {
		return fmt.Errorf("delete from INBOX of %s: %w", a.login, err)
	}
	return nil
}

// visit opens the INBOX through an IMAP connection in memory, because the library's mailboxes can be read in no other
// way. What POP3 does to a mailbox is then seen by IMAP sessions at once.
func (a *account) visit(do func(*imapclient.Client) error) error {
	inner, outer := net.Pipe()
	server := imapserver.New(&imapserver.Options{
		NewSession: func(*imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			return &visitor{imapmemserver.NewUserSession(a.user)}, &imapserver.GreetingData{PreAuth: true}, nil
		},
		Caps:   capabilities(),
		Logger: log.New(io.Discard, "", 0),
	})
	if err := server.Serve(&oneConn{conn: inner}); err != nil {
		return err
	}
	c := imapclient.New(outer, nil)
	defer c.Close()
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		return err
	}
	if err := do(c); err != nil {
		return err
	}
	return c.Logout().Wait()
}

// visitor is a session that is logged in from the start.
type visitor struct{ *imapmemserver.UserSession }

// Login is never reached.
func (v *visitor) Login(string, string) error { return errors.New("logged in already") }

// oneConn is a listener with one connection.
type oneConn struct {
	once sync.Once
	conn net.Conn
}

// Accept returns the connection, then says that the listener is closed, which ends Serve.
func (l *oneConn) Accept() (net.Conn, error) {
	var conn net.Conn
	l.once.Do(func() { conn = l.conn })
	if conn == nil {
		return nil, net.ErrClosed
	}
	return conn, nil
}

// Close does nothing.
func (l *oneConn) Close() error { return nil }

// Addr is the address of the connection.
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// capabilities are what the mailboxes of the library can do.
func capabilities() imap.CapSet {
	set := make(imap.CapSet)
	for _, c := range []imap.Cap{
		imap.CapIMAP4rev1, imap.CapNamespace, imap.CapUIDPlus, imap.CapESearch, imap.CapSearchRes, imap.CapListExtended,
		imap.CapListStatus, imap.CapMove, imap.CapStatusSize, imap.CapBinary, imap.CapChildren,
	} {
		set[c] = struct{}{}
	}
	return set
}
