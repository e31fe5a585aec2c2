package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// people is the directory of the demo. Passwords are not in it: the mail servers know them.
const people = `dn: dc=example,dc=com
objectClass: organization
o: Example

dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit
ou: people

dn: uid=ann,ou=people,dc=example,dc=com
objectClass: mailAccount
uid: ann
mail: ann@example.com
hostServer: east.example.com

dn: uid=bob,ou=people,dc=example,dc=com
objectClass: mailAccount
uid: bob
mail: bob@example.com
hostServer: west.example.com

dn: uid=carl,ou=people,dc=example,dc=com
objectClass: mailAccount
uid: carl
mail: carl@example.com
hostServer: east.example.com

dn: uid=dora,ou=people,dc=example,dc=com
objectClass: mailAccount
uid: dora
mail: dora@example.com
hostServer: east.example.com

dn: uid=emil,ou=people,dc=example,dc=com
objectClass: mailAccount
uid: emil
mail: emil@example.com
hostServer: west.example.com
`

// welcome lies in ann's INBOX from the start: it shows that the mailbox that is opened is hers.
const welcome = `From: postmaster@example.com
To: ann@example.com
Subject: Welcome to your mailbox

It is on disk 1.
`

// letter is what ann writes to bob.
const letter = "From: ann@example.com\r\nTo: bob@example.com\r\nSubject: Lunch?\r\n\r\nAt noon, as usual."

// story is the demo, one step after the other, once the programs are built.
var story = []func(context.Context, *world) error{
	startServers, startFrontend, annLogsIn, bobLogsIn, annWrites, bobReads,
	eastFails, dryRun, failover, annFollows, restore,
}

func buildPrograms(ctx context.Context, w *world) error {
	w.screen.headline("Build mailmux and hostfailover")
	w.screen.command("go build -tags noetcdserver ./cmd/mailmux ./cmd/hostfailover")
	begin := time.Now()
	if err := w.build(ctx); err != nil {
		return err
	}
	w.screen.aside("(%.1f s)", time.Since(begin).Seconds())
	return nil
}

func startServers(_ context.Context, w *world) error {
	w.screen.headline("Start an LDAP directory and two mail servers, east and west")
	if err := w.startServers(); err != nil {
		return err
	}
	w.screen.note("Each account's entry names its home host:")
	for _, e := range w.tree.Entries() {
		if host := e.Value("hostServer"); host != "" {
			w.screen.output(fmt.Sprintf("  %-18s hostServer: %s", e.Value("mail"), host))
		}
	}
	return nil
}

func startFrontend(ctx context.Context, w *world) error {
	w.screen.headline("Start mailmux in front of them")
	if err := w.configure(); err != nil {
		return err
	}
	if err := w.command(ctx, 0, "mailmux", "check", "-config", configFile); err != nil {
		return err
	}
	w.screen.command("mailmux serve -config " + configFile + " &")
	return w.startMailmux(ctx)
}

func annLogsIn(ctx context.Context, w *world) error {
	w.screen.headline("ann logs in by IMAP: mailmux finds her home host, east")
	c, err := connect(ctx, w.screen, imap, w.front("imap"))
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.play(exchange{want: "* OK"}, exchange{say: "a1 STARTTLS", want: "a1 OK"}); err != nil {
		return err
	}
	if err := c.secure(ctx, w.tlsConfig()); err != nil {
		return err
	}
	return w.annReads(c, eastName)
}

func annFollows(ctx context.Context, w *world) error {
	w.screen.headline("ann logs in again: west, and her mail is all there")
	c, err := connect(ctx, w.screen, imap, w.front("imaps"))
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.secure(ctx, w.tlsConfig()); err != nil {
		return err
	}
	if err := c.play(exchange{want: "* OK"}); err != nil {
		return err
	}
	return w.annReads(c, westName)
}

// annReads logs ann in and opens her mailbox, which has to be on one server.
func (w *world) annReads(c *client, host string) error {
	if err := c.play(exchange{say: "a2 LOGIN ann@example.com " + password, want: "a2 OK"}); err != nil {
		return err
	}
	w.screen.aside("(from here on every byte is between ann and %s)", host)
	err := c.play(
		exchange{say: "a3 EXAMINE INBOX", want: "a3 OK"},
		exchange{say: "a4 FETCH 1 BODY.PEEK[HEADER.FIELDS (SUBJECT)]", want: "a4 OK"},
	)
	if err != nil {
		return err
	}
	if err := c.nameIs("a5", host); err != nil {
		return err
	}
	return c.play(exchange{say: "a6 LOGOUT", want: "a6 OK"})
}

// tlsConfig verifies mailmux by its name.
func (w *world) tlsConfig() *tls.Config {
	return &tls.Config{RootCAs: w.pool, ServerName: frontName}
}

func bobLogsIn(ctx context.Context, w *world) error {
	w.screen.headline("bob logs in by POP3, TLS from the start: he lives on west")
	c, err := w.bob(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	return c.play(exchange{say: "STAT", want: "+OK 0 "}, exchange{say: "QUIT", want: "+OK"})
}

// bob logs in by POP3.
func (w *world) bob(ctx context.Context) (*client, error) {
	c, err := connect(ctx, w.screen, pop3, w.front("pop3s"))
	if err != nil {
		return nil, err
	}
	if err := c.secure(ctx, w.tlsConfig()); err != nil {
		c.close()
		return nil, err
	}
	err = c.play(exchange{want: "+OK"}, exchange{say: "USER bob", want: "+OK"}, exchange{say: "PASS " + password, want: "+OK"})
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func annWrites(ctx context.Context, w *world) error {
	w.screen.headline("ann writes to bob: submission goes to her own server, too")
	c, err := connect(ctx, w.screen, smtp, w.front("submissions"))
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.secure(ctx, w.tlsConfig()); err != nil {
		return err
	}
	login := base64.StdEncoding.EncodeToString([]byte("\x00ann@example.com\x00" + password))
	return c.play(
		exchange{want: "220"},
		exchange{say: "EHLO laptop.example.com", want: "250"},
		exchange{say: "AUTH PLAIN " + login, want: "235"},
		exchange{say: "MAIL FROM:<ann@example.com>", want: "250"},
		exchange{say: "RCPT TO:<bob@example.com>", want: "250"},
		exchange{say: "DATA", want: "354"},
		exchange{say: letter + "\r\n.", want: "250"},
		exchange{say: "QUIT", want: "221"},
	)
}

func bobReads(ctx context.Context, w *world) error {
	w.screen.headline("bob reads it on west; the first line of the trace says who sent it")
	c, err := w.bob(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	return c.play(exchange{say: "RETR 1", want: "+OK", multi: true}, exchange{say: "QUIT", want: "+OK"})
}

func eastFails(ctx context.Context, w *world) error {
	w.screen.headline("east fails: ann is told to come again, not that her password is wrong")
	if err := w.east.stop(); err != nil {
		return err
	}
	c, err := connect(ctx, w.screen, imap, w.front("imaps"))
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.secure(ctx, w.tlsConfig()); err != nil {
		return err
	}
	return c.play(exchange{want: "* OK"}, exchange{say: "b1 LOGIN ann@example.com " + password, want: "b1 NO [UNAVAILABLE]"})
}

func dryRun(ctx context.Context, w *world) error {
	w.screen.headline("east's disk is connected to west; hostfailover shows what it would do")
	w.west.backend.Attach(w.eastDisk)
	if err := w.command(ctx, 0, "hostfailover", "status", "-config", configFile); err != nil {
		return err
	}
	return w.command(ctx, 0, "hostfailover", "move", "-config", configFile, "-from", eastName, "-to", westName)
}

func failover(ctx context.Context, w *world) error {
	w.screen.headline("hostfailover does it, and keeps the old home host")
	err := w.command(ctx, 0, "hostfailover", "move", "-config", configFile, "-from", eastName, "-to", westName, "-apply", "-yes")
	if err != nil {
		return err
	}
	e, ok := w.tree.Get("uid=ann," + baseDN)
	if !ok || e.Value("hostServer") != westName || e.Value("oldHostServer") != eastName {
		return fmt.Errorf("ann's entry has hostServer %q and oldHostServer %q", e.Value("hostServer"), e.Value("oldHostServer"))
	}
	w.screen.note("ann's entry now:")
	w.screen.output(fmt.Sprintf("  hostServer: %s\n  oldHostServer: %s", e.Value("hostServer"), e.Value("oldHostServer")))
	return nil
}

func restore(ctx context.Context, w *world) error {
	w.screen.headline("east is repaired and has its disk back; its accounts go home")
	w.west.backend.Detach(w.eastDisk)
	if err := w.east.start(); err != nil {
		return err
	}
	w.east.backend.Attach(w.eastDisk)
	err := w.command(ctx, 0, "hostfailover", "restore", "-config", configFile, "-host", eastName, "-apply", "-yes")
	if err != nil {
		return err
	}
	if err := w.awaitEast(ctx); err != nil {
		return err
	}
	return w.command(ctx, 0, "mailmux", "lookup", "-config", configFile, "ann@example.com")
}

// servicesUp asks mailmux, quietly, whether every service has a member for ann.
func (w *world) servicesUp(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, filepath.Join(w.dir, "mailmux"), "lookup", "-config", configFile, "ann@example.com")
	cmd.Dir = w.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("mailmux lookup: %w\n%s", err, out)
	}
	if strings.Contains(string(out), "no member") {
		return fmt.Errorf("mailmux lookup says:\n%s", out)
	}
	return nil
}

// awaitEast waits until ann can log in, and mailmux has seen that all services of east are back: its checks need a second
// or two.
func (w *world) awaitEast(ctx context.Context) error {
	begin := time.Now()
	for {
		err := w.annIsHome(ctx)
		if err == nil {
			err = w.servicesUp(ctx)
		}
		if err == nil {
			w.screen.aside("(ann logs in at east again, and all is up %.1f s after it came back)", time.Since(begin).Seconds())
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("ann does not come home: %w", err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// annIsHome logs ann in and asks which server she is on.
func (w *world) annIsHome(ctx context.Context) error {
	c, err := connect(ctx, nil, imap, w.front("imaps"))
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.secure(ctx, w.tlsConfig()); err != nil {
		return err
	}
	if err := c.play(exchange{want: "* OK"}, exchange{say: "h1 LOGIN ann@example.com " + password, want: "h1 OK"}); err != nil {
		return err
	}
	return c.nameIs("h2", eastName)
}

// invite prints how to go on, and waits for Enter or Ctrl-C.
func (w *world) invite(ctx context.Context) error {
	// Whoever moves accounts by hand now finds their mail on either server.
	w.east.backend.Attach(w.westDisk)
	w.west.backend.Attach(w.eastDisk)
	s := w.screen
	s.title("Try it: everything stays up until you press Enter or Ctrl-C")
	s.note("Accounts: ann, bob, carl, dora, emil @example.com; password %s. Both servers see both disks now, so that you can move accounts.", password)
	for _, line := range []string{
		"cd " + w.dir,
		fmt.Sprintf("curl --cacert ca.pem -u ann:%s 'imaps://localhost:%d/INBOX;MAILINDEX=1'", password, w.fronts["imaps"]),
		fmt.Sprintf("curl --cacert ca.pem -u bob:%s pop3s://localhost:%d/1", password, w.fronts["pop3s"]),
		fmt.Sprintf("openssl s_client -crlf -quiet -CAfile ca.pem -connect localhost:%d", w.fronts["imaps"]),
		"./mailmux status -config " + configFile,
		"./mailmux lookup -config " + configFile + " bob",
		fmt.Sprintf("./hostfailover move -config %s -from %s -to %s -apply -yes", configFile, westName, eastName),
		fmt.Sprintf("ldapsearch -xLLL -H ldap://%s:%d -b %s hostServer", loopback, w.ldapPort, baseDN),
	} {
		fmt.Fprintf(s.out, "    %s\n", s.paint(bold, "$ "+line)) // not cut: to be copied
	}
	s.note("A mail program: server localhost; IMAP port %d or POP3 port %d, SSL/TLS; outgoing port %d, SSL/TLS; ManageSieve port %d. "+
		"It will ask about the certificate of the demo's own authority, %s.",
		w.fronts["imaps"], w.fronts["pop3s"], w.fronts["submissions"], w.fronts["sieve"], filepath.Join(w.dir, "ca.pem"))
	s.note("The log of mailmux: %s", filepath.Join(w.dir, logFile))
	select {
	case <-ctx.Done():
		return nil
	case <-enter():
		return nil
	case <-w.exited:
		return w.explain(fmt.Errorf("mailmux has ended: %s", w.mailmux.ProcessState))
	}
}

// enter is closed when a line is typed. Without a terminal, which gives an end of file at once, it never is. The reading
// goroutine ends with the program: a read of a terminal cannot be called off.
func enter() <-chan struct{} {
	typed := make(chan struct{})
	go awaitLine(typed)
	return typed
}

// awaitLine closes the channel behind one line of input.
func awaitLine(typed chan<- struct{}) {
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err == nil {
		close(typed)
	}
}
