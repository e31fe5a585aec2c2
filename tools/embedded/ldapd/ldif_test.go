package ldapd_test

import (
	"reflect"
	"strings"
	"testing"

	"mailmux/tools/embedded/ldapd"
)

func TestLDIFComesBack(t *testing.T) {
	tree := newTree(t)
	var out strings.Builder
	if err := tree.WriteLDIF(&out); err != nil {
		t.Fatal(err)
	}
	again := ldapd.NewTree(ldapd.Rules{})
	if err := again.LoadLDIF(strings.NewReader(out.String())); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(tree.Entries(), again.Entries()) {
		t.Errorf("written and read back:\n%v\nwas\n%v", again.Entries(), tree.Entries())
	}
}

func TestLDIFReading(t *testing.T) {
	tree := ldapd.NewTree(ldapd.Rules{})
	err := tree.LoadLDIF(strings.NewReader("dn:: ZGM9w6Q=\r\nchangetype: add\r\n#comment\r\n  goes on\r\nDC: ä\r\ndescription: one\r\n  two\r\nempty:\r\n\r\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	e, ok := tree.Get("DC=Ä")
	if !ok || e.Value("description") != "one two" || len(e.Values("empty")) != 1 {
		t.Errorf("got %v, %v", e, ok)
	}
	for text, want := range map[string]string{
		" x":                             "line 1: a continuation of nothing",
		"dn: dc=a\n\nmail: x":            "line 3: mail: outside of an entry",
		"dn: dc=a\nnonsense":             "line 2: not an attribute",
		"dn: dc=a\na:: *":                "line 2: decode value of a",
		"dn: dc=a\na:< file:///etc/x":    "line 2: value of a by URL",
		"dn: dc=a\nchangetype: delete":   "line 2: only entries",
		"dn: nonsense\na: b\n":           "ends on line 2: store entry: invalid DN syntax",
		"dn:\na: b\n":                    "it is empty",
		"dn: dc=a\\\na: b\n":             "invalid DN syntax",
		"dn: dc=a,dc=b,\na: b":           "invalid DN syntax",
		"dn: uid=a\nb: c\n\ndn: =\nb: c": "ends on line 5",
	} {
		err := ldapd.NewTree(ldapd.Rules{}).LoadLDIF(strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestDNsOfOneEntry(t *testing.T) {
	tree := ldapd.NewTree(ldapd.Rules{})
	if err := tree.Put(ldapd.Entry{DN: "cn=A\\, B+uid=x,o=Ex  ample"}); err != nil {
		t.Fatal(err)
	}
	for dn, want := range map[string]bool{
		"cn=a\\2c b+uid=X,O=ex ample":         true,
		"uid=x+cn=a\\,\\20b, o=ex ample ":     true,
		" UID = x + CN = A\\, B ; O=Ex ample": true,
		"cn=a, b+uid=x,o=ex ample":            false,
		"cn=a\\, b,o=ex ample":                false,
		"o=ex ample":                          false,
	} {
		if _, ok := tree.Get(dn); ok != want {
			t.Errorf("Get(%q) = %v, want %v", dn, ok, want)
		}
	}
}
