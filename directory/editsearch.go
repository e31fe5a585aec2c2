package directory

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// page is how many entries are asked for at a time. Larger pages are no faster.
const page = 1000

// nextPage is the next smaller size of pages to try with a server that refuses one, 0 for no pages at all.
func nextPage(size uint32) uint32 {
	switch {
	case size > 200:
		return 200
	case size > 50:
		return 50
	}
	return 0
}

// Search asks in pages where the server can, so that only one is in memory and the server waits while it is worked off.
// When the server cuts the answer short (size limits hold for paged searches, too, unless it is told otherwise), the
// same question is asked again for smaller and smaller ranges of entryUUID until every range fits.
func (e *ldapEditor) Search(ctx context.Context, q Query, each func(Record) error) error {
	filter, err := q.filter(e.cfg.Attributes)
	if err != nil {
		return err
	}
	c, err := e.open(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	defer e.discard(c)
	defer context.AfterFunc(ctx, c.drop)()
	s := &sweep{editor: e, conn: c, base: e.cfg.Base, each: each, seed: maphash.MakeSeed()}
	if q.Base != "" {
		s.base = q.Base
	}
	if e.can.Paging {
		s.page = page
	}
	limited, pivot, err := s.run(ctx, filter)
	if err != nil || !limited {
		return err
	}
	if pivot == "" {
		return errors.New("the server cuts searches short and shows no entryUUID: raise its size limit for the bind DN, or allow paged results without limit")
	}
	return s.split(ctx, filter, uuidRange{}, pivot)
}

// sweep is one search with all its pieces.
type sweep struct {
	editor *ldapEditor
	conn   *conn
	base   string
	each   func(Record) error
	page   uint32 // entries asked for at a time, 0 for all at once

	referrals []string // that were told
	seed      maphash.Seed
	seen      map[uint64]struct{} // what came before the answer was cut; nil until then
	ours      error               // an error of each
}

// uuidRange is from low up to, but without, high; "" is open.
type uuidRange struct{ low, high string }

func (r uuidRange) filter(filter string) string {
	if r.low != "" {
		filter = "(&" + filter + "(entryUUID>=" + r.low + "))"
	}
	if r.high != "" {
		filter = "(&" + filter + "(!(entryUUID>=" + r.high + ")))"
	}
	return filter
}

// split searches both sides of the pivot. It is the middle of what the range gave before it was cut, so that each side
// has some of it and the ranges become small soon, however the UUIDs are spread.
func (s *sweep) split(ctx context.Context, filter string, r uuidRange, pivot string) error {
	for _, half := range []uuidRange{{r.low, pivot}, {pivot, r.high}} {
		limited, middle, err := s.run(ctx, half.filter(filter))
		if err != nil {
			return err
		}
		if !limited {
			continue
		}
		if middle == "" || middle == half.low || middle == half.high {
			return fmt.Errorf("the server cuts searches short, even below %d entries: raise its size limit for the bind DN", page)
		}
		if err := s.split(ctx, filter, half, middle); err != nil {
			return err
		}
	}
	return nil
}

// run asks one question. When the answer is cut short it gives the middle of the entryUUIDs seen.
func (s *sweep) run(ctx context.Context, filter string) (limited bool, middle string, err error) {
	attributes := append(s.editor.reader.names(), "entryUUID")
	request := ldap.NewSearchRequest(s.base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 0, false, filter, attributes, nil)
	var uuids []string // enough of them to find a middle
	var hashes []uint64
	take := func(found *ldap.Entry) error {
		uuid := found.GetEqualFoldAttributeValue("entryUUID")
		if uuid != "" && len(uuids) < 100*page {
			uuids = append(uuids, strings.Clone(uuid))
		}
		hash := maphash.String(s.seed, uuid)
		if _, ok := s.seen[hash]; ok && uuid != "" {
			return nil
		}
		hashes = append(hashes, hash)
		s.ours = s.each(s.editor.cfg.Attributes.record(fromLDAP(found)))
		return s.ours
	}
	for {
		if s.page > 0 {
			err = s.pages(ctx, request, take)
		} else {
			err = s.stream(ctx, request, take)
		}
		if s.page == 0 || len(hashes) > 0 || len(uuids) > 0 || !refusesPaging(err) {
			break
		}
		s.page = nextPage(s.page)
	}
	if s.ours != nil {
		return false, "", s.ours
	}
	if !ldap.IsErrorAnyOf(err, ldap.LDAPResultSizeLimitExceeded, ldap.LDAPResultAdminLimitExceeded) {
		return false, "", searchError(err)
	}
	if s.seen == nil { // from now on the same entries may come again
		s.seen = map[uint64]struct{}{}
	}
	for _, hash := range hashes {
		s.seen[hash] = struct{}{}
	}
	if len(uuids) == 0 {
		return true, "", nil
	}
	slices.Sort(uuids)
	return true, uuids[len(uuids)/2], nil
}

// refer tells each part of the base that another server holds once: it is not followed.
func (s *sweep) refer(url string) error {
	if slices.Contains(s.referrals, url) {
		return nil
	}
	s.referrals = append(s.referrals, url)
	s.ours = s.each(Record{Referral: url})
	return s.ours
}

// refusesPaging says whether a server may answer in smaller pages, or without pages: some allow them up to a size, or to
// nobody.
func refusesPaging(err error) bool {
	return ldap.IsErrorAnyOf(err, ldap.LDAPResultSizeLimitExceeded, ldap.LDAPResultAdminLimitExceeded,
		ldap.LDAPResultUnwillingToPerform, ldap.LDAPResultUnavailableCriticalExtension)
}

func searchError(err error) error {
	var answer *ldap.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errElsewhere):
		return err
	case !errors.As(err, &answer) || answer.ResultCode >= ldap.ErrorNetwork:
		return fmt.Errorf("%w: %w", ErrLost, err)
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultBusy, ldap.LDAPResultUnavailable, ldap.LDAPResultTimeLimitExceeded):
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		return fmt.Errorf("%w: %w", ErrNoBase, err)
	case ldap.IsErrorWithCode(err, ldap.LDAPResultReferral):
		return fmt.Errorf("%w: choose a base that the server holds itself: %w", errElsewhere, err)
	}
	return err
}

// pages asks page by page (RFC 2696). The server keeps nothing open meanwhile but a number.
func (s *sweep) pages(ctx context.Context, request *ldap.SearchRequest, take func(*ldap.Entry) error) error {
	paging := ldap.NewControlPaging(s.page)
	request.Controls = []ldap.Control{paging}
	for {
		asking, cancel := context.WithTimeout(ctx, stallWithin)
		stop := context.AfterFunc(asking, s.conn.drop)
		result, err := s.conn.lc.Search(request)
		stop()
		cancel()
		if result != nil {
			for _, found := range result.Entries {
				if err := take(found); err != nil {
					return err
				}
			}
			for _, r := range result.Referrals {
				if err := s.refer(r); err != nil {
					return err
				}
			}
		}
		if err != nil {
			return err
		}
		answer, ok := ldap.FindControl(result.Controls, ldap.ControlTypePaging).(*ldap.ControlPaging)
		if !ok || len(answer.Cookie) == 0 {
			return nil
		}
		paging.SetCookie(answer.Cookie)
	}
}

// stream reads the whole answer as it comes, from a server without paging.
func (s *sweep) stream(ctx context.Context, request *ldap.SearchRequest, take func(*ldap.Entry) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request.Controls = nil
	response := s.conn.lc.SearchAsync(ctx, request, page)
	for response.Next() {
		if r := response.Referral(); r != "" {
			if err := s.refer(r); err != nil {
				return err
			}
		}
		if found := response.Entry(); found != nil {
			if err := take(found); err != nil {
				return err
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := response.Err(); err != nil {
		return err
	}
	if s.conn.lc.IsClosing() { // an answer cut off looks like a complete one
		return errClosed
	}
	return nil
}

// Get reads one entry.
func (e *ldapEditor) Get(ctx context.Context, dn string) (Record, error) {
	records, errs := e.GetAll(ctx, []string{dn})
	return records[0], errs[0]
}

// GetAll reads entries over one connection.
func (e *ldapEditor) GetAll(ctx context.Context, dns []string) ([]Record, []error) {
	records, errs := make([]Record, len(dns)), make([]error, len(dns))
	c, err := e.take(ctx)
	if err != nil {
		for i := range errs {
			errs[i] = fmt.Errorf("%w: %w", ErrLost, err)
		}
		return records, errs
	}
	defer e.put(c)
	ctx, cancel := context.WithTimeout(ctx, stallWithin)
	defer cancel()
	inFlight(len(dns), func(i int) { records[i], errs[i] = e.get(ctx, c, dns[i]) })
	return records, errs
}

func (e *ldapEditor) get(ctx context.Context, c *conn, dn string) (Record, error) {
	found, err := c.search(ctx, ldap.NewSearchRequest(dn, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, 0, false,
		"(objectClass=*)", e.reader.names(), nil), 1)
	switch {
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultNoSuchObject, ldap.LDAPResultInvalidDNSyntax), err == nil && len(found) == 0:
		// slapd calls a DN invalid whose attributes its schema does not have.
		return Record{}, fmt.Errorf("%w: %s", ErrGone, dn)
	case err != nil:
		return Record{}, searchError(err)
	}
	return e.cfg.Attributes.record(fromLDAP(found[0])), nil
}

// Find gives the records that an account's name leads to.
func (e *ldapEditor) Find(ctx context.Context, name Name) ([]Record, error) {
	found, err := e.read(ctx, ldap.NewSearchRequest(e.cfg.Base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 2, 0, false,
		e.finder.fill(name), e.reader.names(), nil), 2)
	if err != nil {
		return nil, searchError(err)
	}
	records := make([]Record, 0, len(found))
	for _, f := range found {
		records = append(records, e.cfg.Attributes.record(fromLDAP(f)))
	}
	return records, nil
}

func (e *ldapEditor) read(ctx context.Context, request *ldap.SearchRequest, limit int) ([]*ldap.Entry, error) {
	c, err := e.take(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	defer e.put(c)
	ctx, cancel := context.WithTimeout(ctx, stallWithin)
	defer cancel()
	return c.search(ctx, request, limit)
}
