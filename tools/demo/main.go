// Command demo shows mailmux and hostfailover at work, and needs nothing installed:
//
//	go run ./tools/demo
//
// It builds both programs, starts an LDAP directory and two mail servers of its own (packages tools/embedded/ldapd and
// mailstore), and runs mailmux in front of them as its own process, all on free ports of the loopback interface. Then it
// plays a day: two accounts log in and land on two servers, one writes to the other, a server fails, its disk is moved,
// hostfailover points its accounts at the other server, and back. What goes over the wire is shown as it is.
//
// The files: main.go (the process), screen.go (what is printed), world.go (servers, directory, configuration), client.go
// (a client that shows what it says and hears), story.go (the steps).
//
// On a terminal it stays up at the end, for you to try; Enter or Ctrl-C ends it. Exit codes: 0 all went as it must, 1
// something did not, or it was interrupted before the end, 2 usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"
)

// limit ends a story that hangs. The build before it takes as long as it takes: minutes, where nothing was ever built.
const limit = 3 * time.Minute

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// options are the command line and what the terminal can do.
type options struct {
	stay  bool
	color bool
	width int
}

// run parses the flags, runs the demo and returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	o := terminal(stdout)
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.stay, "stay", o.stay, "stay up at the end until Enter or Ctrl-C (default: on a terminal)")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintln(stderr, "demo: it takes no arguments; see -h for its flags")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := play(ctx, newScreen(stdout, o), o.stay)
	switch {
	case err != nil && ctx.Err() != nil:
		fmt.Fprintln(stderr, "\ndemo: interrupted; everything is stopped and removed")
		return 1
	case err != nil:
		fmt.Fprintln(stderr, "\ndemo:", err)
		return 1
	case o.stay:
		fmt.Fprintln(stdout, "\nEnded; everything is stopped and removed.")
	}
	return 0
}

// terminal looks at what the output is.
func terminal(stdout io.Writer) options {
	o := options{width: defaultWidth}
	file, ok := stdout.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return o
	}
	o.stay = term.IsTerminal(int(os.Stdin.Fd()))
	_, noColor := os.LookupEnv("NO_COLOR") // https://no-color.org
	o.color = !noColor && os.Getenv("TERM") != "dumb"
	if width, _, err := term.GetSize(int(file.Fd())); err == nil && width > 40 {
		o.width = min(width, maxWidth)
	}
	return o
}

// play sets up the world, tells the story in it, and takes everything down again.
func play(ctx context.Context, s *screen, stay bool) (err error) {
	begin := time.Now()
	w, err := newWorld(s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := buildPrograms(ctx, w); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the demo took longer than %v", limit))
	defer cancel()
	for _, step := range story {
		if err := step(bounded, w); err != nil {
			return w.explain(errors.Join(err, context.Cause(bounded)))
		}
	}
	s.title("Done in %.1f seconds", time.Since(begin).Seconds())
	if !stay {
		return nil
	}
	return w.invite(ctx)
}
