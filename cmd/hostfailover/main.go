// Command hostfailover points mail accounts at another home host when a server's storage is reassigned, and back again.
// See package failover for how, and hostfailover -h for what can be said to it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"mailmux/directory"
)

// The exit codes are part of the interface: scripts and cluster managers act on them.
const (
	exitDone    = 0 // all done; nothing to do is done, too
	exitFailed  = 1 // some entries failed, or the run was interrupted
	exitUsage   = 2 // the command line or the configuration is wrong
	exitAway    = 3 // the directory could not be reached or takes no changes, or was lost and did not come back
	exitRefused = 4 // a safety check refused the run; nothing was changed
)

// exit is an error with its exit code.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string { return e.err.Error() }
func (e *exit) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &exit{exitUsage, fmt.Errorf(format, args...)}
}
func refused(format string, args ...any) error {
	return &exit{exitRefused, fmt.Errorf(format, args...)}
}

// console is where a command reads and writes, so that tests can be the operator.
type console struct {
	in       io.Reader
	out, err io.Writer
	terminal bool // err is one, and in is one
	width    int  // of out in columns, 0 when it is no terminal
	errWidth int  // of err
}

func main() {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	// The first signal lets the batch under way end and be counted; a second one ends the process at once.
	context.AfterFunc(ctx, stop)
	c := console{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, terminal: isTerminal(os.Stdin) && isTerminal(os.Stderr),
		width: terminalWidth(os.Stdout), errWidth: terminalWidth(os.Stderr),
	}
	os.Exit(run(ctx, os.Args[1:], c))
}

// run is the whole command, and gives the exit code.
func run(ctx context.Context, args []string, c console) int {
	err := dispatch(ctx, args, c)
	var known *exit
	switch {
	case err == nil:
		return exitDone
	case ctx.Err() != nil && !errors.As(err, &known): // such as a connection that was cut for it
		err = interrupted()
	}
	if text := err.Error(); text != "" {
		fmt.Fprintf(c.err, "hostfailover: %s\n", text)
	}
	return codeOf(err)
}

func interrupted() error {
	return &exit{exitFailed, errors.New("interrupted: run the same command again to complete it")}
}

func codeOf(err error) int {
	var e *exit
	switch {
	case errors.As(err, &e):
		return e.code
	case isAway(err):
		return exitAway
	case errors.Is(err, directory.ErrNoBase):
		return exitUsage
	}
	return exitFailed
}
