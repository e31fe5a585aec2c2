package ldapd

import (
	"slices"
	"strconv"
	"strings"

	ber "github.com/go-asn1-ber/asn1-ber"
)

// The scopes of a search (RFC 4511 section 4.5.1.2).
const (
	scopeBase = 0
	scopeOne  = 1
	scopeSub  = 2
)

// searchRequest is a search, taken apart.
type searchRequest struct {
	base      parsedDN
	baseDN    string
	scope     int64
	sizeLimit int
	typesOnly bool
	filter    *filter
	attrs     []string
}

// parseSearch reads SearchRequest.
func parseSearch(p *ber.Packet) (searchRequest, *resultError) {
	var r searchRequest
	if len(p.Children) != 8 {
		return r, refuse(ProtocolError, "search has %d parts instead of 8", len(p.Children))
	}
	r.baseDN = text(child(p, 0))
	base, err := parseDN(r.baseDN)
	if err != nil {
		return r, refuse(InvalidDNSyntax, "%v", err)
	}
	r.base = base
	scope, okScope := integer(child(p, 1))
	limit, okLimit := integer(child(p, 3))
	if !okScope || !okLimit || scope < scopeBase || scope > scopeSub || limit < 0 || limit > 1<<31-1 {
		return r, refuse(ProtocolError, "scope or size limit is out of range")
	}
	r.scope, r.sizeLimit = scope, int(limit)
	r.typesOnly = boolean(child(p, 5))
	f, refusal := parseFilter(child(p, 6), 0)
	if refusal != nil {
		return r, refusal
	}
	r.filter = f
	for _, a := range child(p, 7).Children {
		r.attrs = append(r.attrs, text(a))
	}
	return r, nil
}

// search answers a search request: entries, then the result.
func (c *conn) search(m *message) *resultError {
	r, err := parseSearch(m.op)
	if err != nil {
		return err
	}
	if r.base.key == "" && r.scope == scopeBase {
		if e := c.rootDSE(); r.filter.match(&e) {
			c.sendEntry(m, &e, rootSelection(&e, r.attrs), r.typesOnly)
		}
		return nil
	}
	if c.server.config.RequireBind && c.identity == "" {
		return refuse(InsufficientAccessRights, "bind before you search")
	}
	if page, ok := m.control(oidPaged); ok {
		return c.searchPage(m, r, page)
	}
	found, err := c.server.tree.find(r)
	if err != nil {
		return err
	}
	limit := c.server.sizeLimit(r.sizeLimit)
	for i, n := range found {
		if i == limit {
			return refuse(SizeLimitExceeded, "more than %d entries match", limit)
		}
		c.sendEntry(m, &n.Entry, selection(&n.Entry, r.attrs), r.typesOnly)
	}
	return nil
}

// sizeLimit is the smaller of the server's and the client's limit; -1 when there is none.
func (s *Server) sizeLimit(requested int) int {
	switch {
	case s.config.SizeLimit == 0 && requested == 0:
		return -1
	case s.config.SizeLimit == 0:
		return requested
	case requested == 0:
		return s.config.SizeLimit
	}
	return min(s.config.SizeLimit, requested)
}

// find lists the entries in scope for which the filter is true, in the order in which they came.
func (t *Tree) find(r searchRequest) ([]*node, *resultError) {
	t.mu.RLock()
	if r.base.key != "" && t.entries[r.base.key] == nil {
		matched := t.nearestLocked(r.base)
		t.mu.RUnlock()
		return nil, &resultError{code: NoSuchObject, matched: matched, text: "no such object"}
	}
	var nodes []*node
	if r.scope == scopeBase {
		nodes = append(nodes, t.entries[r.base.key])
	} else if candidates, ok := r.filter.candidatesLocked(t); ok {
		for n := range candidates {
			nodes = append(nodes, n)
		}
	} else {
		for _, n := range t.entries {
			nodes = append(nodes, n)
		}
	}
	t.mu.RUnlock()
	nodes = slices.DeleteFunc(nodes, func(n *node) bool { return !r.inScope(n) || !r.filter.match(&n.Entry) })
	sortNodes(nodes)
	return nodes, nil
}

// inScope reports whether a node is in the searched part of the tree.
func (r *searchRequest) inScope(n *node) bool {
	switch r.scope {
	case scopeBase:
		return n.key == r.base.key
	case scopeOne:
		return n.parent == r.base.key && n.key != ""
	}
	return r.base.key == "" || n.key == r.base.key || strings.HasSuffix(n.key, ","+r.base.key)
}

// selection lists the attributes of an entry that were asked for; passwords never are.
func selection(e *Entry, wanted []string) []Attribute {
	all := len(wanted) == 0 || slices.Contains(wanted, allAttributes)
	var out []Attribute
	for _, a := range e.Attributes {
		if strings.EqualFold(a.Name, attrUserPassword) {
			continue
		}
		if all || slices.ContainsFunc(wanted, func(w string) bool { return strings.EqualFold(w, a.Name) }) {
			out = append(out, a)
		}
	}
	return out
}

// rootSelection treats everything in the root DSE but the object class as operational, as directory servers do: a client
// that asks for nothing in particular does not get the supported extensions.
func rootSelection(e *Entry, wanted []string) []Attribute {
	if slices.Contains(wanted, allOperational) {
		return e.Attributes
	}
	if len(wanted) == 0 || slices.Contains(wanted, allAttributes) {
		wanted = append(slices.Clone(wanted), attrObjectClass)
	}
	wanted = slices.DeleteFunc(slices.Clone(wanted), func(w string) bool { return w == allAttributes || w == noAttributes })
	if len(wanted) == 0 {
		return nil
	}
	return selection(e, wanted)
}

// rootDSE describes the server (RFC 4512 section 5.1).
func (c *conn) rootDSE() Entry {
	var e Entry
	e.add("objectClass", "top", "OpenLDAProotDSE")
	e.add("namingContexts", c.server.tree.bases()...)
	e.add("supportedLDAPVersion", supportedVersion)
	e.add("vendorName", vendorDescription)
	e.add("supportedFeatures", oidIncrement)
	extensions := []string{oidWhoAmI}
	if c.server.config.TLS != nil {
		extensions = append(extensions, oidStartTLS)
	}
	controls := []string{oidAssertion}
	if !c.server.config.NoPaging {
		controls = append(controls, oidPaged)
	}
	if !c.server.config.NoTransactions {
		extensions = append(extensions, oidTxnStart, oidTxnEnd)
		controls = append(controls, oidTxnControl)
	}
	e.add("supportedExtension", extensions...)
	e.add("supportedControl", controls...)
	return e
}

// sendEntry writes SearchResultEntry into the connection's buffer.
func (c *conn) sendEntry(m *message, e *Entry, attrs []Attribute, typesOnly bool) {
	p := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tagSearchEntry, nil, "")
	p.AppendChild(octets(e.DN))
	list := sequence()
	for _, a := range attrs {
		values := a.Values
		if typesOnly {
			values = nil
		}
		list.AppendChild(sequence(octets(a.Name), set(values)))
	}
	p.AppendChild(list)
	c.send(m.id, p)
}

// pages is a paged search under way: what is left of the entries that matched when it began.
type pages struct {
	cookie string
	rest   []*node
}

// searchPage answers one page of a simple paged result (RFC 2696). A connection has one such search at a time; a new one
// takes the place of the old one.
func (c *conn) searchPage(m *message, r searchRequest, page control) *resultError {
	size, cookie, ok := parsePage(page.value)
	if !ok {
		return refuse(ProtocolError, "paged results control cannot be parsed")
	}
	if cookie == "" {
		found, err := c.server.tree.find(r)
		if err != nil {
			return err
		}
		c.pageCount++
		c.pages = pages{cookie: strconv.Itoa(c.pageCount), rest: found}
	} else if cookie != c.pages.cookie {
		return refuse(UnwillingToPerform, "paged results cookie is not valid")
	}
	if size == 0 { // RFC 2696 section 3: the client gives the search up
		c.pages = pages{}
	}
	count := min(size, len(c.pages.rest))
	for _, n := range c.pages.rest[:count] {
		c.sendEntry(m, &n.Entry, selection(&n.Entry, r.attrs), r.typesOnly)
	}
	c.pages.rest = c.pages.rest[count:]
	if len(c.pages.rest) == 0 {
		c.pages = pages{}
	}
	value := sequence(number(0), octets(c.pages.cookie))
	c.sendControls = sequence(octets(oidPaged), octets(string(value.Bytes())))
	return nil
}

// parsePage reads the value of the paged results control.
func parsePage(value string) (size int, cookie string, ok bool) {
	p, err := ber.DecodePacketErr([]byte(value))
	if err != nil {
		return 0, "", false
	}
	n, ok := integer(child(p, 0))
	if !ok || n < 0 || n > 1<<31-1 {
		return 0, "", false
	}
	return int(n), text(child(p, 1)), true
}
