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
)

// The exit codes are part of the interface: scripts and cluster managers act on them.
const (
	exitDone    = 0 // all done; nothing to do is done, too
	exitFailed  = 1 // some entries failed, or the run was interrupted
	exitUsage   = 2 // the command line or the configuration is wrong
	exitAway    = 3 // the directory could not be reached, or was lost and did not come back
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
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal lets the batch under way end and be counted; a second one ends the process at once.
	context.AfterFunc(ctx, stop)
	c := console{in: os.Stdin, out: os.Stdout, err: os.Stderr, terminal: isTerminal(os.Stdin) && isTerminal(os.Stderr), width: terminalWidth(os.Stdout)}
	os.Exit(run(ctx, os.Args[1:], c))
}

// run is the whole command, and gives the exit code.
func run(ctx context.Context, args []string, c console) int {
	err := dispatch(ctx, args, c)
	if err == nil {
		return exitDone
	}
	if text := err.Error(); text != "" {
		fmt.Fprintf(c.err, "hostfailover: %s\n", text)
	}
	return codeOf(err)
}

func codeOf(err error) int {
	var e *exit
	switch {
	case errors.As(err, &e):
		return e.code
	case isAway(err):
		return exitAway
	}
	return exitFailed
}
