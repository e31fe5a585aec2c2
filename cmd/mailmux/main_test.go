package main

import (
	"bufio"
	"flag"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"mailmux/proxy/admin"
)

// asMailmux in the environment makes the test binary be mailmux.
const asMailmux = "MAILMUX_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMailmux) != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	testscript.Main(m, map[string]func(){
		"mailmux": func() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// TestTranscripts runs the command transcripts of testdata: the command, its output, its exit code.
func TestTranscripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"member": memberCommand,
			"code":   codeCommand,
			"await":  awaitCommand,
			"signal": signalCommand,
			"login":  loginCommand,
			"expand": expandCommand,
			"left":   leftCommand,
			"bring":  bringCommand,
		},
	})
}

// TestManual wants every command and flag in the manual page, and nothing that man(7) takes for requests.
func TestManual(t *testing.T) {
	var b strings.Builder
	manual(&b)
	page := b.String()
	for _, c := range commands() {
		inv := &invocation{command: &c}
		inv.flagSet()
		inv.flags.VisitAll(func(f *flag.Flag) {
			if !strings.Contains(page, ".SS "+c.name+"\n") || !strings.Contains(page, roff("-"+f.Name)) {
				t.Errorf("-%s of %s is missing", f.Name, c.name)
			}
		})
	}
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "'") || strings.HasPrefix(line, ".") && !regexp.MustCompile(`^\.(TH|SH|SS|PP|TP|B|I|br|nf|fi)\b`).MatchString(line) {
			t.Errorf("man(7) would take this for a request: %s", line)
		}
	}
}

// memberCommand starts an IMAP server, and sets a variable to its port: member PORT. With a second word it greets so.
func memberCommand(ts *testscript.TestScript, _ bool, args []string) {
	greeting := "* OK ready"
	if len(args) > 1 {
		greeting = args[1]
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	var serving sync.WaitGroup
	serving.Go(func() { serveIMAP(l, greeting) })
	ts.Defer(func() { l.Close(); serving.Wait() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Setenv(args[0], port)
}

// serveIMAP answers OK to everything until the listener closes.
func serveIMAP(l net.Listener, greeting string) {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		sessions.Go(func() { answerIMAP(c, greeting) })
	}
}

func answerIMAP(c net.Conn, greeting string) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute)) // so that a test that hangs ends
	_, _ = c.Write([]byte(greeting + "\r\n"))
	for lines := bufio.NewScanner(c); lines.Scan(); {
		tag, command, _ := strings.Cut(lines.Text(), " ")
		reply := tag + " OK done\r\n"
		if strings.HasPrefix(command, "CAPABILITY") {
			reply = "* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n" + reply
		}
		if _, err := c.Write([]byte(reply)); err != nil || command == "LOGOUT" {
			return
		}
	}
}

// codeCommand runs a command and wants an exit code: code 2 mailmux check.
func codeCommand(ts *testscript.TestScript, _ bool, args []string) {
	want := args[0]
	got := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%s: %v", args[1], err)
		}
		got = strings.TrimPrefix(exit.ProcessState.String(), "exit status ")
	}
	if got != want {
		ts.Fatalf("exit code %s, want %s", got, want)
	}
}

// awaitCommand waits until the frontend of a socket answers: await admin.sock.
func awaitCommand(ts *testscript.TestScript, _ bool, args []string) {
	s, err := statusOf(ts.MkAbs(args[0]))
	ts.Check(err)
	for _, l := range s.Listeners {
		ts.Setenv(strings.ToUpper(l.Service), l.Address)
	}
}

// signalCommand sends a signal to the frontend of a socket: signal HUP admin.sock.
func signalCommand(ts *testscript.TestScript, _ bool, args []string) {
	s, err := statusOf(ts.MkAbs(args[1]))
	ts.Check(err)
	signals := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM}
	ts.Check(syscall.Kill(s.PID, signals[args[0]]))
}

// leftCommand waits until a frontend has no session: left admin.sock.
func leftCommand(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		s, err := statusOf(ts.MkAbs(args[0]))
		ts.Check(err)
		if s.Sessions.Open == 0 {
			return
		}
	}
	ts.Fatalf("the sessions do not end")
}

// loginCommand opens an IMAP session that stays until the end of the script: login ADDRESS USER.
func loginCommand(ts *testscript.TestScript, _ bool, args []string) {
	c, err := net.Dial("tcp", args[0])
	ts.Check(err)
	ts.Defer(func() { c.Close() })
	ts.Check(c.SetDeadline(time.Now().Add(10 * time.Second)))
	lines := bufio.NewScanner(c)
	lines.Scan()
	_, err = c.Write([]byte("a LOGIN " + args[1] + " sesame\r\n"))
	ts.Check(err)
	if lines.Scan(); !strings.HasPrefix(lines.Text(), "a OK") {
		ts.Fatalf("login of %s: %q", args[1], lines.Text())
	}
}

// statusOf waits until a frontend answers at a socket, and asks it for its status.
func statusOf(socket string) (admin.Status, error) {
	inv := &invocation{socket: socket}
	var s admin.Status
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		var d *door
		if d, err = inv.door(); err != nil {
			return s, err
		}
		if err = d.ask("/status", nil, &s); err == nil {
			return s, nil
		}
	}
	return s, err
}

// expandCommand puts the variables into a file: expand FILE.
func expandCommand(ts *testscript.TestScript, _ bool, args []string) {
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}
