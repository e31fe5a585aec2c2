package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// daemonProcess is a running mailmux serve with one host.
type daemonProcess struct {
	t       *testing.T
	cmd     *exec.Cmd
	dir     string
	imap    string // where it listens
	log     lockedBuffer
	ended   chan error
	systemd *net.UnixConn // what it tells systemd
}

// lockedBuffer takes the log while the test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const daemonConfig = `hostname: mail.example.com
directory: {servers: ["ldif:accounts.ldif"]}
hosts: {one.example.com: {members: [127.0.0.1], ports: {imap: %s}}}
domains: {default: example.com}
listeners: [{service: imap, address: "%s", allow_plaintext: true}]
limits: {drain_timeout: %s}
admin: {address: "unix:admin.sock"}
`

const daemonAccounts = "dn: mail=ann@example.com,dc=example,dc=com\nobjectClass: mailAccount\nmail: ann@example.com\nhostServer: one.example.com\n"

// startDaemon starts one in front of an IMAP server. change may change the command before it is started.
func startDaemon(t *testing.T, listen, drain string, change func(*daemonProcess)) *daemonProcess {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { serveIMAP(l, "* OK ready") })
	t.Cleanup(func() { l.Close(); serving.Wait() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d := &daemonProcess{t: t, dir: t.TempDir(), ended: make(chan error, 1)}
	d.write("mm.yaml", fmt.Sprintf(daemonConfig, port, listen, drain))
	d.write("accounts.ldif", daemonAccounts)
	d.listenSystemd()
	d.cmd = exec.Command(os.Args[0], "serve", "-config", "mm.yaml")
	d.cmd.Dir, d.cmd.Stderr = d.dir, &d.log
	d.cmd.Env = append(os.Environ(), asMailmux+"=1", "NOTIFY_SOCKET="+filepath.Join(d.dir, "notify"))
	if change != nil {
		change(d)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.ended <- d.cmd.Wait() }()
	t.Cleanup(d.stop)
	d.told("READY=1")
	s, err := statusOf(filepath.Join(d.dir, "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	d.imap = s.Listeners[0].Address
	return d
}

func (d *daemonProcess) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// listenSystemd takes systemd's part.
func (d *daemonProcess) listenSystemd() {
	d.t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(d.dir, "notify"), Net: "unixgram"})
	if err != nil {
		d.t.Fatal(err)
	}
	d.systemd = c
	d.t.Cleanup(func() { c.Close() })
}

// told waits for a message to systemd that begins with a line, and returns it. Others before it are skipped.
func (d *daemonProcess) told(line string) string {
	d.t.Helper()
	buf := make([]byte, 4096)
	if err := d.systemd.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		d.t.Fatal(err)
	}
	for {
		n, err := d.systemd.Read(buf)
		if err != nil {
			d.t.Fatalf("systemd was not told %s: %v\n%s", line, err, &d.log)
		}
		if message := string(buf[:n]); strings.HasPrefix(message, line) {
			return message
		}
	}
}

// stop ends a daemon that its test has left running.
func (d *daemonProcess) stop() {
	if d.cmd.ProcessState == nil {
		_ = d.cmd.Process.Kill() // it may have ended meanwhile
		<-d.ended
	}
	if d.t.Failed() {
		d.t.Logf("log:\n%s", &d.log)
	}
}

func (d *daemonProcess) signal(s os.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// wait waits for the end, and gives back how long that took.
func (d *daemonProcess) wait() time.Duration {
	d.t.Helper()
	began := time.Now()
	select {
	case err := <-d.ended:
		d.ended <- err
		if err != nil {
			d.t.Errorf("ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		d.t.Fatal("does not end")
	}
	return time.Since(began)
}

// login opens a session, and checks that it goes through.
func (d *daemonProcess) login() *session {
	d.t.Helper()
	c, err := net.Dial("tcp", d.imap)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	s := &session{d.t, c, bufio.NewReader(c)}
	s.read("* OK")
	s.say("a LOGIN ann sesame", "a OK")
	return s
}

// session is a client's session.
type session struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func (s *session) say(line, answer string) {
	s.t.Helper()
	if _, err := s.c.Write([]byte(line + "\r\n")); err != nil {
		s.t.Fatal(err)
	}
	s.read(answer)
}

func (s *session) read(answer string) {
	s.t.Helper()
	if err := s.c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	if line, err := s.r.ReadString('\n'); err != nil || !strings.HasPrefix(line, answer) {
		s.t.Fatalf("read %q (%v), want %s", line, err, answer)
	}
}

// TestTerm wants a session to be served to its end after SIGTERM, and the process to end with the last one.
func TestTerm(t *testing.T) {
	d := startDaemon(t, "127.0.0.1:0", "10s", nil)
	s := d.login()
	d.signal(syscall.SIGTERM)
	if message := d.told("STOPPING=1"); !strings.Contains(message, "STATUS=ending, at most 10s") {
		t.Errorf("systemd is told %q", message)
	}
	s.say("b NOOP", "b OK")
	for began := time.Now(); ; { // systemd may hear of it a moment before the listeners are closed
		c, err := net.Dial("tcp", d.imap)
		if err != nil {
			break
		}
		c.Close()
		if time.Since(began) > 5*time.Second {
			t.Fatal("new clients are taken while ending")
		}
	}
	d.signal(syscall.SIGHUP) // harmless by now
	s.say("c LOGOUT", "c OK")
	s.c.Close()
	d.wait()
	if log := d.log.String(); !strings.Contains(log, "not reloaded: ending") || !strings.Contains(log, "sessions_closed=0") {
		t.Errorf("log:\n%s", log)
	}
}

// TestDeadline wants sessions to be closed when drain_timeout is over.
func TestDeadline(t *testing.T) {
	d := startDaemon(t, "127.0.0.1:0", "200ms", nil)
	s := d.login()
	d.signal(syscall.SIGTERM)
	if took := d.wait(); took < 100*time.Millisecond {
		t.Errorf("ended after %s, the session had 200ms", took)
	}
	if _, err := s.r.ReadByte(); err == nil {
		t.Error("the session is still open")
	}
	if !strings.Contains(d.log.String(), "sessions_closed=1") {
		t.Errorf("log:\n%s", &d.log)
	}
}

// TestSecondSignal wants it to end the process at once.
func TestSecondSignal(t *testing.T) {
	d := startDaemon(t, "127.0.0.1:0", "1h", nil)
	d.login()
	d.signal(syscall.SIGTERM)
	d.told("STOPPING=1")
	d.signal(syscall.SIGINT)
	d.wait()
	if !strings.Contains(d.log.String(), `msg="ending at once" signal=interrupt`) {
		t.Errorf("log:\n%s", &d.log)
	}
}

// TestHup wants systemd to see when a reload begins and ends, sessions to live on, and a faulty file to change nothing.
func TestHup(t *testing.T) {
	d := startDaemon(t, "127.0.0.1:0", "1s", nil)
	s := d.login()
	d.signal(syscall.SIGHUP)
	if message := d.told("RELOADING=1"); !strings.Contains(message, "\nMONOTONIC_USEC=") {
		t.Errorf("systemd is told %q", message)
	}
	if message := d.told("READY=1"); !strings.Contains(message, "STATUS=serving, 1 host") {
		t.Errorf("systemd is told %q", message)
	}
	s.say("b NOOP", "b OK")

	text, err := os.ReadFile(filepath.Join(d.dir, "mm.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	d.write("mm.yaml", "nonsense: true\n"+string(text))
	d.signal(syscall.SIGHUP)
	d.told("RELOADING=1")
	if message := d.told("READY=1"); !strings.Contains(message, "the old configuration is in use") {
		t.Errorf("systemd is told %q", message)
	}
	s.say("c NOOP", "c OK")
	d.write("mm.yaml", strings.Replace(string(text), "hosts:", "log: {level: debug}\nhosts:", 1))
	d.signal(syscall.SIGHUP)
	d.told("READY=1")
	if !strings.Contains(d.log.String(), "unknown key") {
		t.Errorf("log:\n%s", &d.log)
	}
	s.say("d NOOP", "d OK")
}

// TestReloadNarrower wants a listener that is to keep one of its addresses only to go on as it is, and to say why.
func TestReloadNarrower(t *testing.T) {
	d := startDaemon(t, ":0", "1s", nil)
	_, port, err := net.SplitHostPort(d.imap)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(d.dir, "mm.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	d.write("mm.yaml", strings.Replace(string(text), `":0"`, `"127.0.0.1:`+port+`"`, 1))
	d.signal(syscall.SIGHUP)
	d.told("RELOADING=1")
	d.told("READY=1")
	if want := "; this frontend itself listens at [::]:" + port + " until it is restarted"; !strings.Contains(d.log.String(), want) {
		t.Errorf("log has no %q:\n%s", want, &d.log)
	}
	d.login()
}

// TestWatchdog wants systemd to be told that the process is alive, twice in each interval.
func TestWatchdog(t *testing.T) {
	d := startDaemon(t, "127.0.0.1:0", "1s", func(d *daemonProcess) {
		d.cmd.Env = append(d.cmd.Env, "WATCHDOG_USEC=200000")
	})
	for range 3 {
		d.told("WATCHDOG=1")
	}
}

// TestSocketActivation wants a socket that systemd holds to be used instead of a new one.
func TestSocketActivation(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	address := l.Addr().String()
	// The address is taken, so a daemon that does not use the socket could not start.
	d := startDaemon(t, address, "1s", func(d *daemonProcess) {
		d.cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, os.Args[0]}, d.cmd.Args[1:]...)
		d.cmd.Path = "/bin/sh"
		d.cmd.Env = append(d.cmd.Env, "LISTEN_FDS=1")
		d.cmd.ExtraFiles = []*os.File{file}
	})
	if d.imap != address {
		t.Errorf("listens at %s, want %s", d.imap, address)
	}
	d.login()
	d.signal(syscall.SIGHUP) // the socket stays
	d.told("READY=1")
	d.login()
}

// TestStraySocket wants a socket of systemd's that no listener has to be told of: clients that come there hang.
func TestStraySocket(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	d := startDaemon(t, "127.0.0.1:0", "1s", func(d *daemonProcess) {
		d.cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, os.Args[0]}, d.cmd.Args[1:]...)
		d.cmd.Path = "/bin/sh"
		d.cmd.Env = append(d.cmd.Env, "LISTEN_FDS=1")
		d.cmd.ExtraFiles = []*os.File{file}
	})
	d.login()
	if !strings.Contains(d.log.String(), "no listener has this socket from systemd") || !strings.Contains(d.log.String(), "address="+l.Addr().String()) {
		t.Errorf("log:\n%s", &d.log)
	}
}

// TestBusyAddress wants a start that cannot be to say which address, and what to do about low ports to be known.
func TestBusyAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	for name, text := range map[string]string{"mm.yaml": fmt.Sprintf(daemonConfig, "143", l.Addr(), "1s"), "accounts.ldif": daemonAccounts} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0], "serve", "-config", "mm.yaml")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), asMailmux+"=1")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != exitFailed {
		t.Errorf("ended with %v", err)
	}
	want := fmt.Sprintf("mm.yaml:5: listeners[0].address: listen tcp %s: bind: address already in use; another program listens there: "+
		"ss -ltnp tells which\n", l.Addr())
	if !strings.Contains(string(out), want) {
		t.Errorf("said %s, want %s", out, want)
	}
}

// TestLogThatNobodyReads fills the pipe that the log goes into: sessions begin, go on and end all the same, and so does
// the process.
func TestLogThatNobodyReads(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, "127.0.0.1:0", "10s", func(d *daemonProcess) { d.cmd.Stderr = w })
	w.Close()
	first := d.login()
	for range 50 {
		s := d.login()
		s.say("z LOGOUT", "z OK")
		s.c.Close()
	}
	first.say("z LOGOUT", "z OK")
	first.c.Close()
	d.signal(syscall.SIGTERM)
	if took := d.wait(); took > lastLines+5*time.Second {
		t.Errorf("ended after %s", took)
	}
	lines, err := io.ReadAll(r)
	if err != nil || len(lines) < 2048 {
		t.Errorf("%d bytes were in the pipe, %v: it was not full", len(lines), err)
	}
}
