package stage

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

//go:embed postfix-main.cf.tmpl
var postfixMain string

//go:embed postfix-master.cf
var postfixMaster string

// daemons is where Debian has Postfix's programs; main.cf says so, too.
const daemons = "/usr/lib/postfix/sbin"

// Postfix is a running Postfix with a queue of its own: a submission backend that lets Dovecot check the passwords, and
// hands mail for example.com and example.org over by LMTP.
type Postfix struct {
	*Process
	IP   string
	Mail string // its log of messages

	dir     string
	postfix string
}

// PostfixOptions says what Postfix stands between.
type PostfixOptions struct {
	HostName string
	TLS      Pair
	SASL     string // the socket of Dovecot's auth service
	LMTP     string // host:port that takes the mail for the local domains
	Host     int    // the last byte of its address: HostPostfix when 0
}

// StartPostfix runs a master with its configuration, queue and data in dir. It needs root, as every Postfix does.
func StartPostfix(dir string, n *Network, o PostfixOptions) (*Postfix, error) {
	program, err := Find("postfix", "postfix")
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, &MissingError{Program: "postfix for the user " + strconv.Itoa(os.Geteuid()), Package: "postfix (and run as root)"}
	}
	if o.Host == 0 {
		o.Host = HostPostfix
	}
	p := &Postfix{IP: n.IP(o.Host), dir: dir, postfix: program, Mail: filepath.Join(dir, "mail.log")}
	if err := p.prepare(o); err != nil {
		return nil, fmt.Errorf("prepare Postfix: %w", err)
	}
	return p, p.Restart()
}

func (p *Postfix) prepare(o PostfixOptions) error {
	owner, err := user.Lookup("postfix")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return err
	}
	for _, sub := range []string{"conf", "queue", "data"} {
		if err := os.MkdirAll(filepath.Join(p.dir, sub), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chown(filepath.Join(p.dir, "data"), uid, -1); err != nil {
		return err
	}
	host, port, _ := strings.Cut(o.LMTP, ":")
	main := strings.NewReplacer("@DAEMONS@", daemons, "@DIR@", p.dir, "@IP@", p.IP, "@HOST@", o.HostName, "@CERT@", o.TLS.Cert, "@KEY@", o.TLS.Key,
		"@SASL@", o.SASL, "@LMTPHOST@", host, "@LMTPPORT@", port).Replace(postfixMain)
	master := strings.NewReplacer("@IP@", p.IP, "@SMTP@", strconv.Itoa(PortSMTP), "@SUBMISSION@", strconv.Itoa(PortSubmission),
		"@SUBMISSIONS@", strconv.Itoa(PortSubmissions)).Replace(postfixMaster)
	for name, text := range map[string]string{"main.cf": main, "master.cf": master} {
		if err := os.WriteFile(filepath.Join(p.dir, "conf", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	// Postfix makes the folders of the queue itself, with the owners they need.
	if out, err := exec.Command(p.postfix, "-c", filepath.Join(p.dir, "conf"), "check").CombinedOutput(); err != nil {
		return fmt.Errorf("postfix check: %w\n%s%s", err, out, tail(p.Mail, 4000))
	}
	return nil
}

// Addr is the address of one of its ports.
func (p *Postfix) Addr(port int) string { return p.IP + ":" + strconv.Itoa(port) }

// Restart starts the master again after Stop or Kill.
func (p *Postfix) Restart() error {
	// Started by "postfix start" or "start-fg" the master would leave our process group, and outlive us.
	proc, err := Start("postfix", filepath.Join(p.dir, "postfix.log"), filepath.Join(daemons, "master"), "-c", filepath.Join(p.dir, "conf"), "-d")
	if err != nil {
		return err
	}
	p.Process = proc
	for _, port := range []int{PortSMTP, PortSubmission} {
		if err := proc.await(greets(p.Addr(port), "220")); err != nil {
			return fmt.Errorf("%w\n%s", err, tail(p.Mail, 4000))
		}
	}
	return nil
}

// Queue lists what waits in the queue, in the words of postqueue -j.
func (p *Postfix) Queue(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "postqueue", "-c", filepath.Join(p.dir, "conf"), "-j").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("postqueue: %w: %s", err, out)
	}
	return string(out), nil
}
