package directory

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"mailmux/directory/slapdtest"
)

// The files in examples/openldap are what the README tells operators to load.
func TestExampleEntriesWork(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIFFile: slapdtest.SchemaFile("base.ldif")})
	c := slapdConfig(t, s.URL)
	if err := os.WriteFile(c.BindPasswordFile, []byte("change me"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, c)
	a, err := d.Lookup(t.Context(), at("ann.example"))
	if err != nil || a.Host != "back1.example.com" || a.Login != "ann@example.com" {
		t.Errorf("got %+v, %v", a, err)
	}
	if err := d.CheckPassword(t.Context(), a, "sesame"); err != nil {
		t.Errorf("password: %v", err)
	}
}

func TestSchemaLoadsIntoConfigDatabase(t *testing.T) {
	slapd := slapdtest.Program(t, "slapd")
	dir := t.TempDir()
	config := `dn: cn=config
objectClass: olcGlobal
cn: config

dn: cn=schema,cn=config
objectClass: olcSchemaConfig
cn: schema

include: file:///etc/ldap/schema/core.ldif
include: file:///etc/ldap/schema/cosine.ldif
include: file:///etc/ldap/schema/inetorgperson.ldif
include: file://` + slapdtest.SchemaFile("mailmux.ldif") + "\n"
	file := filepath.Join(dir, "config.ldif")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "config.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(slapd, "-Ta", "-n", "0", "-F", filepath.Join(dir, "config.d"), "-l", file).CombinedOutput(); err != nil {
		t.Errorf("slapadd: %v\n%s", err, out)
	}
}
