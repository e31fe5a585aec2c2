package ldapd

import (
	"bufio"
	"crypto/tls"
	"net"
	"sync"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
)

const (
	// writeTimeout ends connections of clients that do not read.
	writeTimeout = 30 * time.Second
	// maxDelayed bounds the requests of one connection that a hook holds back at the same time; further ones wait unread.
	maxDelayed = 256
)

// conn is one client. Requests are served one after the other; only those that a hook delays are overtaken.
type conn struct {
	server *Server
	number int64
	reader *bufio.Reader // used by serve only

	gone    chan struct{} // closed with the connection
	slots   chan struct{} // held by delayed requests
	delayed sync.WaitGroup

	netMu sync.Mutex
	nc    net.Conn // replaced by StartTLS
	dead  bool

	mu           sync.Mutex // held while a request is served: guards everything below
	writer       *bufio.Writer
	identity     string // key of the DN bound, "" when anonymous
	txn          transaction
	txnCount     int
	pages        pages
	pageCount    int
	sendControls *ber.Packet // goes with the next result, then is forgotten
}

// newConn wraps a socket.
func newConn(s *Server, nc net.Conn, number int64) *conn {
	return &conn{
		server: s,
		number: number,
		reader: bufio.NewReader(nc),
		writer: bufio.NewWriter(nc),
		gone:   make(chan struct{}),
		slots:  make(chan struct{}, maxDelayed),
		nc:     nc,
	}
}

// close ends the connection from any goroutine, once.
func (c *conn) close() {
	c.netMu.Lock()
	defer c.netMu.Unlock()
	if c.dead {
		return
	}
	c.dead = true
	close(c.gone)
	if secured, ok := c.nc.(*tls.Conn); ok {
		secured.NetConn().Close() // closing TLS itself may wait 5 s for a peer that does not read
		return
	}
	c.nc.Close()
}

// serve reads requests until the client or the server ends the connection.
func (c *conn) serve() {
	defer c.delayed.Wait()
	defer c.close()
	fault := c.server.connectFault(c.number)
	if fault.Delay > 0 && !c.wait(fault.Delay) || fault.Drop {
		return
	}
	for {
		frame, err := readFrame(c.reader, c.server.config.MaxMessage)
		if err == errTooLong {
			c.notice(err)
		}
		if err != nil {
			return
		}
		m, err := parseMessage(frame)
		if err != nil {
			c.notice(err)
			return
		}
		if !c.dispatch(m) {
			return
		}
	}
}

// connectFault asks the hook about a new connection, which start has counted already.
func (s *Server) connectFault(number int64) Fault {
	s.mu.Lock()
	hook := s.hook
	s.mu.Unlock()
	if hook == nil {
		return Fault{}
	}
	return hook(Request{Op: OpConnect, Conn: number})
}

// dispatch serves a request now, or later if the hook says so. False ends the connection.
func (c *conn) dispatch(m *message) bool {
	switch m.op.Tag {
	case tagUnbindRequest:
		return false
	case tagAbandonRequest:
		return true // every request is done before an abandon is read, or is not to be hurried
	}
	fault := c.server.decide(c.describe(m))
	if fault.Delay <= 0 {
		return c.perform(m, fault)
	}
	select {
	case c.slots <- struct{}{}:
	case <-c.gone:
		return false
	}
	c.delayed.Add(1)
	go c.performLater(m, fault)
	return true
}

// performLater serves a request after its delay, unless the connection ends first.
func (c *conn) performLater(m *message, fault Fault) {
	defer c.delayed.Done()
	defer func() { <-c.slots }()
	if !c.wait(fault.Delay) {
		return
	}
	if m.op.Tag == tagExtRequest && extendedOp(m.op) == OpStartTLS {
		c.close() // the reader is reading in the clear already; a delayed StartTLS can only play a lost one
		return
	}
	if !c.perform(m, fault) {
		c.close()
	}
}

// wait reports whether the connection still lives after a time.
func (c *conn) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.gone:
		return false
	}
}

// perform serves one request with its fault. False ends the connection.
func (c *conn) perform(m *message, fault Fault) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if fault.Drop {
		return false
	}
	response, known := responseTag(m.op.Tag)
	if !known {
		c.sendNotice(refuse(ProtocolError, "unknown operation %d", m.op.Tag))
		return false
	}
	if fault.Code != Success {
		return c.reply(m, result(response, refuse(fault.Code, "%s", fault.Text)))
	}
	if m.op.Tag == tagExtRequest {
		return c.extended(m, fault)
	}
	p := result(response, c.operate(m))
	if fault.Lose {
		return false
	}
	return c.reply(m, p)
}

// operate does the work of a request that answers with a plain result.
func (c *conn) operate(m *message) *resultError {
	if err := c.server.checkControls(m); err != nil {
		return err
	}
	switch m.op.Tag {
	case tagBindRequest:
		return c.bind(m)
	case tagSearchRequest:
		return c.search(m)
	case tagAddRequest, tagDelRequest, tagModifyRequest:
		return c.update(m)
	case tagCompareRequest:
		return c.compare(m)
	}
	return refuse(UnwillingToPerform, "entries cannot be renamed here")
}

// checkControls refuses what the client needs and the server does not do (RFC 4511 section 4.1.11).
func (s *Server) checkControls(m *message) *resultError {
	for i := range m.controls {
		c := &m.controls[i]
		known := c.oid == oidAssertion ||
			c.oid == oidPaged && !s.config.NoPaging ||
			c.oid == oidTxnControl && !s.config.NoTransactions
		if known {
			continue
		}
		if c.critical {
			return refuse(UnavailableCriticalExtension, "control %s is not offered here", c.oid)
		}
		c.oid = "" // not critical and not known: as if it were not there
	}
	return nil
}

// compare answers a compare request.
func (c *conn) compare(m *message) *resultError {
	if c.server.config.RequireBind && c.identity == "" {
		return refuse(InsufficientAccessRights, "bind before you compare")
	}
	dn, err := parseDN(text(child(m.op, 0)))
	if err != nil {
		return refuse(InvalidDNSyntax, "%v", err)
	}
	n := c.server.tree.get(dn.key)
	if n == nil {
		return &resultError{code: NoSuchObject, matched: c.server.tree.nearest(dn), text: "no such object"}
	}
	assertion := child(m.op, 1)
	name := text(child(assertion, 0))
	if len(n.Values(name)) == 0 {
		return refuse(NoSuchAttribute, "there is no %s", name)
	}
	if n.has(name, text(child(assertion, 1))) {
		return &resultError{code: CompareTrue}
	}
	return &resultError{code: CompareFalse}
}

// extended answers extended operations. False ends the connection.
func (c *conn) extended(m *message, fault Fault) bool {
	name, request := parseExtended(m.op)
	var value *ber.Packet
	err := c.server.checkControls(m)
	switch {
	case err != nil:
	case name == oidStartTLS:
		return c.startTLS(m)
	case name == oidWhoAmI:
		who := ""
		if c.identity != "" {
			who = "dn:" + c.identity
		}
		value = octets(who)
	case name == oidTxnStart:
		value, err = c.startTransaction()
	case name == oidTxnEnd:
		value, err = c.endTransaction(request)
	default:
		err = refuse(ProtocolError, "extended operation %q is not offered here", name)
	}
	if fault.Lose {
		return false
	}
	p := result(tagExtResponse, err)
	if value != nil {
		p.AppendChild(responseValue(name, value))
	}
	return c.reply(m, p)
}

// responseValue wraps the value of an extended response. RFC 5805 has the end of a transaction carry encoded BER, RFC 4532
// and the start of one a plain string.
func responseValue(name string, value *ber.Packet) *ber.Packet {
	content := text(value)
	if name == oidTxnEnd {
		content = string(value.Bytes())
	}
	return ber.NewString(ber.ClassContext, ber.TypePrimitive, tagResponseValue, content, "")
}

// parseExtended reads the name and the value of an extended request.
func parseExtended(p *ber.Packet) (name, value string) {
	for _, part := range p.Children {
		switch part.Tag {
		case tagExtName:
			name = text(part)
		case tagExtValue:
			value = text(part)
		}
	}
	return name, value
}

// startTLS answers and then shakes hands. Bytes that came behind the request in the clear end the connection: they could
// be somebody else's.
func (c *conn) startTLS(m *message) bool {
	_, already := c.nc.(*tls.Conn)
	switch {
	case c.server.config.TLS == nil:
		return c.reply(m, result(tagExtResponse, refuse(ProtocolError, "StartTLS is not offered here")))
	case already:
		return c.reply(m, result(tagExtResponse, refuse(OperationsError, "TLS is there already")))
	case c.reader.Buffered() > 0:
		c.sendNotice(refuse(ProtocolError, "bytes behind StartTLS"))
		return false
	}
	p := result(tagExtResponse, nil)
	p.AppendChild(ber.NewString(ber.ClassContext, ber.TypePrimitive, tagResponseName, oidStartTLS, ""))
	if !c.reply(m, p) {
		return false
	}
	secured := tls.Server(c.nc, c.server.config.TLS)
	c.nc.SetDeadline(time.Now().Add(writeTimeout))
	if err := secured.Handshake(); err != nil {
		return false
	}
	c.nc.SetDeadline(time.Time{})
	c.netMu.Lock()
	c.nc = secured
	c.netMu.Unlock()
	c.reader.Reset(secured)
	c.writer.Reset(secured)
	c.identity = "" // nothing learnt in the clear counts
	return true
}

// responseTag is the tag under which the result of an operation goes.
func responseTag(request ber.Tag) (ber.Tag, bool) {
	switch request {
	case tagBindRequest, tagModifyRequest, tagAddRequest, tagDelRequest, tagModDNRequest, tagCompareRequest, tagExtRequest:
		return request + 1, true
	case tagSearchRequest:
		return tagSearchDone, true
	}
	return 0, false
}

// send puts one message into the buffer. An error shows at the flush.
func (c *conn) send(id int64, p *ber.Packet) {
	m := sequence(number(id), p)
	if c.sendControls != nil && p.Tag != tagSearchEntry {
		list := ber.Encode(ber.ClassContext, ber.TypeConstructed, tagControls, nil, "")
		list.AppendChild(c.sendControls)
		m.AppendChild(list)
		c.sendControls = nil
	}
	c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
	c.writer.Write(m.Bytes())
}

// reply sends the result of a request. False ends the connection.
func (c *conn) reply(m *message, p *ber.Packet) bool {
	c.send(m.id, p)
	return c.writer.Flush() == nil
}

// notice tells the client why the connection ends (RFC 4511 section 4.4.1).
func (c *conn) notice(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sendNotice(refuse(ProtocolError, "%v", err))
}

// sendNotice is notice for callers that hold the connection's lock.
func (c *conn) sendNotice(err *resultError) {
	p := result(tagExtResponse, err)
	p.AppendChild(ber.NewString(ber.ClassContext, ber.TypePrimitive, tagResponseName, oidNotice, ""))
	c.send(0, p)
	c.writer.Flush()
}
