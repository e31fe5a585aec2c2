package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startTime bounds the time from starting a server to its first answer. It is generous, because the tests of other
// packages may be running beside.
const startTime = 30 * time.Second

// MissingError says that a program is not installed. Tests skip because of it, except in continuous integration.
type MissingError struct {
	Program string // as one would type it
	Package string // the Debian package that has it
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is not installed; install it with: apt-get install %s", e.Program, e.Package)
}

// Find returns the path of a program, or a *MissingError that names the Debian package which has it. It looks in the
// directories for system programs also when PATH does not name them.
func Find(program, pkg string) (string, error) {
	if p, err := exec.LookPath(program); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/libexec", "/usr/lib/openldap"} {
		if p := filepath.Join(dir, program); executable(p) {
			return p, nil
		}
	}
	return "", &MissingError{Program: program, Package: pkg}
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// Process is a server that runs until Stop.
type Process struct {
	Name string
	Log  string // the file that has its output

	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; read it only after done
	stop sync.Once
}

// Start runs a program in a process group of its own, its output going to the end of the file log. The program ends with
// the test process, should that be killed before it can clean up.
func Start(name, log string, argv ...string) (*Process, error) {
	return StartEnv(name, log, nil, argv...)
}

// StartEnv is Start with variables added to the environment.
func StartEnv(name, log string, env []string, argv ...string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{Name: name, Log: log, cmd: cmd, done: make(chan struct{})}
	go p.wait()
	return p, nil
}

func (p *Process) wait() {
	p.err = p.cmd.Wait()
	close(p.done)
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal to the process alone.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := syscall.Kill(p.PID(), sig); err != nil {
		return fmt.Errorf("send %s to %s: %w", sig, p.Name, err)
	}
	return nil
}

// SignalGroup sends a signal to the process and to what it started.
func (p *Process) SignalGroup(sig syscall.Signal) error {
	if err := syscall.Kill(-p.PID(), sig); err != nil {
		return fmt.Errorf("send %s to the group of %s: %w", sig, p.Name, err)
	}
	return nil
}

// Wait waits for the end of the process and returns its exit code, -1 if a signal ended it.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for the end of %s: %w", p.Name, ctx.Err())
	}
}

// Stop asks the process to end, insists after ten seconds, and waits. It may be called again.
func (p *Process) Stop() {
	p.stop.Do(func() {
		// A process that a test has frozen could not follow the request.
		_ = syscall.Kill(-p.PID(), syscall.SIGCONT)
		_ = syscall.Kill(p.PID(), syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
		}
		// What the process started may outlive it.
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
		<-p.done
	})
}

// Kill ends the process and what it started at once, as a power cut would. None of them holds a port or a socket when it
// returns.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
	<-p.done
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(startTime); groupLives(p.PID()) && time.Now().Before(end); {
		<-tick.C
	}
}

// groupLives says whether any process of a group is left that is more than an exit status (proc(5), /proc/pid/stat).
func groupLives(group int) bool {
	if syscall.Kill(-group, 0) != nil {
		return false
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well formed
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // state ppid pgrp …
		if len(fields) > 2 && fields[2] == strconv.Itoa(group) && fields[0] != "Z" && fields[0] != "X" {
			return true
		}
	}
	return false
}

// Tail returns the last bytes of the process's log.
func (p *Process) Tail(limit int) string { return tail(p.Log, limit) }

func tail(path string, limit int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(b) > limit {
		b = b[len(b)-limit:]
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
	}
	return string(b)
}

// await calls ask until it returns nil, the process ends, or startTime is over. ask speaks to the server.
func (p *Process) await(ask func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		if last = ask(ctx); last == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it answered (%v)\n%s", p.Name, p.err, p.Tail(4000))
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w\n%s", p.Name, errors.Join(ctx.Err(), last), p.Tail(4000))
		case <-tick.C:
		}
	}
}
