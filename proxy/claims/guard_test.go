package claims

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mailmux/proxy/splice"
)

// roleKey is the variable by which the test program knows that it is to be another process.
const roleKey = "MAILMUX_GUARD_TEST"

// The roles: a frontend that stops itself, with a guard that may do what it has to, or may not.
const (
	roleFrontend = "frontend"
	roleGuard    = "guard"
)

func TestMain(m *testing.M) {
	role, how, _ := strings.Cut(os.Getenv(roleKey), " ")
	var err error
	switch role {
	case roleFrontend:
		err = beStopped(how)
	case roleGuard:
		err = beGuard(how)
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// beGuard guards the process whose id is the last argument. "denied" is a kernel that does not let it have descriptors.
func beGuard(how string) error {
	pid, err := strconv.Atoi(os.Args[len(os.Args)-1])
	if err != nil {
		return err
	}
	if how == "denied" {
		return guardBy(pid, func(int, int, int) (int, error) { return -1, unix.EPERM })
	}
	return Guard(pid)
}

// lines are a slog handler's output, for a process that tells its parent.
type lines struct{}

func (lines) Write(p []byte) (int, error) { return os.Stdout.Write(p) }

// beStopped connects to a member, starts a guard, and is stopped behind its deadline when the guard runs. When it goes on
// it says so.
func beStopped(how string) error {
	if err := os.Setenv(roleKey, roleGuard+" "+how); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	conn, err := net.Dial("tcp", os.Args[len(os.Args)-1])
	if err != nil {
		return err
	}
	defer conn.Close()
	g, err := startGuard([]string{self}, 100*time.Millisecond, slog.New(slog.NewTextHandler(lines{}, nil)))
	if err != nil {
		return err
	}
	defer g.close()
	if line, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil || line != "arm\n" {
		return fmt.Errorf("told %q, %w", line, err)
	}
	g.arm(splice.Clock() + 200*time.Millisecond)
	if err := unix.Kill(os.Getpid(), unix.SIGSTOP); err != nil {
		return err
	}
	fmt.Println("going on")
	return nil
}

// A guard that may not reach into a stopped process kills it: the member sees the end of the connection all the same. One
// that may has no reason to, and leaves connections alone that are under no claim.
func TestGuardKillsWhatItCannotReach(t *testing.T) {
	for _, test := range []struct {
		how, says string
		killed    bool
	}{{"denied", "is killed", true}, {"allowed", "sessions are shut down", false}} {
		t.Run(test.how, func(t *testing.T) {
			p := startStopped(t, test.how)
			switch can := strings.Contains(p.said, test.says); {
			case !can && test.killed:
				t.Fatalf("the guard says: %s", p.said)
			case !can:
				t.Skipf("the guard is not able to do more here: %s", p.said)
			}
			fmt.Fprintln(p.in, "arm")
			ended := make(chan error, 1)
			go func() {
				_, err := p.member.Read(make([]byte, 1))
				ended <- err
			}()
			if !test.killed {
				until(t, "the process is stopped", func() bool { return processState(t, p.cmd.Process.Pid) == "T" })
				select {
				case err := <-ended:
					t.Fatalf("a connection without a claim was ended: %v", err)
				case <-time.After(time.Second): // the guard has looked several times
				}
				if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Fatal("the connection to the member is still there")
			}
			err := p.cmd.Wait()
			status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
			if killed := status.Signaled() && status.Signal() == syscall.SIGKILL; killed != test.killed {
				t.Errorf("the process ended with %v", err)
			}
		})
	}
}

// processState is the letter for it in proc_pid_stat(5).
func processState(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ") // the name of the program is before it
	return rest[:1]
}

// stopped is a process in the role of a frontend, and the member's end of its connection.
type stopped struct {
	cmd    *exec.Cmd
	in     interface{ Write([]byte) (int, error) }
	member net.Conn
	said   string // by its guard
}

// startStopped starts one, and waits until its guard has spoken.
func startStopped(t *testing.T, how string) *stopped {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &stopped{cmd: exec.Command(os.Args[0], l.Addr().String())}
	p.cmd.Env = append(os.Environ(), roleKey+"="+roleFrontend+" "+how)
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it has ended, if all is well
		_ = p.cmd.Wait()
	})
	if p.member, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.member.Close() })
	if p.said, err = bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the guard says nothing: %q, %v", p.said, err)
	}
	return p
}
