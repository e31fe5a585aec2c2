package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"mailmux/tools/certs/pki"
)

// The directory.
const (
	suffix       = "dc=example,dc=com"
	base         = "ou=accounts," + suffix
	bindDN       = "cn=mailmux," + suffix
	bindPassword = "bench"
	domain       = "example.com"
)

// The last byte of the servers' addresses, on a loopback network of this run's own.
const (
	hostSlapd    = 1
	hostBack1    = 11
	hostBack2    = 12
	hostMailmux  = 21
	hostNginx    = 22
	hostNginx32k = 23
	hostDovecot  = 24
	hostPerditon = 25
	hostHAProxy  = 26
	hostGofloor  = 27
)

// world is what all peers stand in front of: a directory and two backends.
type world struct {
	dir      string // of this run
	self     string // this program
	net      string // 127.A.B.
	accounts int
	identity bool // backends offer ID and XCLIENT
	ecdsa    string
	rsa      string // certificates, without their endings
	slapd    *group
	stubs    *group
}

func (w *world) ip(host int) string                { return fmt.Sprintf("%s%d", w.net, host) }
func (w *world) addr(host int, port string) string { return net.JoinHostPort(w.ip(host), port) }
func (w *world) ldap() string                      { return "ldap://" + w.addr(hostSlapd, "10389") }
func (w *world) secret() string                    { return filepath.Join(w.dir, "secret") }

// user is the login name of an account, and home the name of its home host, which is also its address: Dovecot and
// Perdition know no other names.
func user(i int) string { return fmt.Sprintf("u%d@%s", i, domain) }

func (w *world) home(i int) string {
	if i%2 == 1 {
		return w.ip(hostBack1)
	}
	return w.ip(hostBack2)
}

// build starts the directory and the backends.
func (w *world) build() error {
	w.net = fmt.Sprintf("127.%d.%d.", 64+rand.IntN(100), 1+rand.IntN(250))
	if err := w.certificates(); err != nil {
		return err
	}
	if err := os.WriteFile(w.secret(), []byte(bindPassword), 0o644); err != nil {
		return err
	}
	if err := w.startSlapd(); err != nil {
		return fmt.Errorf("start slapd: %w", err)
	}
	w.stubs = newGroup(w.dir, "stubs")
	for _, host := range []int{hostBack1, hostBack2} {
		args := []string{w.self, "stub", w.ip(host), w.ecdsa}
		if w.identity {
			args = append(args, "identity")
		}
		if err := w.stubs.start(args...); err != nil {
			return err
		}
		if err := ready(w.addr(host, portIMAP)); err != nil {
			return fmt.Errorf("start the backends: %w", err)
		}
	}
	return nil
}

func (w *world) certificates() error {
	ca, err := pki.NewCA("bench", pki.ECDSA)
	if err != nil {
		return err
	}
	for algorithm, name := range map[pki.Algorithm]*string{pki.ECDSA: &w.ecdsa, pki.RSA: &w.rsa} {
		*name = filepath.Join(w.dir, fmt.Sprintf("cert-%v", algorithm))
		pair, err := ca.Issue(pki.Request{Name: certName(algorithm), Hosts: []string{certName(algorithm)}, Algorithm: algorithm})
		if err != nil {
			return err
		}
		if err := pair.Write(w.dir, filepath.Base(*name)); err != nil {
			return err
		}
		both := append(bytes.Clone(pair.CertPEM), pair.KeyPEM...)
		if err := os.WriteFile(*name+".both", both, 0o644); err != nil { // for HAProxy
			return err
		}
	}
	return nil
}

// certName is the server name that chooses a certificate, where a peer chooses by that.
func certName(algorithm pki.Algorithm) string {
	if algorithm == pki.RSA {
		return "rsa." + domain
	}
	return "mail." + domain
}

const schema = `
attributetype ( 1.3.6.1.4.1.4203.666.1.9901 NAME 'hostServer' EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
attributetype ( 1.3.6.1.4.1.4203.666.1.9902 NAME 'oldHostServer' EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
attributetype ( 1.3.6.1.4.1.4203.666.1.9903 NAME 'mailAlternateAddress' EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.4203.666.1.9904 NAME 'mailUserStatus' EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
objectclass ( 1.3.6.1.4.1.4203.666.3.9901 NAME 'mailAccount' SUP top AUXILIARY MAY ( hostServer $ oldHostServer $ mailAlternateAddress $ mailUserStatus ) )
`

func (w *world) slapdConf() string {
	return fmt.Sprintf(`include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include %[1]s/bench.schema
pidfile %[1]s/slapd.pid
modulepath /usr/lib/ldap
moduleload back_mdb
threads 4
database mdb
directory %[1]s/db
maxsize 2147483648
suffix %[2]s
rootdn cn=root,%[2]s
index objectClass,uid,mail,mailAlternateAddress,hostServer eq
access to attrs=userPassword by anonymous auth by * none
access to * by * read
`, w.dir, suffix)
}

func (w *world) startSlapd() error {
	program, err := find("slapd")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(w.dir, "db"), 0o755); err != nil {
		return err
	}
	conf := filepath.Join(w.dir, "slapd.conf")
	for name, text := range map[string]string{"bench.schema": schema, "slapd.conf": w.slapdConf(), "data.ldif": w.ldif()} {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if out, err := exec.Command(program, "-Ta", "-q", "-f", conf, "-l", filepath.Join(w.dir, "data.ldif")).CombinedOutput(); err != nil {
		return fmt.Errorf("load the accounts: %w\n%s", err, out)
	}
	w.slapd = newGroup(w.dir, "slapd")
	if err := w.slapd.start(program, "-d", "0", "-f", conf, "-h", w.ldap()+"/"); err != nil {
		return err
	}
	return ready(w.addr(hostSlapd, "10389"))
}

func (w *world) ldif() string {
	var b strings.Builder
	fmt.Fprintf(&b, "dn: %s\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n\n", suffix)
	fmt.Fprintf(&b, "dn: %s\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: mailmux\nuserPassword: %s\n\n", bindDN, bindPassword)
	fmt.Fprintf(&b, "dn: %s\nobjectClass: organizationalUnit\nou: accounts\n\n", base)
	for i := range w.accounts {
		fmt.Fprintf(&b, "dn: uid=u%d,%s\nobjectClass: inetOrgPerson\nobjectClass: mailAccount\nuid: u%d\ncn: u%d\nsn: u\nmail: %s\nhostServer: %s\n\n",
			i, base, i, i, user(i), w.home(i))
	}
	return b.String()
}

// close ends the directory and the backends.
func (w *world) close() {
	for _, g := range []*group{w.stubs, w.slapd} {
		if g != nil {
			g.remove()
		}
	}
}

// find returns the path of a program, which need not be in PATH if it is a system program.
func find(program string) (string, error) {
	if p, err := exec.LookPath(program); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if st, err := os.Stat(filepath.Join(dir, program)); err == nil && st.Mode()&0o111 != 0 {
			return filepath.Join(dir, program), nil
		}
	}
	return "", fmt.Errorf("%s is not installed; install it with: apt-get install %s", program, packages[program])
}

// packages are Debian's, by program.
var packages = map[string]string{
	"slapd": "slapd", "nginx": "nginx libnginx-mod-mail", "haproxy": "haproxy",
	"dovecot":         "dovecot-imapd dovecot-pop3d dovecot-submissiond dovecot-ldap",
	"perdition.imap4": "perdition perdition-ldap",
}
