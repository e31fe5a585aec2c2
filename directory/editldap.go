package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

const (
	oidPaging       = "1.2.840.113556.1.4.319"
	oidTransactions = "1.3.6.1.1.21.1" // start of a transaction, and its name in supportedExtension
	oidTxnControl   = "1.3.6.1.1.21.2"
	oidTxnEnd       = "1.3.6.1.1.21.3"
	oidAssertion    = "1.3.6.1.1.12"

	pipelined    = 32                    // requests in flight on one connection
	stallWithin  = 2 * time.Minute       // for a page of a search, which may read the whole database
	settling     = 20 * time.Millisecond // at least, between the changes of a transaction and its end
	silentWithin = 30 * time.Second      // without any answer to changes a server is taken for dead
)

// ldapEditor edits through one LDAP server. Searches have connections of their own, one for each search: a search that
// is read slowly blocks its connection.
type ldapEditor struct {
	cfg     Config
	address address
	dialer  *dialer
	reader  reader
	finder  template
	can     Capabilities
	absent  []byte // asserts that there is no original home host; nil if the server knows no assertions

	mu      sync.Mutex
	idle    []*conn // for changes and single reads
	all     map[*conn]struct{}
	closed  bool
	sharing chan struct{} // bounds the connections for changes
}

var _ Editor = (*ldapEditor)(nil)

func newLDAPEditor(ctx context.Context, cfg Config, server string) (*ldapEditor, error) {
	a, err := parseServer(server)
	if err != nil {
		return nil, err
	}
	d, err := newDialer(cfg)
	if err != nil {
		return nil, err
	}
	finder, err := newTemplate(cfg.Filter)
	if err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	e := &ldapEditor{
		cfg: cfg, address: a, dialer: d, reader: newReader(cfg), finder: finder, all: map[*conn]struct{}{},
		sharing: make(chan struct{}, cfg.Connections),
	}
	c, err := e.take(ctx)
	switch {
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultInappropriateAuthentication):
		return nil, fmt.Errorf("%w: %s refuses to bind %q", ErrBadPassword, a.url, cfg.BindDN)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer e.put(c)
	asking, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	root, err := c.search(asking, rootDSE(), 1)
	if err != nil {
		e.Close()
		return nil, fmt.Errorf("%w: read the root entry of %s: %w", ErrUnavailable, server, err)
	}
	if len(root) == 1 {
		e.can.read(root[0])
	}
	if e.can.Assertions {
		e.absent, err = assertion(lacks(cfg.Attributes.OldHost))
	}
	return e, err
}

func (c *Capabilities) read(root *ldap.Entry) {
	c.Paging = slices.Contains(root.GetEqualFoldAttributeValues("supportedControl"), oidPaging)
	c.Assertions = slices.Contains(root.GetEqualFoldAttributeValues("supportedControl"), oidAssertion)
	c.Transactions = slices.Contains(root.GetEqualFoldAttributeValues("supportedExtension"), oidTransactions)
	c.Vendor = root.GetEqualFoldAttributeValue("vendorName")
	if version := root.GetEqualFoldAttributeValue("vendorVersion"); version != "" {
		c.Vendor += " " + version
	}
}

func (e *ldapEditor) Server() string             { return e.address.url }
func (e *ldapEditor) Capabilities() Capabilities { return e.can }

// Close ends all connections; what is under way ends with ErrLost.
func (e *ldapEditor) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for c := range e.all {
		c.drop()
	}
	clear(e.all)
	e.idle = nil
}

// open makes a connection that Close will end.
func (e *ldapEditor) open(ctx context.Context) (*conn, error) {
	c, err := e.dialer.dial(ctx, e.address)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		c.drop()
		return nil, errors.New("closed")
	}
	e.all[c] = struct{}{}
	return c, nil
}

func (e *ldapEditor) discard(c *conn) {
	c.drop()
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.all, c)
}

// take gives a connection for changes to one caller alone; put gives it back.
func (e *ldapEditor) take(ctx context.Context) (*conn, error) {
	select {
	case e.sharing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for {
		e.mu.Lock()
		var c *conn
		if n := len(e.idle); n > 0 {
			c, e.idle = e.idle[n-1], e.idle[:n-1]
		}
		e.mu.Unlock()
		if c == nil {
			c, err := e.open(ctx)
			if err != nil {
				<-e.sharing
			}
			return c, err
		}
		if c.usable(time.Now()) {
			return c, nil
		}
		e.discard(c)
	}
}

func (e *ldapEditor) put(c *conn) {
	defer func() { <-e.sharing }()
	if !c.usable(time.Now()) {
		e.discard(c)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.idle = append(e.idle, c)
}

// Modify pipelines the changes over one connection; callers that want several connections call it several times.
func (e *ldapEditor) Modify(ctx context.Context, changes []Change) []error {
	errs := make([]error, len(changes))
	c, err := e.take(ctx)
	if err != nil {
		for i := range errs {
			errs[i] = fmt.Errorf("%w: %w", ErrLost, err)
		}
		return errs
	}
	defer e.put(c)
	defer context.AfterFunc(ctx, c.drop)()
	defer c.watch(silentWithin)()
	e.pipeline(c, changes, errs, e.single)
	return errs
}

// pipeline sends requests with many in flight, and waits for all answers.
func (e *ldapEditor) pipeline(c *conn, changes []Change, errs []error, request func(Change) (*ldap.ModifyRequest, error)) {
	inFlight(len(changes), func(i int) {
		m, err := request(changes[i])
		if err == nil {
			err = outcome(c.lc.Modify(m))
		}
		errs[i] = err
	})
	c.requests.Add(int64(len(changes)))
}

// inFlight calls do with 0 to n-1, many at the same time. go-ldap gives each request a caller that waits, so there are
// as many callers as requests in flight.
func inFlight(n int, do func(i int)) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(pipelined, n) {
		wg.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// compareAndSet is the change as a request. Deleting an exact value fails if the entry does not hold it. So a value that
// stays is deleted and added again; and where there was none, an attribute that its schema has single-valued, as ours
// are, takes no second one.
func (e *ldapEditor) compareAndSet(c Change) *ldap.ModifyRequest {
	m := ldap.NewModifyRequest(c.DN, nil)
	set := func(attribute, from, to string) {
		if from != "" {
			m.Delete(attribute, []string{from})
		}
		if to != "" {
			m.Add(attribute, []string{to})
		}
	}
	set(e.cfg.Attributes.Host, c.From, c.To)
	set(e.cfg.Attributes.OldHost, c.OldFrom, c.OldTo)
	return m
}

// single is the request of a change by itself. It also asserts (RFC 4528) that there is no value where there was none,
// whatever the schema says.
func (e *ldapEditor) single(c Change) (*ldap.ModifyRequest, error) {
	m := e.compareAndSet(c)
	if !e.can.Assertions || c.From != "" && c.OldFrom != "" {
		return m, nil
	}
	value := e.absent
	if c.From == "" { // never in a failover
		filter := lacks(e.cfg.Attributes.Host)
		if c.OldFrom == "" {
			filter += lacks(e.cfg.Attributes.OldHost)
		}
		var err error
		if value, err = assertion(filter); err != nil {
			return nil, err
		}
	}
	m.Controls = []ldap.Control{control{oidAssertion, value}}
	return m, nil
}

// inTransaction is the request of a change in a transaction. It asserts nothing: slapd 2.5 frees the assertion before it
// looks at it, and crashes.
func (e *ldapEditor) inTransaction(id string) func(Change) (*ldap.ModifyRequest, error) {
	controls := []ldap.Control{control{oidTxnControl, []byte(id)}}
	return func(c Change) (*ldap.ModifyRequest, error) {
		m := e.compareAndSet(c)
		m.Controls = controls
		return m, nil
	}
}

// lacks is the filter of entries without an attribute.
func lacks(attribute string) string { return "(!(" + attribute + "=*))" }

// assertion is the value of an assertion control that wants all the filters to match.
func assertion(filters string) ([]byte, error) {
	filter, err := ldap.CompileFilter("(&" + filters + ")")
	if err != nil {
		return nil, err
	}
	return filter.Bytes(), nil
}

// outcome turns a result of the server into one of ours.
func outcome(err error) error {
	if err == nil {
		return nil
	}
	var answer *ldap.Error
	if !errors.As(err, &answer) || answer.ResultCode >= ldap.ErrorNetwork {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	switch answer.ResultCode {
	case ldap.LDAPResultNoSuchAttribute, ldap.LDAPResultAttributeOrValueExists, ldap.LDAPResultAssertionFailed:
		return fmt.Errorf("%w: %w", ErrConflict, err)
	case ldap.LDAPResultNoSuchObject:
		return fmt.Errorf("%w: %w", ErrGone, err)
	case ldap.LDAPResultBusy, ldap.LDAPResultUnavailable, ldap.LDAPResultTimeLimitExceeded, ldap.LDAPResultAdminLimitExceeded:
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case ldap.LDAPResultReferral:
		return fmt.Errorf("%w: it refers to another server, and referrals are not followed: %w", ErrReadOnly, err)
	case ldap.LDAPResultUnwillingToPerform:
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	return err
}

// Transact keeps the phases apart: slapd 2.5 crashes when the end of a transaction overtakes its changes, or its changes
// the start. So the start is answered before the first change is sent, and every change before the end is.
func (e *ldapEditor) Transact(ctx context.Context, changes []Change) error {
	c, err := e.take(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	defer e.put(c)
	defer context.AfterFunc(ctx, c.drop)()
	defer c.watch(silentWithin)()

	started, err := c.lc.Extended(ldap.NewExtendedRequest(oidTransactions, nil))
	switch err := outcome(err); {
	case errors.Is(err, ErrLost), errors.Is(err, ErrBusy):
		// Nothing was sent that could be committed: a lost connection is no more than a reason to try again.
		return fmt.Errorf("%w: start a transaction: %w", ErrBusy, err)
	case err != nil: // a server that has transactions, but not for us
		return fmt.Errorf("%w before it began: %v", ErrAborted, err)
	}
	id := ""
	if started.Value != nil {
		id = started.Value.Data.String()
	}
	errs, began := make([]error, len(changes)), time.Now()
	e.pipeline(c, changes, errs, e.inTransaction(id))
	// slapd 2.5 answers a change before its thread is done with it, and crashes when the end of the transaction frees
	// the change under that thread. Nothing tells when it is; a busy server, which is slow to answer, needs longer.
	time.Sleep(max(settling, time.Since(began)/10))
	if err := aborting(changes, errs); err != nil {
		if !errors.Is(err, ErrBusy) {
			_, _ = c.lc.Extended(endTransaction(id, false)) // a connection that is lost ends the transaction, too
		}
		return err
	}
	if _, err := c.lc.Extended(endTransaction(id, true)); err != nil {
		var answer *ldap.Error
		if !errors.As(err, &answer) || answer.ResultCode >= ldap.ErrorNetwork {
			return fmt.Errorf("%w: while a transaction was committed: %w", ErrLost, err)
		}
		return fmt.Errorf("%w: %w", ErrAborted, err)
	}
	return nil
}

// aborting says why a transaction cannot be committed. One entry may be protected; a server that refuses every change is
// a replica.
func aborting(changes []Change, errs []error) error {
	var first error
	readOnly := 0
	for i, err := range errs {
		switch {
		case err == nil:
			continue
		case errors.Is(err, ErrLost):
			return fmt.Errorf("%w: in a transaction that was not committed: %w", ErrBusy, err)
		case errors.Is(err, ErrReadOnly):
			readOnly++
		}
		if first == nil {
			// What is said of one change is not said of the transaction: its kind does not go on.
			first = fmt.Errorf("%w by %s: %v", ErrAborted, changes[i].DN, err)
		}
	}
	if readOnly > 0 && readOnly == len(errs) {
		return errs[0]
	}
	return first
}

// control is a critical control whose value is there also when it is empty: OpenLDAP's identifier of a transaction (RFC
// 5805 section 2.2) is, and go-ldap's own control would leave it out.
type control struct {
	oid   string
	value []byte
}

func (c control) GetControlType() string { return c.oid }
func (c control) String() string         { return c.oid }

func (c control) Encode() *ber.Packet {
	p := ber.NewSequence("Control")
	p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, c.oid, "Control Type"))
	p.AppendChild(ber.NewBoolean(ber.ClassUniversal, ber.TypePrimitive, ber.TagBoolean, true, "Criticality"))
	p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, string(c.value), "Control Value"))
	return p
}

func endTransaction(id string, commit bool) *ldap.ExtendedRequest {
	value := ber.NewSequence("txnEndReq")
	if !commit { // DEFAULT TRUE
		value.AppendChild(ber.NewBoolean(ber.ClassUniversal, ber.TypePrimitive, ber.TagBoolean, false, "commit"))
	}
	value.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, id, "identifier"))
	return ldap.NewExtendedRequest(oidTxnEnd, value)
}
