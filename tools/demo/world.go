package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"mailmux/tools/certs/pki"
	"mailmux/tools/embedded/ldapd"
	"mailmux/tools/embedded/mailstore"
)

const (
	loopback   = "127.0.0.1"
	eastName   = "east.example.com"
	westName   = "west.example.com"
	frontName  = "mail.example.com"
	baseDN     = "ou=people,dc=example,dc=com"
	bindDN     = "cn=mailmux,dc=example,dc=com"
	bindSecret = "directory-secret"
	configFile = "mailmux.yaml"
	logFile    = "mailmux.log"
	password   = "sesame" // of every account
)

// world is everything that runs while the demo does.
type world struct {
	screen *screen
	dir    string // programs, configuration, certificates, log; removed at the end
	pool   *x509.CertPool

	tree      *ldapd.Tree
	directory *ldapd.Server
	ldapPort  int

	east, west         *machine
	eastDisk, westDisk *mailstore.Storage

	fronts  map[string]int // ports of mailmux, by the names of the listeners below
	mailmux *exec.Cmd
	exited  chan struct{} // closed when mailmux has ended
}

// listeners are those of mailmux: a service, or a service with TLS from the start.
var listeners = []struct{ name, service, tls string }{
	{"imap", "imap", "starttls"},
	{"imaps", "imap", "implicit"},
	{"pop3", "pop3", "starttls"},
	{"pop3s", "pop3", "implicit"},
	{"submission", "submission", "starttls"},
	{"submissions", "submission", "implicit"},
	{"sieve", "sieve", "starttls"},
}

// newWorld makes the directory of files. Everything else begins with the steps of the story.
func newWorld(s *screen) (*world, error) {
	dir, err := os.MkdirTemp("", "mailmux-demo-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the demo: %w", err)
	}
	return &world{screen: s, dir: dir, fronts: make(map[string]int)}, nil
}

// close stops and removes everything.
func (w *world) close() error {
	faults := []error{w.stopMailmux()}
	for _, m := range []*machine{w.east, w.west} {
		if m != nil {
			faults = append(faults, m.stop())
		}
	}
	if w.directory != nil {
		w.directory.Close()
	}
	return errors.Join(append(faults, os.RemoveAll(w.dir))...)
}

// build compiles both programs into the demo's directory, without etcd's server, which is a third of the build and of no
// use here.
func (w *world) build(ctx context.Context) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-tags", "noetcdserver", "-o", w.dir+string(filepath.Separator), "./cmd/mailmux", "./cmd/hostfailover")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build mailmux and hostfailover: %w\n%s", err, out)
	}
	return nil
}

// moduleRoot is where the sources are.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the sources with go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("the sources are not here; run the demo in the source tree of mailmux, with make demo")
	}
	return filepath.Dir(mod), nil
}

// startServers starts the directory and both mail servers, each with its disk.
func (w *world) startServers() error {
	backendTLS, err := w.certificates()
	if err != nil {
		return err
	}
	if err := w.startDirectory(); err != nil {
		return err
	}
	w.eastDisk, w.westDisk = mailstore.NewStorage("disk 1"), mailstore.NewStorage("disk 2")
	for disk, names := range map[*mailstore.Storage][]string{w.eastDisk: {"ann", "carl", "dora"}, w.westDisk: {"bob", "emil"}} {
		for _, name := range names {
			if err := disk.AddAccount(name+"@example.com", password); err != nil {
				return err
			}
		}
	}
	if err := w.eastDisk.Deliver("ann@example.com", []byte(welcome)); err != nil {
		return err
	}
	w.east = &machine{name: eastName, tls: backendTLS, send: w.send}
	w.west = &machine{name: westName, tls: backendTLS, send: w.send}
	if err := errors.Join(w.east.start(), w.west.start()); err != nil {
		return err
	}
	w.east.backend.Attach(w.eastDisk)
	w.west.backend.Attach(w.westDisk)
	return nil
}

// send is the outgoing mail of both servers: it reaches whatever disk the recipient is on.
func (w *world) send(_ string, to []string, message []byte) error {
	var faults []error
	for _, recipient := range to {
		disk := w.eastDisk
		if w.westDisk.Has(recipient) {
			disk = w.westDisk
		}
		faults = append(faults, disk.Deliver(recipient, message))
	}
	return errors.Join(faults...)
}

// startDirectory serves the people of the LDIF text.
func (w *world) startDirectory() error {
	w.tree = ldapd.NewTree(ldapd.Rules{SingleValue: []string{"hostServer", "oldHostServer"}})
	if err := w.tree.LoadLDIF(strings.NewReader(people)); err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return fmt.Errorf("start the directory: %w", err)
	}
	w.ldapPort = l.Addr().(*net.TCPAddr).Port
	w.directory = ldapd.New(w.tree, ldapd.Config{RootDN: bindDN, RootPassword: bindSecret})
	go w.directory.Serve(l)
	return nil
}

// certificates writes the authority and the frontend's certificate, and returns the TLS of the mail servers.
func (w *world) certificates() (*tls.Config, error) {
	ca, err := pki.NewCA("mailmux demo", pki.ECDSA)
	if err != nil {
		return nil, err
	}
	front, err := ca.Issue(pki.Request{Hosts: []string{frontName, "localhost", loopback}})
	if err != nil {
		return nil, err
	}
	back, err := ca.Issue(pki.Request{Hosts: []string{eastName, westName}})
	if err != nil {
		return nil, err
	}
	w.pool = ca.Pool()
	err = errors.Join(ca.Write(w.dir, "ca"), front.Write(w.dir, "mail"))
	return &tls.Config{Certificates: []tls.Certificate{back.Certificate}}, err
}

// configure writes mailmux.yaml and what it names.
func (w *world) configure() error {
	for _, front := range listeners {
		port, err := freePort()
		if err != nil {
			return err
		}
		w.fronts[front.name] = port
	}
	secret := filepath.Join(w.dir, "ldap.secret")
	if err := os.WriteFile(secret, []byte(bindSecret+"\n"), 0o600); err != nil {
		return fmt.Errorf("write the secret: %w", err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, configFile), []byte(w.configuration()), 0o600); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return nil
}

// freePort finds a port for a process that cannot tell which one it got. Somebody could take it before mailmux does;
// mailmux then says so.
func freePort() (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// configuration is the text of mailmux.yaml.
func (w *world) configuration() string {
	var b strings.Builder
	fmt.Fprintf(&b, "hostname: %s\n\n", frontName)
	fmt.Fprintf(&b, "directory:\n  servers: [ldap://%s:%d]\n  bind_dn: %s\n  bind_password_file: %s\n  base: %s\n\n",
		loopback, w.ldapPort, bindDN, filepath.Join(w.dir, "ldap.secret"), baseDN)
	b.WriteString("hosts:\n")
	for _, m := range []*machine{w.east, w.west} {
		var ports []string
		for _, service := range services {
			ports = append(ports, fmt.Sprintf("%s: %d", service, m.ports[service]))
		}
		fmt.Fprintf(&b, "  %s: {members: [%s], ports: {%s}}\n", m.name, loopback, strings.Join(ports, ", "))
	}
	fmt.Fprintf(&b, "\nbackend:\n  tls: starttls\n  tls_ca_file: %s\n  check: {interval: 1s, fall: 2}\n\n", filepath.Join(w.dir, "ca.pem"))
	b.WriteString("domains: {default: example.com}\n\n")
	fmt.Fprintf(&b, "tls:\n  certificates: [{cert: %s, key: %s}]\n\n", filepath.Join(w.dir, "mail.pem"), filepath.Join(w.dir, "mail.key"))
	b.WriteString("listeners:\n")
	for _, front := range listeners {
		fmt.Fprintf(&b, "  - {service: %s, address: \"%s:%d\", tls: %s}\n", front.service, loopback, w.fronts[front.name], front.tls)
	}
	fmt.Fprintf(&b, "\nadmin: {address: \"unix:%s\", state: off}\n", filepath.Join(w.dir, "admin.sock"))
	return b.String()
}

// startMailmux runs the frontend and waits until it greets.
func (w *world) startMailmux(ctx context.Context) error {
	log, err := os.Create(filepath.Join(w.dir, logFile))
	if err != nil {
		return fmt.Errorf("make mailmux's log: %w", err)
	}
	defer log.Close()
	w.mailmux = exec.Command(filepath.Join(w.dir, "mailmux"), "serve", "-config", configFile)
	w.mailmux.Dir, w.mailmux.Stdout, w.mailmux.Stderr = w.dir, log, log
	detach(w.mailmux)
	if err := w.mailmux.Start(); err != nil {
		return fmt.Errorf("start mailmux: %w", err)
	}
	w.exited = make(chan struct{})
	go w.awaitMailmux()
	for {
		err := w.greeted(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-w.exited:
			return fmt.Errorf("mailmux ended at once: %s", w.mailmux.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("mailmux does not greet: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// greeted asks mailmux for a greeting, quietly.
func (w *world) greeted(ctx context.Context) error {
	c, err := connect(ctx, nil, imap, w.front("imap"))
	if err != nil {
		return err
	}
	defer c.close()
	return c.play(exchange{want: "* OK"})
}

// awaitMailmux notes that the process has ended.
func (w *world) awaitMailmux() {
	w.mailmux.Wait()
	close(w.exited)
}

// stopMailmux asks the process to end; then to end at once, without waiting for sessions; then makes it.
func (w *world) stopMailmux() error {
	if w.exited == nil {
		return nil
	}
	for range 2 {
		w.mailmux.Process.Signal(os.Interrupt)
		select {
		case <-w.exited:
			return nil
		case <-time.After(2 * time.Second):
		}
	}
	w.mailmux.Process.Kill()
	<-w.exited
	return errors.New("mailmux did not end within 4 s of being asked to, twice")
}

// front is the address of one of mailmux's listeners.
func (w *world) front(name string) string {
	return fmt.Sprintf("%s:%d", loopback, w.fronts[name])
}

// command runs one of the two programs as an operator does, and shows it. The exit code has to be the one wanted.
func (w *world) command(ctx context.Context, code int, program string, args ...string) error {
	w.screen.command(program + " " + strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, filepath.Join(w.dir, program), args...)
	cmd.Dir = w.dir
	out, err := cmd.CombinedOutput()
	w.screen.output(strings.TrimRight(string(out), "\n"))
	exit := new(exec.ExitError)
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("run %s: %w", program, err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		return fmt.Errorf("%s %s ended with %d, not with %d", program, args[0], got, code)
	}
	return nil
}

// explain adds the end of mailmux's log to an error.
func (w *world) explain(err error) error {
	log, readErr := os.ReadFile(filepath.Join(w.dir, logFile))
	if readErr != nil || len(log) == 0 {
		return err
	}
	lines := strings.Split(strings.TrimRight(string(log), "\n"), "\n")
	lines = lines[max(0, len(lines)-15):]
	return fmt.Errorf("%w\n\nthe end of mailmux's log:\n  %s", err, strings.Join(lines, "\n  "))
}
