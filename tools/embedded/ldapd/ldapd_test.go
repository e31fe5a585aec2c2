package ldapd_test

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"mailmux/tools/embedded/ldapd"
)

const people = `version: 1
# the suffix
dn: dc=example,dc=com
objectClass: organization
o: Example

dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit
ou: people

dn: uid=ann,ou=people,dc=example,dc=com
objectClass: mailAccount
uid: ann
mail: ann@example.com
hostServer: East.example.com
userPassword: sesame
quota: 10

dn: uid=bob,ou=people,dc=example,dc=com
objectClass: mailAccount
uid: bob
mail: bob@exam
 ple.com
hostServer: west.example.com
description:: w6RiYw==
userPassword: {SSHA}SECRET
quota: 200

dn: cn=Smith\, Jane,ou=people,dc=example,dc=com
objectClass: mailAccount
cn: Smith, Jane
mail: jane@example.com
hostServer: east.example.com
`

// ssha makes a salted SHA-1 value of userPassword.
func ssha(password, salt string) string {
	sum := sha1.Sum([]byte(password + salt))
	return "{SSHA}" + base64.StdEncoding.EncodeToString(append(sum[:], salt...))
}

// newTree loads the people.
func newTree(t *testing.T) *ldapd.Tree {
	t.Helper()
	tree := ldapd.NewTree(ldapd.Rules{SingleValue: []string{"hostServer"}})
	ldif := strings.Replace(people, "{SSHA}SECRET", ssha("open", "salt"), 1)
	if err := tree.LoadLDIF(strings.NewReader(ldif)); err != nil {
		t.Fatal(err)
	}
	return tree
}

// serve runs a server on a free port until the test ends, and returns its address.
func serve(t *testing.T, tree *ldapd.Tree, config ldapd.Config) (*ldapd.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := ldapd.New(tree, config)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-done; !errors.Is(err, ldapd.ErrClosed) {
			t.Errorf("Serve returned %v", err)
		}
	})
	return server, l.Addr().String()
}

// dial connects and binds as the root.
func dial(t *testing.T, addr string) *ldap.Conn {
	t.Helper()
	c, err := ldap.DialURL("ldap://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	c.SetTimeout(5 * time.Second)
	t.Cleanup(func() { c.Close() })
	if err := c.Bind("cn=root", "root"); err != nil {
		t.Fatal(err)
	}
	return c
}

func config() ldapd.Config { return ldapd.Config{RootDN: "cn=root", RootPassword: "root"} }

// want fails the test unless err is an LDAP error with this code.
func want(t *testing.T, err error, code uint16) {
	t.Helper()
	if code == 0 {
		if err != nil {
			t.Errorf("got %v, want success", err)
		}
		return
	}
	if !ldap.IsErrorWithCode(err, code) {
		t.Errorf("got %v, want code %d", err, code)
	}
}

func TestBind(t *testing.T) {
	_, addr := serve(t, newTree(t), config())
	c := dial(t, addr)
	const ann, bob = "UID=Ann, ou=People,dc=example,dc=com", "uid=bob,ou=people,dc=example,dc=com"
	want(t, c.Bind(ann, "sesame"), 0)
	who, err := c.WhoAmI(nil)
	if err != nil || who.AuthzID != "dn:uid=ann,ou=people,dc=example,dc=com" {
		t.Errorf("WhoAmI = %v, %v", who, err)
	}
	want(t, c.Bind(ann, "Sesame"), ldap.LDAPResultInvalidCredentials)
	who, err = c.WhoAmI(nil)
	if err != nil || who.AuthzID != "" {
		t.Errorf("after a refused bind WhoAmI = %v, %v; want anonymous", who, err)
	}
	want(t, c.Bind(bob, "open"), 0)
	want(t, c.Bind(bob, "salt"), ldap.LDAPResultInvalidCredentials)
	want(t, c.Bind(bob, ssha("open", "salt")), ldap.LDAPResultInvalidCredentials)
	want(t, c.Bind("uid=nobody,dc=example,dc=com", "x"), ldap.LDAPResultInvalidCredentials)
	want(t, c.Bind("cn=Smith\\, Jane,ou=people,dc=example,dc=com", "x"), ldap.LDAPResultInvalidCredentials)
	want(t, c.Bind("no dn", "x"), ldap.LDAPResultInvalidDNSyntax)
	_, err = c.SimpleBind(&ldap.SimpleBindRequest{Username: bob, Password: "", AllowEmptyPassword: true})
	want(t, err, 0) // the trap of unauthenticated binds
}

func TestSearch(t *testing.T) {
	_, addr := serve(t, newTree(t), config())
	c := dial(t, addr)
	for _, test := range []struct {
		base   string
		scope  int
		filter string
		want   string // cn, ou, o or uid of the entries, in order
	}{
		{"dc=example,dc=com", ldap.ScopeWholeSubtree, "(objectClass=*)", "Example people ann bob Smith, Jane"},
		{"DC=Example, dc=com", ldap.ScopeSingleLevel, "(objectClass=*)", "people"},
		{"ou=people,dc=example,dc=com", ldap.ScopeBaseObject, "(objectClass=*)", "people"},
		{"dc=example,dc=com", ldap.ScopeWholeSubtree, "(hostServer=EAST.example.com)", "ann Smith, Jane"},
		{"dc=example,dc=com", ldap.ScopeWholeSubtree, "(&(objectClass=mailAccount)(|(mail=bob@example.com)(mailAlternateAddress=bob@example.com)))", "bob"},
		{"dc=example,dc=com", ldap.ScopeWholeSubtree, "(!(hostServer=*))", "Example people"},
		{"dc=example,dc=com", ldap.ScopeWholeSubtree, "(&(hostServer=*)(!(hostServer=east.example.com)))", "bob"},
		{"dc=example,dc=com", ldap.ScopeWholeSubtree, "(mail=*@EXAMPLE.*)", "ann bob Smith, Jane"},
		{"dc=example,dc=com", ldap.ScopeWholeSubtree, "(mail=b*example*com)", "bob"},
		{"dc=example,dc=com", ldap.ScopeWholeSubtree, "(quota>=20)", "bob"},
		{"dc=example,dc=com", ldap.ScopeWholeSubtree, "(quota<=20)", "ann"},
		{"dc=example,dc=com", ldap.ScopeWholeSubtree, "(mail~=ANN@example.com)", "ann"},
		{"dc=example,dc=com", ldap.ScopeWholeSubtree, "(mail:caseIgnoreMatch:=ann@example.com)", "ann"},
		{"dc=example,dc=com", ldap.ScopeWholeSubtree, "(mail=\\2a)", ""},
		{"dc=example,dc=com", ldap.ScopeWholeSubtree, "(userPassword=sesame)", ""},
		{"dc=example,dc=com", ldap.ScopeWholeSubtree, "(&)", "Example people ann bob Smith, Jane"},
		{"", ldap.ScopeWholeSubtree, "(uid=ann)", "ann"},
		{"cn=Smith\\2c Jane,ou=people,dc=example,dc=com", ldap.ScopeBaseObject, "(&)", "Smith, Jane"},
	} {
		res, err := c.Search(ldap.NewSearchRequest(test.base, test.scope, 0, 0, 0, false, test.filter, nil, nil))
		if err != nil {
			t.Errorf("%s %s: %v", test.base, test.filter, err)
			continue
		}
		var got []string
		for _, e := range res.Entries {
			for _, name := range []string{"uid", "cn", "ou", "o"} {
				if v := e.GetAttributeValue(name); v != "" {
					got = append(got, v)
					break
				}
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%q scope %d %s: got %q, want %q", test.base, test.scope, test.filter, strings.Join(got, " "), test.want)
		}
	}
}

func TestSearchSelection(t *testing.T) {
	_, addr := serve(t, newTree(t), config())
	c := dial(t, addr)
	ask := func(base string, typesOnly bool, attrs ...string) *ldap.Entry {
		t.Helper()
		res, err := c.Search(ldap.NewSearchRequest(base, ldap.ScopeBaseObject, 0, 0, 0, typesOnly, "(objectClass=*)", attrs, nil))
		if err != nil || len(res.Entries) != 1 {
			t.Fatalf("search %q: %v, %v", base, res, err)
		}
		return res.Entries[0]
	}
	const bob = "uid=bob,ou=people,dc=example,dc=com"
	if e := ask(bob, false); e.GetAttributeValue("description") != "äbc" || e.GetAttributeValue("mail") != "bob@example.com" {
		t.Errorf("all attributes: %v", e)
	}
	if e := ask(bob, false, "*", "userPassword"); e.GetAttributeValue("userPassword") != "" {
		t.Error("a search returned a password")
	}
	if e := ask(bob, false, "HOSTSERVER"); len(e.Attributes) != 1 || e.Attributes[0].Name != "hostServer" {
		t.Errorf("one attribute: %v", e.Attributes)
	}
	if e := ask(bob, false, "1.1"); len(e.Attributes) != 0 {
		t.Errorf("no attributes: %v", e.Attributes)
	}
	if e := ask(bob, true, "mail"); len(e.Attributes) != 1 || len(e.Attributes[0].Values) != 0 {
		t.Errorf("types only: %v", e.Attributes)
	}
	if e := ask("", false); len(e.Attributes) != 1 {
		t.Errorf("root DSE without a wish: %v", e.Attributes)
	}
	root := ask("", false, "supportedExtension", "supportedControl", "namingContexts")
	if !strings.Contains(strings.Join(root.GetAttributeValues("supportedExtension"), " "), "1.3.6.1.1.21.1") {
		t.Errorf("root DSE extensions: %v", root.GetAttributeValues("supportedExtension"))
	}
	if root.GetAttributeValue("namingContexts") != "dc=example,dc=com" {
		t.Errorf("root DSE naming contexts: %v", root.GetAttributeValues("namingContexts"))
	}
}

func TestSearchLimits(t *testing.T) {
	cfg := config()
	cfg.SizeLimit = 3
	_, addr := serve(t, newTree(t), cfg)
	c := dial(t, addr)
	req := func(limit int, controls ...ldap.Control) *ldap.SearchRequest {
		return ldap.NewSearchRequest("dc=example,dc=com", ldap.ScopeWholeSubtree, 0, limit, 0, false, "(objectClass=*)", nil, controls)
	}
	for _, limit := range []int{0, 2, 4} {
		res, err := c.Search(req(limit))
		want(t, err, ldap.LDAPResultSizeLimitExceeded)
		if n := map[int]int{0: 3, 2: 2, 4: 3}[limit]; len(res.Entries) != n {
			t.Errorf("limit %d: %d entries, want %d", limit, len(res.Entries), n)
		}
	}
	res, err := c.SearchWithPaging(req(0), 2)
	if err != nil || len(res.Entries) != 5 {
		t.Errorf("paged: %v, %v; want 5 entries", res, err)
	}
	bad := ldap.NewControlPaging(2)
	bad.SetCookie([]byte("99"))
	_, err = c.Search(req(0, bad))
	want(t, err, ldap.LDAPResultUnwillingToPerform)

	cfg.NoPaging = true
	_, addr = serve(t, newTree(t), cfg)
	c = dial(t, addr)
	_, err = c.Search(req(0, &ldap.ControlString{ControlType: ldap.ControlTypePaging, Criticality: true}))
	want(t, err, ldap.LDAPResultUnavailableCriticalExtension)
	_, err = c.Search(req(0, ldap.NewControlPaging(2)))
	want(t, err, ldap.LDAPResultSizeLimitExceeded)
}

func TestNoSuchObjectNamesTheNearest(t *testing.T) {
	_, addr := serve(t, newTree(t), config())
	c := dial(t, addr)
	_, err := c.Search(ldap.NewSearchRequest("uid=x,ou=people,dc=example,dc=com", ldap.ScopeBaseObject, 0, 0, 0, false, "(&)", nil, nil))
	var lerr *ldap.Error
	if !errors.As(err, &lerr) || lerr.ResultCode != ldap.LDAPResultNoSuchObject || lerr.MatchedDN != "ou=people,dc=example,dc=com" {
		t.Errorf("got %#v", err)
	}
}

func TestRequireBind(t *testing.T) {
	cfg := config()
	cfg.RequireBind = true
	_, addr := serve(t, newTree(t), cfg)
	c, err := ldap.DialURL("ldap://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	req := ldap.NewSearchRequest("dc=example,dc=com", ldap.ScopeWholeSubtree, 0, 0, 0, false, "(uid=ann)", nil, nil)
	_, err = c.Search(req)
	want(t, err, ldap.LDAPResultInsufficientAccessRights)
	want(t, c.Del(ldap.NewDelRequest("uid=ann,ou=people,dc=example,dc=com", nil)), ldap.LDAPResultInsufficientAccessRights)
	want(t, c.Bind("uid=ann,ou=people,dc=example,dc=com", "sesame"), 0)
	res, err := c.Search(req)
	if err != nil || len(res.Entries) != 1 {
		t.Errorf("after the bind: %v, %v", res, err)
	}
}
