package mailstore

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"
)

// ErrNoAccount: the storage has no such account.
var ErrNoAccount = errors.New("no such account on this storage")

// Storage is the mailboxes of some accounts. Its methods may be called from many goroutines, also while backends serve
// it. Two backends may have it attached at once, which on a real disk would corrupt it and here does not.
type Storage struct {
	name string

	mu       sync.Mutex
	accounts map[string]*account
}

// account is the mailboxes and scripts of one user.
type account struct {
	login    string
	password string
	user     *imapmemserver.User

	mu      sync.Mutex
	popLock bool // held by a POP3 session (RFC 1939 section 4)
	scripts map[string]string
	active  string // name of the active script, "" for none
}

// Message is one message of an INBOX.
type Message struct {
	UID uint32
	Raw []byte
}

// NewStorage makes an empty storage. The name is for people.
func NewStorage(name string) *Storage {
	return &Storage{name: name, accounts: make(map[string]*account)}
}

// Name is what the storage was called.
func (s *Storage) Name() string { return s.name }

// AddAccount makes an account with an empty INBOX and the usual folders. The login is compared without case.
func (s *Storage) AddAccount(login, password string) error {
	a := &account{
		login:    strings.ToLower(login),
		password: password,
		user:     imapmemserver.NewUser(login, password),
		scripts:  make(map[string]string),
	}
	for _, name := range []string{"INBOX", "Drafts", "Sent", "Trash"} {
		if err := a.user.Create(name, nil); err != nil {
			return fmt.Errorf("create %s of %s: %w", name, login, err)
		}
		if err := a.user.Subscribe(name); err != nil {
			return fmt.Errorf("subscribe %s of %s: %w", name, login, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accounts[a.login] != nil {
		return fmt.Errorf("add %s to storage %s: the account exists", login, s.name)
	}
	s.accounts[a.login] = a
	return nil
}

// Accounts lists the login names, sorted.
func (s *Storage) Accounts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.accounts))
	for name := range s.accounts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Has reports whether the account is on this storage.
func (s *Storage) Has(login string) bool { return s.account(login) != nil }

// account finds an account, or nil.
func (s *Storage) account(login string) *account {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accounts[strings.ToLower(login)]
}

// Deliver appends a message to the account's INBOX, or to the folder that is named. The message may use any line ends.
func (s *Storage) Deliver(login string, raw []byte, folder ...string) error {
	a := s.account(login)
	if a == nil {
		return fmt.Errorf("deliver to %s: %w", login, ErrNoAccount)
	}
	name := "INBOX"
	if len(folder) > 0 {
		name = folder[0]
	}
	if _, err := a.user.Append(name, newLiteral(raw), &imap.AppendOptions{}); err != nil {
		return fmt.Errorf("deliver to %s of %s: %w", name, login, err)
	}
	return nil
}

// Messages copies the INBOX of an account, the oldest message first.
func (s *Storage) Messages(login string) ([]Message, error) {
	a := s.account(login)
	if a == nil {
		return nil, fmt.Errorf("read INBOX of %s: %w", login, ErrNoAccount)
	}
	return a.messages()
}

// checkPassword compares a password in constant time.
func (a *account) checkPassword(password string) bool {
	return subtle.ConstantTimeCompare([]byte(a.password), []byte(password)) == 1
}

// lockPOP takes the lock of a POP3 session, if nobody has it.
func (a *account) lockPOP() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.popLock {
		return false
	}
	a.popLock = true
	return true
}

// unlockPOP gives the lock back.
func (a *account) unlockPOP() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.popLock = false
}

// literal is a message in the form that the IMAP library appends.
type literal struct {
	*bytes.Reader
	size int64
}

// newLiteral makes line ends CRLF, as mailboxes have them.
func newLiteral(raw []byte) literal {
	raw = bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n"))
	raw = bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n"))
	return literal{bytes.NewReader(raw), int64(len(raw))}
}

// Size is the length in bytes.
func (l literal) Size() int64 { return l.size }
