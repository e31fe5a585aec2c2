package ldapd

import (
	"strconv"

	ber "github.com/go-asn1-ber/asn1-ber"
)

// maxTransaction bounds how many updates wait for the end of one transaction.
const maxTransaction = 50_000

// transaction is one RFC 5805 transaction under way on a connection: updates that were answered with success but are
// done at its end, all or none.
type transaction struct {
	open    bool
	id      string
	updates []update
}

// startTransaction answers the start of a transaction with its identifier.
func (c *conn) startTransaction() (value *ber.Packet, err *resultError) {
	if c.server.config.NoTransactions {
		return nil, refuse(ProtocolError, "transactions are not offered here")
	}
	if c.txn.open {
		return nil, refuse(Busy, "one transaction at a time; end the other one first")
	}
	c.txn = transaction{open: true}
	if !c.server.config.EmptyTransactionID {
		c.txnCount++
		c.txn.id = "txn-" + strconv.Itoa(c.txnCount)
	}
	return octets(c.txn.id), nil
}

// update answers an add, delete or modify: done now, or remembered for the end of the transaction it names.
func (c *conn) update(m *message) *resultError {
	if c.identity == "" && !c.server.config.AnonymousWrites {
		return refuse(InsufficientAccessRights, "bind before you change the directory")
	}
	u, err := parseUpdate(m)
	if err != nil {
		return err
	}
	if control, ok := m.control(oidTxnControl); ok {
		return c.enlist(u, control.value)
	}
	t := c.server.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	_, err = t.applyLocked(&u)
	return err
}

// enlist remembers an update for the end of the transaction.
func (c *conn) enlist(u update, id string) *resultError {
	if !c.txn.open || id != c.txn.id {
		return refuse(UnwillingToPerform, "no such transaction on this connection")
	}
	if len(c.txn.updates) >= maxTransaction {
		return refuse(AdminLimitExceeded, "a transaction has at most %d updates", maxTransaction)
	}
	c.txn.updates = append(c.txn.updates, u)
	return nil
}

// endTransaction settles or drops the updates. A response value names the update that failed (RFC 5805 section 2.3).
func (c *conn) endTransaction(request string) (value *ber.Packet, err *resultError) {
	commit, id, ok := parseTxnEnd(request)
	if !ok {
		return nil, refuse(ProtocolError, "end of transaction cannot be parsed")
	}
	if !c.txn.open || id != c.txn.id {
		return nil, refuse(UnwillingToPerform, "no such transaction on this connection")
	}
	updates := c.txn.updates
	c.txn = transaction{}
	if !commit {
		return nil, nil
	}
	culprit, err := c.server.tree.applyAll(updates)
	if err != nil {
		return sequence(number(culprit)), err
	}
	return nil, nil
}

// parseTxnEnd reads txnEndReq: commit BOOLEAN DEFAULT TRUE, identifier OCTET STRING.
func parseTxnEnd(request string) (commit bool, id string, ok bool) {
	p, err := ber.DecodePacketErr([]byte(request))
	if err != nil || len(p.Children) == 0 || len(p.Children) > 2 {
		return false, "", false
	}
	commit = true
	if len(p.Children) == 2 {
		commit = boolean(child(p, 0))
	}
	last := p.Children[len(p.Children)-1]
	return commit, text(last), last.Tag == ber.TagOctetString
}

// applyAll does all updates or none, while nobody else sees the tree. The culprit is the message ID of the update that
// was refused.
func (t *Tree) applyAll(updates []update) (culprit int64, err *resultError) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var undos []func()
	for i := range updates {
		undo, err := t.applyLocked(&updates[i])
		if err != nil {
			for k := len(undos) - 1; k >= 0; k-- {
				undos[k]()
			}
			return updates[i].message, err
		}
		undos = append(undos, undo)
	}
	return 0, nil
}
