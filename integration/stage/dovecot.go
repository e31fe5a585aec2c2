package stage

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
)

//go:embed dovecot.conf.tmpl
var dovecotConf string

// The master user of the Dovecots.
const (
	MasterUser     = "mailmux-master"
	MasterPassword = "master secret"
)

// Dovecot is a running Dovecot that serves every protocol. Each account's INBOX holds one message whose subject names
// the server; so do its answer to ID, its EHLO and its ManageSieve IMPLEMENTATION: a client can always tell where it is.
// ManageSieve has STARTTLS and no port for implicit TLS: with "ssl = yes" on a listener, managesieve-login 2.3.19 leaves
// the first command of about every seventh fast client unread.
type Dovecot struct {
	*Process
	HostName string // back1.example.com
	IP       string
	MailDir  string // the home directories, a folder for each account
	Socket   string // the SASL socket that Postfix may use

	dir, conf, program string
	doveadm            string
	net                *Network
}

// DovecotOptions says how one Dovecot differs from another.
type DovecotOptions struct {
	HostName string
	Host     int    // the last byte of its address: HostBack1 or HostBack2
	TLS      Pair   // its certificate
	CA       string // the authority of client certificates
	Relay    string // host:port that its submission service hands messages to
	Shared   string // the home directories, if other Dovecots serve the same: seeded by the first of them
}

type dovecotValues struct {
	DovecotOptions
	Dir, IP, RelayHost, RelayPort, TokenURL    string
	User, Group, LoginUser                     string
	InternalUser, InternalGroup                string
	Root                                       bool
	IMAP, IMAPS, POP3, POP3S, Sub, Subs, Sieve int
	LMTP                                       int
	MasterUser                                 string
	Mail                                       string
}

// StartDovecot serves the accounts from dir, which has to have a short name since sockets are in it.
func StartDovecot(dir string, n *Network, o DovecotOptions, accounts []Account) (*Dovecot, error) {
	program, err := Find("dovecot", "dovecot-imapd dovecot-pop3d dovecot-lmtpd dovecot-submissiond dovecot-managesieved")
	if err != nil {
		return nil, err
	}
	for helper, pkg := range map[string]string{"imap-login": "dovecot-imapd", "pop3-login": "dovecot-pop3d", "lmtp": "dovecot-lmtpd",
		"submission-login": "dovecot-submissiond", "managesieve-login": "dovecot-managesieved"} {
		if !executable("/usr/lib/dovecot/"+helper) && !executable("/usr/libexec/dovecot/"+helper) {
			return nil, &MissingError{Program: "dovecot's " + helper, Package: pkg}
		}
	}
	doveadm, err := Find("doveadm", "dovecot-core")
	if err != nil {
		return nil, err
	}
	d := &Dovecot{HostName: o.HostName, IP: n.IP(o.Host), dir: dir, program: program, doveadm: doveadm, net: n,
		conf: filepath.Join(dir, "dovecot.conf"), MailDir: filepath.Join(dir, "mail"), Socket: filepath.Join(dir, "run", "sasl")}
	if o.Shared != "" {
		d.MailDir = o.Shared
	}
	if err := d.prepare(o, accounts); err != nil {
		return nil, fmt.Errorf("prepare Dovecot %s: %w", o.HostName, err)
	}
	return d, d.Restart()
}

func (d *Dovecot) prepare(o DovecotOptions, accounts []Account) error {
	v, uid, gid, err := d.values(o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.MailDir, 0o755); err != nil {
		return err
	}
	for _, a := range accounts {
		if _, err := os.Stat(filepath.Join(d.MailDir, a.Login)); err == nil {
			continue // by another Dovecot
		}
		if err := seed(filepath.Join(d.MailDir, a.Login), o.HostName, a.Login); err != nil {
			return err
		}
	}
	if err := chownAll(d.MailDir, uid, gid); err != nil {
		return err
	}
	files := map[string]string{
		"users":   passwdFile(accounts, uid, gid, d.MailDir),
		"masters": MasterUser + ":" + plain(MasterPassword) + "\n",
		"oauth.conf": "introspection_mode = get\nintrospection_url = " + v.TokenURL + "\nforce_introspection = yes\n" +
			"username_attribute = email\nactive_attribute = active\nactive_value = true\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	t, err := template.New("dovecot.conf").Parse(dovecotConf)
	if err != nil {
		return err
	}
	f, err := os.Create(d.conf)
	if err != nil {
		return err
	}
	if err := t.Execute(f, v); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// values finds the users that Dovecot's processes run as: the package's own when we are root, ourselves when not.
func (d *Dovecot) values(o DovecotOptions) (v dovecotValues, uid, gid int, err error) {
	me, err := user.Current()
	if err != nil {
		return v, 0, 0, err
	}
	v = dovecotValues{DovecotOptions: o, Dir: d.dir, IP: d.IP, MasterUser: MasterUser, Mail: d.MailDir,
		TokenURL: "http://" + d.net.Addr(HostTokens, PortTokens) + "/introspect?token=",
		IMAP:     PortIMAP, IMAPS: PortIMAPS, POP3: PortPOP3, POP3S: PortPOP3S, Sub: PortSubmission, Subs: PortSubmissions,
		Sieve: PortSieve, LMTP: PortLMTP,
		User: me.Username, InternalUser: me.Username, LoginUser: me.Username, Root: os.Geteuid() == 0}
	if host, port, ok := strings.Cut(o.Relay, ":"); ok {
		v.RelayHost, v.RelayPort = host, port
	}
	mail := me
	if v.Root {
		v.InternalUser, v.InternalGroup, v.LoginUser = "dovecot", "dovecot", "dovenull"
		if mail, err = user.Lookup("nobody"); err != nil {
			return v, 0, 0, err
		}
	}
	group, err := user.LookupGroupId(mail.Gid)
	if err != nil {
		return v, 0, 0, err
	}
	v.User, v.Group = mail.Username, group.Name
	if !v.Root {
		v.InternalGroup = group.Name
	}
	if uid, err = strconv.Atoi(mail.Uid); err != nil {
		return v, 0, 0, err
	}
	gid, err = strconv.Atoi(mail.Gid)
	return v, uid, gid, err
}

// passwdFile keeps the passwords in the clear: SCRAM needs what it is derived from.
func passwdFile(accounts []Account, uid, gid int, mail string) string {
	var b strings.Builder
	// Dovecot looks a name up with its quotes and backslashes escaped.
	escape := strings.NewReplacer(`\`, `\\`, `'`, `\'`, `"`, `\"`)
	for _, a := range accounts {
		fmt.Fprintf(&b, "%s:%s:%d:%d::%s::\n", escape.Replace(a.Login), plain(a.Password), uid, gid, filepath.Join(mail, a.Login))
	}
	return b.String()
}

// plain writes a password so that colons and spaces in it do no harm.
func plain(password string) string {
	return "{PLAIN.b64}" + base64.StdEncoding.EncodeToString([]byte(password))
}

// seed puts the first message into an INBOX.
func seed(home, host, login string) error {
	for _, sub := range []string{"cur", "new", "tmp"} {
		if err := os.MkdirAll(filepath.Join(home, "Maildir", sub), 0o755); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("From: postmaster@example.com\r\nTo: %s\r\nSubject: welcome to %s\r\n\r\nThis mailbox is on %s.\r\n", login, host, host)
	if err := os.WriteFile(filepath.Join(home, "Maildir", "new", "1000000000.M1P1.seed"), []byte(text), 0o644); err != nil {
		return err
	}
	// With its UID written down it stays the first one, whatever is delivered before anybody opens the mailbox.
	id := sha256.Sum256([]byte(home))
	list := fmt.Sprintf("3 V1000000000 N2 G%x\n1 :1000000000.M1P1.seed\n", id[:16])
	return os.WriteFile(filepath.Join(home, "Maildir", "dovecot-uidlist"), []byte(list), 0o644)
}

func chownAll(root string, uid, gid int) error {
	return filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}

// Addr is the address of one of its ports.
func (d *Dovecot) Addr(port int) string { return d.IP + ":" + strconv.Itoa(port) }

// Restart starts the server again after Stop or Kill.
func (d *Dovecot) Restart() error {
	// After a kill the old pid file would make the new master believe that another one is running.
	if err := os.Remove(filepath.Join(d.dir, "run", "master.pid")); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("start Dovecot %s: %w", d.HostName, err)
	}
	p, err := Start("dovecot "+d.HostName, filepath.Join(d.dir, "dovecot.log"), d.program, "-F", "-c", d.conf)
	if err != nil {
		return err
	}
	d.Process = p
	prefixes := map[int]string{PortIMAP: "* OK", PortPOP3: "+OK", PortSubmission: "220", PortSieve: `"IMPLEMENTATION"`, PortLMTP: "220"}
	for port, prefix := range prefixes {
		if err := p.await(greets(d.Addr(port), prefix)); err != nil {
			return err
		}
	}
	return nil
}

// Admin runs doveadm against this server.
func (d *Dovecot) Admin(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, d.doveadm, append([]string{"-c", d.conf}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("doveadm %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
