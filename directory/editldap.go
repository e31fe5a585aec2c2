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

	pipelined   = 32              // requests in flight on one connection
	stallWithin = 2 * time.Minute // for a batch of changes, or for a page of a search
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
	if err != nil {
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
	return e, nil
}

func (c *Capabilities) read(root *ldap.Entry) {
	c.Paging = slices.Contains(root.GetEqualFoldAttributeValues("supportedControl"), oidPaging)
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
	ctx, cancel := context.WithTimeout(ctx, stallWithin)
	defer cancel()
	defer context.AfterFunc(ctx, c.drop)()
	e.pipeline(c, changes, errs, nil)
	return errs
}

// pipeline sends the changes with many in flight, and waits for all answers.
func (e *ldapEditor) pipeline(c *conn, changes []Change, errs []error, controls []ldap.Control) {
	inFlight(len(changes), func(i int) { errs[i] = outcome(c.lc.Modify(e.request(changes[i], controls))) })
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

// request is the compare-and-set: deleting an exact value fails if the entry does not hold it.
func (e *ldapEditor) request(c Change, controls []ldap.Control) *ldap.ModifyRequest {
	m := ldap.NewModifyRequest(c.DN, controls)
	set := func(attribute, from, to string) {
		if from == to {
			return
		}
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
	case ldap.LDAPResultNoSuchAttribute, ldap.LDAPResultAttributeOrValueExists:
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
	ctx, cancel := context.WithTimeout(ctx, stallWithin)
	defer cancel()
	defer context.AfterFunc(ctx, c.drop)()

	started, err := c.lc.Extended(ldap.NewExtendedRequest(oidTransactions, nil))
	if err != nil {
		// Nothing was sent that could be committed: a lost connection is no more than a reason to try again.
		return fmt.Errorf("%w: start a transaction: %w", ErrBusy, err)
	}
	id := ""
	if started.Value != nil {
		id = started.Value.Data.String()
	}
	errs := make([]error, len(changes))
	e.pipeline(c, changes, errs, []ldap.Control{transactionControl(id)})
	for i, err := range errs {
		if err == nil {
			continue
		}
		if errors.Is(err, ErrLost) {
			return fmt.Errorf("%w: in a transaction that was not committed: %w", ErrBusy, err)
		}
		_, _ = c.lc.Extended(endTransaction(id, false)) // a connection that is lost ends the transaction, too
		return fmt.Errorf("%w by %s: %w", ErrAborted, changes[i].DN, err)
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

// transactionControl marks a change as part of a transaction (RFC 5805 section 2.2). OpenLDAP's identifier is empty,
// and has to be there all the same, which go-ldap's own control would leave out.
type transactionControl string

func (t transactionControl) GetControlType() string { return oidTxnControl }
func (t transactionControl) String() string         { return "transaction " + string(t) }

func (t transactionControl) Encode() *ber.Packet {
	p := ber.NewSequence("Control")
	p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, oidTxnControl, "Control Type"))
	p.AppendChild(ber.NewBoolean(ber.ClassUniversal, ber.TypePrimitive, ber.TagBoolean, true, "Criticality"))
	p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, string(t), "Control Value"))
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
