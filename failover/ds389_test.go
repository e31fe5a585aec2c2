package failover_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"mailmux/directory"
	"mailmux/failover"
)

const (
	dsRootDN   = "cn=root,dc=example,dc=com"
	dsPassword = "secret-of-root"
)

// ds is a 389 Directory Server: it knows neither transactions nor assertions.
type ds struct {
	t   *testing.T
	url string
}

// startDS makes an instance in a temporary directory. The package is heavy, so that nothing but this test asks for it:
// without it the test is skipped everywhere.
func startDS(t *testing.T) *ds {
	t.Helper()
	for _, program := range []string{"dscreate", "ns-slapd", "ldapmodify"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is missing: install 389-ds-base and ldap-utils to run this test", program)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("dscreate wants to be root")
	}
	dir, port := t.TempDir(), freePort(t)
	inst := filepath.Join(dir, "inst.inf")
	text := fmt.Sprintf("[general]\nconfig_version = 2\nfull_machine_name = localhost\nstrict_host_checking = False\nsystemd = False\n"+
		"[slapd]\ninstance_name = test\nroot_dn = %s\nroot_password = %s\nport = %d\nself_sign_cert = False\nuser = root\ngroup = root\nlocal_state_dir = %s\nldapi = %[4]s/run/ldapi\n",
		dsRootDN, dsPassword, port, dir)
	for option, name := range map[string]string{
		"config_dir": "config", "cert_dir": "config", "schema_dir": "config/schema", "db_dir": "db", "db_home_dir": "db", "backup_dir": "bak",
		"ldif_dir": "ldif", "log_dir": "log", "lock_dir": "lock", "run_dir": "run", "inst_dir": "inst",
	} {
		text += fmt.Sprintf("%s = %s/%s\n", option, dir, name)
	}
	if err := os.WriteFile(inst, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// It fails in the end, because the instance is none of the system's; what counts is that it made the files.
	out, _ := exec.Command("dscreate", "from-file", inst).CombinedOutput()
	config := filepath.Join(dir, "config/dse.ldif")
	dse, err := os.ReadFile(config)
	if err != nil {
		t.Fatalf("dscreate: %v\n%s", err, out)
	}
	// The password in the clear: not every build knows the hash that dscreate makes.
	dse = regexp.MustCompile(`(?m)^nsslapd-rootpw:.*(\n .*)*`).ReplaceAll(dse, []byte("nsslapd-rootpw: {CLEAR}"+dsPassword))
	if err := os.WriteFile(config, dse, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"run", "lock", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var log strings.Builder
	server := exec.Command("ns-slapd", "-D", filepath.Join(dir, "config"), "-i", filepath.Join(dir, "run/pid"), "-d", "0")
	server.Stdout, server.Stderr = &log, &log
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait() // it was killed
		if t.Failed() {
			t.Logf("389 Directory Server: %s", log.String())
		}
	})
	s := &ds{t: t, url: fmt.Sprintf("ldap://127.0.0.1:%d", port)}
	await(t, "389 Directory Server speaks", func() bool {
		return exec.Command("ldapsearch", "-x", "-H", s.url, "-s", "base", "-b", "", "1.1").Run() == nil
	})
	s.modify(dsDatabase)
	return s
}

// dsDatabase is the schema, the database and its indexes.
const dsDatabase = `dn: cn=schema
changetype: modify
add: attributeTypes
attributeTypes: ( 1.3.6.1.4.1.99999.1 NAME 'hostServer' EQUALITY caseIgnoreIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 SINGLE-VALUE )
attributeTypes: ( 1.3.6.1.4.1.99999.2 NAME 'oldHostServer' EQUALITY caseIgnoreIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 SINGLE-VALUE )
-
add: objectClasses
objectClasses: ( 1.3.6.1.4.1.99999.3 NAME 'mailAccount' SUP top AUXILIARY MAY ( mail $ hostServer $ oldHostServer ) )

dn: cn=userRoot,cn=ldbm database,cn=plugins,cn=config
changetype: add
objectClass: top
objectClass: extensibleObject
objectClass: nsBackendInstance
cn: userRoot
nsslapd-suffix: dc=example,dc=com

dn: cn="dc=example,dc=com",cn=mapping tree,cn=config
changetype: add
objectClass: top
objectClass: extensibleObject
objectClass: nsMappingTree
cn: dc=example,dc=com
nsslapd-state: backend
nsslapd-backend: userRoot

dn: cn=hostServer,cn=index,cn=userRoot,cn=ldbm database,cn=plugins,cn=config
changetype: add
objectClass: top
objectClass: nsIndex
cn: hostServer
nsSystemIndex: false
nsIndexType: eq

dn: dc=example,dc=com
changetype: add
objectClass: domain
dc: example

dn: ou=domains,dc=example,dc=com
changetype: add
objectClass: organizationalUnit
ou: domains
`

func (s *ds) modify(ldif string) {
	s.t.Helper()
	cmd := exec.Command("ldapmodify", "-x", "-H", s.url, "-D", dsRootDN, "-w", dsPassword)
	cmd.Stdin = strings.NewReader(ldif)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("ldapmodify: %v\n%s", err, out)
	}
}

// freePort is a port of this machine that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// A server of another kind, without transactions and without assertions: everything goes as single changes.
func TestServerWithoutTransactions(t *testing.T) {
	s := startDS(t)
	const n = 400
	var ldif strings.Builder
	for i := range n {
		ldif.WriteString(strings.Replace(account(i, [...]string{"one", "TWO"}[i%2]), "\n", "\nchangetype: add\n", 1))
	}
	odd := `cn=J\C3\B6rg \2B \22q\22\, x,ou=domains,dc=example,dc=com`
	ldif.WriteString("dn: " + odd + "\nchangetype: add\nobjectClass: inetOrgPerson\nobjectClass: mailAccount\ncn:: SsO2cmcgKyAicSIsIHg=\nsn: x\nmail: odd@example.com\nhostServer: one\noldHostServer: three\n")
	s.modify(ldif.String())

	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(dsPassword), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := directory.Config{BindDN: dsRootDN, BindPasswordFile: secret, Base: "ou=domains,dc=example,dc=com", Timeout: 5 * time.Second}
	link := linkTo(t, cfg, s.url)
	editor, err := link.Editor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if can := editor.Capabilities(); can.Transactions || can.Assertions || !can.Paging || !strings.Contains(can.Vendor, "389") {
		t.Fatalf("%+v", can)
	}
	m := newMover(t, link, move("ONE", "four"), failover.Auto)
	if got := m.do(t).Total(); got != (failover.Count{Changed: n/2 + 1}) {
		t.Errorf("move: %+v", got)
	}
	if r, err := editor.Get(t.Context(), odd); err != nil || r.Host != "four" || r.OldHost != "three" {
		t.Errorf("%+v, %v", r, err)
	}
	stale := []directory.Change{
		{DN: userDN(0), From: "one", To: "five", OldTo: "one"},
		{DN: userDN(0), From: "four", To: "five", OldFrom: "x", OldTo: "x"},
		{DN: userDN(0), From: "four", To: "five", OldTo: "four"},
	}
	outcomes, err := m.applier.Write(t.Context(), stale)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range outcomes {
		if o.Result != failover.Conflict {
			t.Errorf("stale change %d: %+v", i, o)
		}
	}
	if got := undo(t, link, m.journal).Total(); got.Changed != n/2+1 {
		t.Errorf("undo: %+v", got)
	}
	states := map[string]int{}
	err = editor.Search(t.Context(), directory.Query{}, func(r directory.Record) error { states[r.Host+"/"+r.OldHost]++; return nil })
	if err != nil || states["one/"] != n/2 || states["TWO/"] != n/2 || states["one/three"] != 1 || len(states) != 3 {
		t.Errorf("%v, %v", states, err)
	}
}
