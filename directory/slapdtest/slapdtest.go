// Package slapdtest starts real OpenLDAP servers for the tests of package directory and of failover: one mdb database in
// a temporary directory, on a free port of 127.0.0.1, with the schema from examples/openldap. A machine without slapd
// skips such tests, with the reason; under CI that is a failure.
package slapdtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The directory that every server has.
const (
	Suffix       = "dc=example,dc=com"
	Base         = "ou=domains,dc=example,dc=com"
	RootDN       = "cn=root,dc=example,dc=com"
	RootPassword = "root password"
	BindDN       = "cn=mailmux,dc=example,dc=com"
	BindPassword = "bind password"
)

// Skeleton holds the entries above the accounts, and the entry that frontends bind as.
const Skeleton = `dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: cn=mailmux,dc=example,dc=com
objectClass: applicationProcess
objectClass: simpleSecurityObject
cn: mailmux
userPassword: bind password

dn: ou=domains,dc=example,dc=com
objectClass: organizationalUnit
ou: domains

`

// Options say what differs from a plain server. Global and Database are lines for slapd.conf.
type Options struct {
	LDIF     string // entries to begin with, after Skeleton
	LDIFFile string // or a file with them; it holds the skeleton too
	Broken   string // entries that the schema does not allow; they name their structuralObjectClass
	Empty    bool   // no entries at all, not even the skeleton: a replica fills itself
	Global   string
	Database string
	Access   string // access rules in place of the usual ones
	TLS      bool   // Cert and Key are used, and ldaps is served too
	Cert     string
	Key      string
	CA       string
}

// Server is one slapd.
type Server struct {
	URL    string
	TLSURL string // with Options.TLS
	Addr   string
	Dir    string

	t    testing.TB
	conf string

	mu      sync.Mutex // held while it is started or ended
	command *exec.Cmd
	done    chan struct{}
}

// Start makes a database and serves it until the test ends.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	program := Program(t, "slapd")
	s := &Server{t: t, Dir: t.TempDir()}
	s.Addr = freeAddr(t)
	s.URL = "ldap://" + s.Addr
	if o.TLS {
		s.TLSURL = "ldaps://" + freeAddr(t)
	}
	s.conf = filepath.Join(s.Dir, "slapd.conf")
	s.must(os.Mkdir(filepath.Join(s.Dir, "db"), 0o700))
	s.must(os.WriteFile(s.conf, []byte(s.config(o)), 0o600))
	if !o.Empty {
		file := o.LDIFFile
		if file == "" {
			file = filepath.Join(s.Dir, "data.ldif")
			s.must(os.WriteFile(file, []byte(Skeleton+o.LDIF), 0o600))
		}
		if out, err := exec.Command(program, "-Ta", "-q", "-f", s.conf, "-l", file).CombinedOutput(); err != nil {
			t.Fatalf("slapadd: %v\n%s", err, out)
		}
	}
	if o.Broken != "" {
		load := exec.Command(program, "-Ta", "-q", "-s", "-f", s.conf)
		load.Stdin = strings.NewReader(o.Broken)
		if out, err := load.CombinedOutput(); err != nil {
			t.Fatalf("slapadd: %v\n%s", err, out)
		}
	}
	s.Run()
	t.Cleanup(s.Kill)
	return s
}

func (s *Server) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// Program finds a program of OpenLDAP. Without it the test is skipped; under CI it fails.
func Program(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/libexec", "/usr/lib/openldap") {
		if path := filepath.Join(dir, name); exec.Command("test", "-x", path).Run() == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is missing: install slapd and ldap-utils", name)
	}
	t.Skipf("%s is missing: install slapd and ldap-utils to run this test", name)
	return ""
}

// SchemaFile is examples/openldap/mailmux.schema.
func SchemaFile(name string) string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "../../examples/openldap", name)
}

func (s *Server) config(o Options) string {
	access := o.Access
	if access == "" {
		access = "access to attrs=userPassword by anonymous auth by * none\naccess to * by dn.exact=\"" + BindDN + "\" write by * none\n"
	}
	tls := ""
	if o.TLS {
		tls = fmt.Sprintf("TLSCertificateFile %s\nTLSCertificateKeyFile %s\n", o.Cert, o.Key)
		if o.CA != "" {
			tls += "TLSCACertificateFile " + o.CA + "\nTLSVerifyClient try\n"
		}
	}
	return fmt.Sprintf(`include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include %[1]s
pidfile %[2]s/slapd.pid
modulepath /usr/lib/ldap
moduleload back_mdb
%[3]s%[4]sdatabase mdb
directory %[2]s/db
maxsize 4294967296
suffix "%[5]s"
rootdn "%[6]s"
rootpw "%[7]s"
index objectClass,uid,mail,mailAlternateAddress,hostServer,oldHostServer,entryUUID,entryCSN eq
%[8]s%[9]s`, SchemaFile("mailmux.schema"), s.Dir, tls, o.Global, Suffix, RootDN, RootPassword, access, o.Database)
}

// Run starts the server again after Stop or Kill, on the same database and port, and waits until it speaks LDAP.
func (s *Server) Run() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done != nil && s.running() {
		return // a supervisor was faster
	}
	for attempt := 0; ; attempt++ {
		err := s.run()
		if err == nil {
			return
		}
		if attempt == 2 {
			s.t.Fatal(err)
		}
	}
}

func (s *Server) run() error {
	log, err := os.OpenFile(filepath.Join(s.Dir, "slapd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.command = exec.Command(Program(s.t, "slapd"), "-d", "0", "-f", s.conf, "-h", strings.TrimSpace(s.URL+" "+s.TLSURL))
	s.command.Stdout, s.command.Stderr = log, log
	s.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.command.Start(); err != nil {
		return fmt.Errorf("start slapd: %w", err)
	}
	s.done = make(chan struct{})
	go wait(s.command, s.done)
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		select {
		case <-s.done:
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("slapd ended: %v\n%s", s.command.ProcessState, text)
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := exec.CommandContext(ctx, "ldapsearch", "-x", "-H", s.URL, "-s", "base", "-b", "", "-LLL", "1.1").Run()
		cancel()
		if err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond) // between two attempts to speak to it
	}
	return fmt.Errorf("slapd at %s did not answer within 20 s", s.URL)
}

func wait(command *exec.Cmd, done chan<- struct{}) {
	_ = command.Wait() // how it ended is told by ProcessState
	close(done)
}

// Supervise starts the server again whenever it dies, as systemd would, until the function it gives is called. That
// function says how often it died: slapd 2.5 crashes now and then when a transaction aborts.
func (s *Server) Supervise() (stop func() (deaths int)) {
	ended, supervised := make(chan struct{}), make(chan int)
	go s.supervise(ended, supervised)
	return func() int { close(ended); return <-supervised }
}

func (s *Server) supervise(ended <-chan struct{}, supervised chan<- int) {
	for deaths := 0; ; deaths++ {
		s.mu.Lock()
		done := s.done
		s.mu.Unlock()
		select {
		case <-ended:
			supervised <- deaths
			return
		case <-done:
			s.Run()
		}
	}
}

// Running says whether the process is there: a test that expects it to survive asks at its end.
func (s *Server) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running()
}

func (s *Server) running() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Stop ends the server in order.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends it at once.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Pause makes it stop in the middle of whatever it does, and Resume lets it go on.
func (s *Server) Pause() {
	s.t.Helper()
	s.must(s.command.Process.Signal(syscall.SIGSTOP))
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.command.Process.Pid))
		s.must(err)
		if strings.Contains(string(stat), ") T ") {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("slapd does not stop: %s", stat)
		}
	}
}

// Resume ends a Pause.
func (s *Server) Resume() { s.must(s.command.Process.Signal(syscall.SIGCONT)) }

func (s *Server) end(signal syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return
	}
	_ = s.command.Process.Signal(syscall.SIGCONT)
	_ = s.command.Process.Signal(signal) // it may have ended meanwhile
	<-s.done
}

// Modify applies LDIF change records as the database's root.
func (s *Server) Modify(ldif string) {
	s.t.Helper()
	if err := s.TryModify(ldif); err != nil {
		s.t.Fatal(err)
	}
}

// TryModify is Modify for a server that may die meanwhile.
func (s *Server) TryModify(ldif string) error {
	if out, err := s.tool(ldif, "ldapmodify"); err != nil {
		return fmt.Errorf("ldapmodify: %w\n%s", err, out)
	}
	return nil
}

// Search gives LDIF of what a filter finds, as the database's root sees it.
func (s *Server) Search(filter string, attributes ...string) string {
	s.t.Helper()
	out, err := s.tool("", "ldapsearch", append([]string{"-LLL", "-o", "ldif-wrap=no", "-b", Suffix, filter}, attributes...)...)
	if err != nil {
		s.t.Fatalf("ldapsearch: %v\n%s", err, out)
	}
	return out
}

func (s *Server) tool(input, name string, args ...string) (string, error) {
	cmd := exec.Command(name, append([]string{"-x", "-H", s.URL, "-D", RootDN, "-w", RootPassword}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	return out.String() + errs.String(), err
}

// freeAddr is an address of this machine that was free a moment ago.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
