package ldapd_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"mailmux/tools/embedded/ldapd"
)

const annDN = "uid=ann,ou=people,dc=example,dc=com"

// modify sends one modify that f fills in.
func modify(c *ldap.Conn, dn string, f func(*ldap.ModifyRequest), controls ...ldap.Control) error {
	req := ldap.NewModifyRequest(dn, controls)
	f(req)
	return c.Modify(req)
}

// value reads one attribute straight from the tree.
func value(t *testing.T, tree *ldapd.Tree, dn, name string) string {
	t.Helper()
	e, ok := tree.Get(dn)
	if !ok {
		t.Fatalf("%s is gone", dn)
	}
	return e.Value(name)
}

func TestModify(t *testing.T) {
	tree := newTree(t)
	_, addr := serve(t, tree, config())
	c := dial(t, addr)
	for _, test := range []struct {
		name string
		code uint16
		dn   string
		do   func(*ldap.ModifyRequest)
	}{
		{"compare and set", 0, annDN, func(m *ldap.ModifyRequest) {
			m.Delete("hostServer", []string{"east.example.com"})
			m.Add("hostServer", []string{"west.example.com"})
			m.Replace("oldHostServer", []string{"east.example.com"})
		}},
		{"the same again", ldap.LDAPResultNoSuchAttribute, annDN, func(m *ldap.ModifyRequest) {
			m.Delete("hostServer", []string{"east.example.com"})
			m.Add("hostServer", []string{"west.example.com"})
		}},
		{"a value that is there", ldap.LDAPResultAttributeOrValueExists, annDN, func(m *ldap.ModifyRequest) {
			m.Add("hostServer", []string{"WEST.example.com"})
		}},
		{"two values of a single-valued attribute", ldap.LDAPResultConstraintViolation, annDN, func(m *ldap.ModifyRequest) {
			m.Add("hostServer", []string{"north.example.com"})
		}},
		{"add first, then delete", 0, annDN, func(m *ldap.ModifyRequest) {
			m.Add("hostServer", []string{"north.example.com"})
			m.Delete("hostServer", []string{"west.example.com"})
		}},
		{"delete all of an absent attribute", ldap.LDAPResultNoSuchAttribute, annDN, func(m *ldap.ModifyRequest) {
			m.Delete("nothing", nil)
		}},
		{"replace with nothing", 0, annDN, func(m *ldap.ModifyRequest) { m.Replace("nothing", nil) }},
		{"increment", 0, annDN, func(m *ldap.ModifyRequest) { m.Increment("quota", "-3") }},
		{"increment of text", ldap.LDAPResultConstraintViolation, annDN, func(m *ldap.ModifyRequest) { m.Increment("mail", "1") }},
		{"increment of nothing", ldap.LDAPResultNoSuchAttribute, annDN, func(m *ldap.ModifyRequest) { m.Increment("nothing", "1") }},
		{"the entry's name", ldap.LDAPResultNotAllowedOnRDN, annDN, func(m *ldap.ModifyRequest) { m.Replace("uid", []string{"x"}) }},
		{"no object class", ldap.LDAPResultObjectClassViolation, annDN, func(m *ldap.ModifyRequest) { m.Delete("objectClass", nil) }},
		{"nobody", ldap.LDAPResultNoSuchObject, "uid=x,ou=people,dc=example,dc=com", func(m *ldap.ModifyRequest) { m.Replace("a", []string{"b"}) }},
	} {
		if err := modify(c, test.dn, test.do); test.code == 0 && err != nil || test.code != 0 && !ldap.IsErrorWithCode(err, test.code) {
			t.Errorf("%s: got %v, want code %d", test.name, err, test.code)
		}
	}
	if host, quota := value(t, tree, annDN, "hostServer"), value(t, tree, annDN, "quota"); host != "north.example.com" || quota != "7" {
		t.Errorf("in the end hostServer = %q, quota = %q", host, quota)
	}
	res, err := c.Search(ldap.NewSearchRequest("dc=example,dc=com", 2, 0, 0, 0, false, "(hostServer=east.example.com)", nil, nil))
	if err != nil || len(res.Entries) != 1 {
		t.Errorf("the index still finds ann under her old host: %v, %v", res, err)
	}
}

func TestAddDeleteCompare(t *testing.T) {
	tree := newTree(t)
	_, addr := serve(t, tree, config())
	c := dial(t, addr)
	add := func(dn string, attrs ...string) error {
		req := ldap.NewAddRequest(dn, nil)
		for i := 0; i+1 < len(attrs); i += 2 {
			req.Attribute(attrs[i], []string{attrs[i+1]})
		}
		return c.Add(req)
	}
	const eve = "uid=eve,ou=people,dc=example,dc=com"
	want(t, add(eve, "objectClass", "mailAccount", "uid", "eve", "mail", "eve@example.com"), 0)
	want(t, add(eve, "objectClass", "mailAccount", "uid", "eve"), ldap.LDAPResultEntryAlreadyExists)
	want(t, add("uid=a,ou=none,dc=example,dc=com", "objectClass", "x", "uid", "a"), ldap.LDAPResultNoSuchObject)
	want(t, add("uid=a,dc=example,dc=com", "objectClass", "x"), ldap.LDAPResultNamingViolation)
	want(t, add("uid=a,dc=example,dc=com", "uid", "a"), ldap.LDAPResultObjectClassViolation)
	want(t, c.Del(ldap.NewDelRequest("ou=people,dc=example,dc=com", nil)), ldap.LDAPResultNotAllowedOnNonLeaf)
	if ok, err := c.Compare(eve, "mail", "EVE@example.com"); !ok || err != nil {
		t.Errorf("compare: %v, %v", ok, err)
	}
	if ok, err := c.Compare(eve, "mail", "x"); ok || err != nil {
		t.Errorf("compare with another value: %v, %v", ok, err)
	}
	want(t, c.Del(ldap.NewDelRequest(eve, nil)), 0)
	want(t, c.Del(ldap.NewDelRequest(eve, nil)), ldap.LDAPResultNoSuchObject)
	want(t, c.ModifyDN(ldap.NewModifyDNRequest(annDN, "uid=a", true, "")), ldap.LDAPResultUnwillingToPerform)
	if tree.Len() != 5 {
		t.Errorf("%d entries, want 5", tree.Len())
	}
}

func TestAssertionControl(t *testing.T) {
	tree := newTree(t)
	_, addr := serve(t, tree, config())
	c := dial(t, addr)
	assert := func(filter string) ldap.Control {
		p, err := ldap.CompileFilter(filter)
		if err != nil {
			t.Fatal(err)
		}
		return rawControl{"1.3.6.1.1.12", string(p.Bytes())}
	}
	set := func(m *ldap.ModifyRequest) { m.Replace("hostServer", []string{"west.example.com"}) }
	want(t, modify(c, annDN, set, assert("(hostServer=north.example.com)")), ldap.LDAPResultAssertionFailed)
	want(t, modify(c, annDN, set, assert("(hostServer=east.example.com)")), 0)
	want(t, modify(c, annDN, set, rawControl{"1.2.3.4", ""}), ldap.LDAPResultUnavailableCriticalExtension)
}

// rawControl is a critical control whose value is present even when it is empty.
type rawControl struct{ oid, value string }

func (c rawControl) GetControlType() string { return c.oid }
func (c rawControl) String() string         { return c.oid }
func (c rawControl) Encode() *ber.Packet {
	p := ber.NewSequence("")
	p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, c.oid, ""))
	p.AppendChild(ber.NewBoolean(ber.ClassUniversal, ber.TypePrimitive, ber.TagBoolean, true, ""))
	p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, c.value, ""))
	return p
}

// begin starts a transaction and returns the control that enlists updates in it.
func begin(t *testing.T, c *ldap.Conn) rawControl {
	t.Helper()
	res, err := c.Extended(&ldap.ExtendedRequest{Name: "1.3.6.1.1.21.1"})
	if err != nil {
		t.Fatal(err)
	}
	return rawControl{"1.3.6.1.1.21.2", res.Value.Data.String()}
}

// end settles or drops a transaction.
func end(c *ldap.Conn, txn rawControl, commit bool) error {
	p := ber.NewSequence("")
	if !commit {
		p.AppendChild(ber.NewBoolean(ber.ClassUniversal, ber.TypePrimitive, ber.TagBoolean, false, ""))
	}
	p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, txn.value, ""))
	value := ber.NewString(ber.ClassContext, ber.TypePrimitive, 1, string(p.Bytes()), "")
	_, err := c.Extended(&ldap.ExtendedRequest{Name: "1.3.6.1.1.21.3", Value: value})
	return err
}

func TestTransactions(t *testing.T) {
	for _, emptyID := range []bool{false, true} {
		t.Run(fmt.Sprintf("emptyID=%v", emptyID), func(t *testing.T) {
			tree := newTree(t)
			cfg := config()
			cfg.EmptyTransactionID = emptyID
			_, addr := serve(t, tree, cfg)
			c := dial(t, addr)
			west := func(m *ldap.ModifyRequest) {
				m.Delete("hostServer", []string{"east.example.com"})
				m.Add("hostServer", []string{"west.example.com"})
			}
			const jane = "cn=Smith\\, Jane,ou=people,dc=example,dc=com"
			const bob = "uid=bob,ou=people,dc=example,dc=com"

			txn := begin(t, c)
			want(t, modify(c, annDN, west, txn), 0)
			want(t, c.Del(ldap.NewDelRequest(jane, []ldap.Control{txn})), 0)
			want(t, modify(c, bob, west, txn), 0) // answered with success, refused at the end
			want(t, end(c, txn, true), ldap.LDAPResultNoSuchAttribute)
			if got := value(t, tree, annDN, "hostServer"); got != "East.example.com" {
				t.Errorf("an aborted transaction left hostServer = %q", got)
			}
			if got := value(t, tree, jane, "hostServer"); got != "east.example.com" {
				t.Errorf("an aborted transaction left %q of a deleted entry", got)
			}
			txn = begin(t, c)
			want(t, modify(c, annDN, west, txn), 0)
			want(t, end(c, txn, false), 0)
			if got := value(t, tree, annDN, "hostServer"); got != "East.example.com" {
				t.Errorf("a dropped transaction left hostServer = %q", got)
			}
			txn = begin(t, c)
			want(t, modify(c, annDN, west, txn), 0)
			want(t, modify(c, jane, west, txn), 0)
			if got := value(t, tree, annDN, "hostServer"); got != "East.example.com" {
				t.Errorf("before the end of the transaction hostServer = %q", got)
			}
			want(t, end(c, txn, true), 0)
			res, err := c.Search(ldap.NewSearchRequest("dc=example,dc=com", 2, 0, 0, 0, false, "(hostServer=west.example.com)", nil, nil))
			if err != nil || len(res.Entries) != 3 {
				t.Errorf("after the end: %v, %v; want 3 on west", res, err)
			}
			want(t, modify(c, annDN, west, txn), ldap.LDAPResultUnwillingToPerform)
			want(t, end(c, txn, true), ldap.LDAPResultUnwillingToPerform)
		})
	}
}

func TestTransactionNamesTheCulprit(t *testing.T) {
	_, addr := serve(t, newTree(t), config())
	c := dial(t, addr) // message 1: bind
	txn := begin(t, c) // message 2
	want(t, modify(c, annDN, func(m *ldap.ModifyRequest) { m.Replace("a", []string{"b"}) }, txn), 0)
	want(t, modify(c, annDN, func(m *ldap.ModifyRequest) { m.Delete("nothing", nil) }, txn), 0) // message 4
	err := end(c, txn, true)
	lerr, ok := err.(*ldap.Error)
	if !ok || lerr.Packet == nil {
		t.Fatalf("got %v, want an error with its packet", err)
	}
	parts := lerr.Packet.Children[1].Children
	value, decodeErr := ber.DecodePacketErr(parts[len(parts)-1].Data.Bytes())
	if decodeErr != nil || value.Children[0].Value != int64(4) {
		t.Errorf("culprit %v, %v; want message 4", value, decodeErr)
	}
}

func TestConcurrentCompareAndSetHasOneWinner(t *testing.T) {
	tree := newTree(t)
	_, addr := serve(t, tree, config())
	var won atomic.Int64
	var all sync.WaitGroup
	for i := range 8 {
		c := dial(t, addr)
		all.Go(func() {
			err := modify(c, annDN, func(m *ldap.ModifyRequest) {
				m.Delete("hostServer", []string{"east.example.com"})
				m.Add("hostServer", []string{fmt.Sprintf("host%d.example.com", i)})
			})
			if err == nil {
				won.Add(1)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 8 writers won", won.Load())
	}
	e, _ := tree.Get(annDN)
	if hosts := e.Values("hostServer"); len(hosts) != 1 || slices.Contains(hosts, "East.example.com") {
		t.Errorf("hostServer = %v", hosts)
	}
}
