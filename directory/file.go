package directory

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-ldap/ldap/v3"
	"golang.org/x/crypto/bcrypt"
)

// file is the source that reads an LDIF file, for sites and tests without a server. The file is read again when it is
// told to, and when it was replaced, which is looked at no more than once a second.
type file struct {
	path     string
	base     string
	template template

	content  atomic.Pointer[content]
	requests atomic.Uint64
	failures atomic.Uint64

	mu     sync.Mutex
	looked time.Time
	err    error // of the last reading
}

type content struct {
	index *index
	byDN  map[string]*entry
	info  os.FileInfo
	read  time.Time
}

func newFile(path string, c Config) (*file, error) {
	t, err := newTemplate(c.Filter)
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	f := &file{path: path, base: c.Base, template: t}
	return f, f.reload()
}

func (f *file) reload() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.read()
}

// read reads the file; the caller holds the mutex. On an error the content stays as it is.
func (f *file) read() error {
	f.looked = time.Now()
	c, err := readContent(f.path, f.base)
	f.err = err
	if err == nil {
		f.content.Store(c)
	}
	return err
}

func readContent(path, base string) (*content, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the LDIF file: %w", err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the LDIF file: %w", err)
	}
	doc, err := parseLDIF(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c := &content{byDN: map[string]*entry{}, info: info, read: time.Now()}
	var entries []*entry
	for _, e := range doc.entries(base) {
		key := foldDN(e.dn)
		if _, ok := c.byDN[key]; ok {
			return nil, fmt.Errorf("%s: two entries have the DN %s", path, e.dn)
		}
		c.byDN[key] = &e.entry
		entries = append(entries, &e.entry)
	}
	c.index = newIndex(entries)
	return c, nil
}

// entries are those at and under base.
func (d *document) entries(base string) []*ldifEntry {
	suffix := foldDN(base)
	var found []*ldifEntry
	for _, p := range d.parts {
		if p.entry == nil {
			continue
		}
		if dn := foldDN(p.entry.dn); suffix == "" || dn == suffix || strings.HasSuffix(dn, ","+suffix) {
			found = append(found, p.entry)
		}
	}
	return found
}

// foldDN makes DNs that mean the same entry equal.
func foldDN(dn string) string {
	parsed, err := ldap.ParseDN(dn)
	if err != nil {
		return strings.ToLower(dn)
	}
	return strings.ToLower(parsed.String())
}

// current is the content, read anew if the file was replaced.
func (f *file) current() *content {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.content.Load()
	if time.Since(f.looked) < time.Second {
		return c
	}
	f.looked = time.Now()
	if info, err := os.Stat(f.path); err == nil && (!os.SameFile(info, c.info) || !info.ModTime().Equal(c.info.ModTime()) || info.Size() != c.info.Size()) {
		if f.read() != nil {
			f.failures.Add(1)
		}
	}
	return f.content.Load()
}

func (f *file) filter(name Name) string { return f.template.fill(name) }

func (f *file) find(_ context.Context, name Name, attributes []string) (*entry, string, error) {
	f.requests.Add(1)
	url := "ldif:" + f.path
	filter, err := ldap.CompileFilter(f.template.fill(name))
	if err != nil {
		return nil, url, fmt.Errorf("%w: filter for %s: %w", ErrUnavailable, name, err)
	}
	found := f.current().index.search(filter, 2)
	switch {
	case len(found) == 0:
		return nil, url, ErrNoUser
	case len(found) > 1:
		return nil, url, fmt.Errorf("%w: %s and %s", ErrAmbiguous, clip(found[0].dn), clip(found[1].dn))
	}
	e := &entry{dn: found[0].dn}
	for _, a := range found[0].attributes {
		for _, wanted := range attributes {
			if strings.EqualFold(a.name, wanted) {
				e.attributes = append(e.attributes, a)
			}
		}
	}
	return e, url, nil
}

func (f *file) checkPassword(_ context.Context, dn, password string) error {
	f.requests.Add(1)
	e := f.current().byDN[foldDN(dn)]
	if e == nil {
		return ErrBadPassword
	}
	var unknown error
	for _, stored := range e.values("userPassword") {
		ok, err := verify(stored, password)
		if ok {
			return nil
		}
		if err != nil {
			unknown = err
		}
	}
	if unknown != nil {
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, dn, unknown)
	}
	return ErrBadPassword
}

// verify compares a password with a value of userPassword (RFC 2307 section 5.3, and the schemes of OpenLDAP).
func verify(stored, password string) (bool, error) {
	scheme, hash, ok := strings.Cut(strings.TrimPrefix(stored, "{"), "}")
	if !ok || !strings.HasPrefix(stored, "{") {
		return subtle.ConstantTimeCompare([]byte(stored), []byte(password)) == 1, nil
	}
	var sum func(string) []byte
	switch strings.ToUpper(scheme) {
	case "CLEARTEXT", "PLAIN":
		return subtle.ConstantTimeCompare([]byte(hash), []byte(password)) == 1, nil
	case "CRYPT", "BLF-CRYPT", "BCRYPT":
		err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password))
		if err != nil && !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
			return false, fmt.Errorf("userPassword of scheme %q: only bcrypt is known: %w", scheme, err)
		}
		return err == nil, nil
	case "SHA", "SSHA":
		sum = func(s string) []byte { h := sha1.Sum([]byte(s)); return h[:] }
	case "SHA256", "SSHA256":
		sum = func(s string) []byte { h := sha256.Sum256([]byte(s)); return h[:] }
	case "SHA512", "SSHA512":
		sum = func(s string) []byte { h := sha512.Sum512([]byte(s)); return h[:] }
	default:
		return false, fmt.Errorf("userPassword has the unknown scheme %.20q", scheme)
	}
	raw, err := base64.StdEncoding.DecodeString(hash)
	size := len(sum(""))
	if err != nil || len(raw) < size {
		return false, fmt.Errorf("userPassword of scheme %q is not a hash", scheme)
	}
	return subtle.ConstantTimeCompare(sum(password+string(raw[size:])), raw[:size]) == 1, nil
}

func (f *file) check(context.Context) []error {
	if err := f.reload(); err != nil {
		return []error{err}
	}
	return nil
}

func (f *file) stats() []ServerStats {
	c := f.content.Load()
	f.mu.Lock()
	defer f.mu.Unlock()
	st := ServerStats{URL: "ldif:" + f.path, Up: true, Since: c.read, Requests: f.requests.Load(), Failures: f.failures.Load()}
	if f.err != nil {
		st.LastError = f.err.Error()
	}
	return []ServerStats{st}
}

func (f *file) close() {}
