package stage

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The directory of the stage.
const (
	Suffix       = "dc=example,dc=com"
	Base         = "ou=accounts," + Suffix
	RootDN       = "cn=admin," + Suffix
	RootPassword = "root secret"
	BindDN       = "cn=mailmux," + Suffix
	BindPassword = "bind secret"
)

// schema holds the attributes that the frontends read. The arc is OpenLDAP's for experiments.
const schema = `
attributetype ( 1.3.6.1.4.1.4203.666.1.9901 NAME 'hostServer'
	EQUALITY caseIgnoreMatch SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
attributetype ( 1.3.6.1.4.1.4203.666.1.9902 NAME 'oldHostServer'
	EQUALITY caseIgnoreMatch SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
attributetype ( 1.3.6.1.4.1.4203.666.1.9903 NAME 'mailAlternateAddress'
	EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.4203.666.1.9904 NAME 'mailUserStatus'
	EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
objectclass ( 1.3.6.1.4.1.4203.666.3.9901 NAME 'mailAccount' SUP top AUXILIARY
	MAY ( hostServer $ oldHostServer $ mailAlternateAddress $ mailUserStatus ) )
`

// Slapd is a running OpenLDAP server with one mdb database.
type Slapd struct {
	*Process
	Addr string // host:port
	URL  string

	dir, conf, program, log string
	starts                  int
}

// StartSlapd makes a database with the accounts in dir and serves it at the network's address for slapd.
func StartSlapd(dir string, net *Network, tls Pair, accounts []Account) (*Slapd, error) {
	program, err := Find("slapd", "slapd")
	if err != nil {
		return nil, err
	}
	if _, err := Find("ldapsearch", "ldap-utils"); err != nil {
		return nil, err
	}
	s := &Slapd{Addr: net.Addr(HostSlapd, PortLDAP), dir: dir, program: program,
		conf: filepath.Join(dir, "slapd.conf"), log: filepath.Join(dir, "slapd.log")}
	s.URL = "ldap://" + s.Addr
	if err := os.MkdirAll(filepath.Join(dir, "db"), 0o755); err != nil {
		return nil, fmt.Errorf("prepare slapd: %w", err)
	}
	files := map[string]string{"mailmux.schema": schema, "slapd.conf": s.config(tls), "data.ldif": LDIF(accounts)}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("prepare slapd: %w", err)
		}
	}
	load := exec.Command(program, "-Ta", "-q", "-f", s.conf, "-l", filepath.Join(dir, "data.ldif"))
	if out, err := load.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("load the accounts into slapd: %w\n%s", err, out)
	}
	return s, s.Restart()
}

func (s *Slapd) config(tls Pair) string {
	return fmt.Sprintf(`include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include %[1]s/mailmux.schema
pidfile %[1]s/slapd.pid
argsfile %[1]s/slapd.args
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCertificateFile %[2]s
TLSCertificateKeyFile %[3]s
threads 4
database mdb
directory %[1]s/db
maxsize 268435456
suffix %[4]s
rootdn "%[5]s"
rootpw "%[6]s"
index objectClass,uid,mail,mailAlternateAddress,hostServer,oldHostServer eq
access to attrs=userPassword by dn.exact="%[7]s" none by anonymous auth by * none
access to * by dn.exact="%[7]s" read by * none
`, s.dir, tls.Cert, tls.Key, Suffix, RootDN, RootPassword, BindDN)
}

// Restart starts the server again after Stop or Kill, on the same database.
func (s *Slapd) Restart() error {
	s.starts++
	ldaps := strings.Replace(s.Addr, fmt.Sprint(PortLDAP), fmt.Sprint(PortLDAPS), 1)
	p, err := Start("slapd", s.log, s.program, "-d", "stats", "-f", s.conf, "-h", s.URL+"/ ldaps://"+ldaps+"/")
	if err != nil {
		return err
	}
	s.Process = p
	return p.await(func(ctx context.Context) error {
		_, err := s.Search(ctx, "(objectClass=organization)", "o")
		return err
	})
}

// Search asks the server with ldapsearch, as its root, and returns the LDIF.
func (s *Slapd) Search(ctx context.Context, filter string, attributes ...string) (string, error) {
	args := append([]string{"-LLL", "-o", "ldif-wrap=no", "-o", "nettimeout=5", "-x", "-H", s.URL,
		"-D", RootDN, "-w", RootPassword, "-b", Suffix, filter}, attributes...)
	return s.tool(ctx, "", "ldapsearch", args...)
}

// Modify applies LDIF change records with ldapmodify, as the server's root.
func (s *Slapd) Modify(ctx context.Context, ldif string) error {
	_, err := s.tool(ctx, ldif, "ldapmodify", "-x", "-H", s.URL, "-D", RootDN, "-w", RootPassword)
	return err
}

func (s *Slapd) tool(ctx context.Context, input, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// SetHost changes the home host of an account.
func (s *Slapd) SetHost(ctx context.Context, login, host string) error {
	return s.Modify(ctx, fmt.Sprintf("dn: %s\nchangetype: modify\nreplace: hostServer\nhostServer: %s\n", AccountDN(login), host))
}

// AccountDN is the name of an account's entry.
func AccountDN(login string) string {
	escape := strings.NewReplacer(`\`, `\\`, `,`, `\,`, `+`, `\+`, `"`, `\"`, `<`, `\<`, `>`, `\>`, `;`, `\;`, `=`, `\=`)
	return "uid=" + escape.Replace(login) + "," + Base
}

// LDIF is the whole tree of the directory: its top, the frontends' own entry, and the accounts.
func LDIF(accounts []Account) string {
	var b strings.Builder
	fmt.Fprintf(&b, "dn: %s\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n\n", Suffix)
	fmt.Fprintf(&b, "dn: %s\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: mailmux\nuserPassword: %s\n\n", BindDN, BindPassword)
	fmt.Fprintf(&b, "dn: %s\nobjectClass: organizationalUnit\nou: accounts\n\n", Base)
	for _, a := range accounts {
		value(&b, "dn", AccountDN(a.Login))
		fmt.Fprint(&b, "objectClass: inetOrgPerson\nobjectClass: mailAccount\n")
		value(&b, "uid", a.Login)
		value(&b, "cn", a.Login)
		value(&b, "sn", a.Login)
		for i, m := range a.addresses() {
			value(&b, []string{"mail", "mailAlternateAddress"}[min(i, 1)], m)
		}
		value(&b, "userPassword", a.Password)
		value(&b, "hostServer", a.Host)
		value(&b, "oldHostServer", a.OldHost)
		value(&b, "mailUserStatus", a.Status)
		b.WriteByte('\n')
	}
	return b.String()
}

func (a Account) addresses() []string {
	if a.Mail == nil {
		return []string{a.Login}
	}
	return a.Mail
}

// value writes one attribute in base64, which is right for every value; it leaves out an empty one.
func value(b *strings.Builder, name, v string) {
	if v != "" {
		fmt.Fprintf(b, "%s:: %s\n", name, base64.StdEncoding.EncodeToString([]byte(v)))
	}
}
