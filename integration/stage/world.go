package stage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// World is one set of servers that know the same accounts.
type World struct {
	Dir       string
	Net       *Network
	CA        *Authority
	Accounts  []Account
	Slapd     *Slapd
	Back1     *Dovecot // back1.example.com and back3.example.com
	Back2     *Dovecot // back2.example.com
	Postfix   *Postfix // post.example.com; nil when NoPostfix says why
	NoPostfix error
	Tokens    *Tokens
	Front     Pair // the certificate of mail.example.com
	FrontOrg  Pair // the certificate of mail.example.org

	closers []func()
}

// NewWorld starts every server. Its directory has a short name, because sockets are in it, and can be entered by the
// users that Dovecot and Postfix run as. After an error nothing is left running.
func NewWorld() (*World, error) {
	w := &World{Accounts: Accounts()}
	if err := w.start(); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func (w *World) start() error {
	dir, err := os.MkdirTemp("", "mux")
	if err != nil {
		return err
	}
	w.Dir = dir
	w.closers = append(w.closers, func() { _ = os.RemoveAll(dir) }) // what stays behind harms nobody
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if w.Net, err = NewNetwork(); err != nil {
		return err
	}
	w.closers = append(w.closers, func() { _ = w.Net.Close() })
	if w.CA, err = NewAuthority(dir, "ca"); err != nil {
		return err
	}
	if w.Tokens, err = StartTokens(w.Net); err != nil {
		return err
	}
	w.closers = append(w.closers, func() { _ = w.Tokens.Stop() })
	return w.startServers()
}

func (w *World) startServers() error {
	pairs := map[string][]string{
		"ldap.example.com": {w.Net.IP(HostSlapd)}, Back1: {Back3}, Back2: nil, PostHost: nil,
		"mail.example.com": {w.Net.IP(HostDaemon)}, "mail.example.org": nil,
	}
	certs := make(map[string]Pair)
	for name, others := range pairs {
		p, err := w.CA.Issue(name, others...)
		if err != nil {
			return err
		}
		certs[name] = p
	}
	w.Front, w.FrontOrg = certs["mail.example.com"], certs["mail.example.org"]
	var err error
	if w.Slapd, err = StartSlapd(w.sub("ldap"), w.Net, certs["ldap.example.com"], w.Accounts); err != nil {
		return err
	}
	w.closers = append(w.closers, func() { w.Slapd.Stop() })
	if w.Back1, err = w.dovecot(Back1, HostBack1, "d1", certs[Back1]); err != nil {
		return err
	}
	if w.Back2, err = w.dovecot(Back2, HostBack2, "d2", certs[Back2]); err != nil {
		return err
	}
	w.Postfix, err = StartPostfix(w.sub("pf"), w.Net, PostfixOptions{HostName: PostHost, TLS: certs[PostHost],
		SASL: w.Back1.Socket, LMTP: w.Back1.Addr(PortLMTP)})
	if missing := new(MissingError); errors.As(err, &missing) {
		w.NoPostfix = err
		r, err := startRelay(w.Net)
		if err == nil {
			w.closers = append(w.closers, r.stop)
		}
		return err
	}
	if err != nil {
		return err
	}
	w.closers = append(w.closers, func() { w.Postfix.Stop() })
	return nil
}

func (w *World) dovecot(name string, host int, sub string, cert Pair) (*Dovecot, error) {
	d, err := StartDovecot(w.sub(sub), w.Net, DovecotOptions{HostName: name, Host: host, TLS: cert, CA: w.CA.File,
		Relay: w.Net.Addr(HostPostfix, PortSMTP)}, w.Accounts)
	if err != nil {
		return nil, err
	}
	w.closers = append(w.closers, func() { d.Stop() })
	return d, nil
}

func (w *World) sub(name string) string {
	dir := filepath.Join(w.Dir, name)
	_ = os.MkdirAll(dir, 0o755) // a fault shows when the first file is written there
	return dir
}

// Account finds an account by its login name. It panics when there is none, since then the test is wrong.
func (w *World) Account(login string) Account {
	for _, a := range w.Accounts {
		if a.Login == login {
			return a
		}
	}
	panic(fmt.Sprintf("the stage has no account %s", login))
}

// Logs returns the end of every server's log.
func (w *World) Logs(limit int) map[string]string {
	logs := make(map[string]string)
	for name, file := range map[string]string{"slapd": "ldap/slapd.log", Back1: "d1/dovecot.log", Back2: "d2/dovecot.log", PostHost: "pf/mail.log"} {
		logs[name] = tail(filepath.Join(w.Dir, file), limit)
	}
	return logs
}

// Close ends every server in the reverse order and removes the directory.
func (w *World) Close() {
	for i := len(w.closers) - 1; i >= 0; i-- {
		w.closers[i]()
	}
	w.closers = nil
}
