package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"mailmux/cmd/internal/conf"
)

// Exit codes, as mailmux help tells them.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitNobody  = 3
	exitNoEntry = 4
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// invocation is one call of the program.
type invocation struct {
	command *command
	args    []string // those that are no flags
	out     io.Writer
	err     io.Writer

	config string
	socket string
	json   bool
	flags  *flag.FlagSet
}

// run finds the command, parses its flags and runs it.
func run(args []string, out, err io.Writer) int {
	if len(args) == 0 {
		overview(err)
		return exitUsage
	}
	name := args[0]
	switch name {
	case "help", "-h", "-help", "--help":
		return help(args[1:], out, err)
	case guardCommand:
		return guard(args[1:], err)
	case "-version", "--version":
		name = "version"
	}
	for _, c := range commands() {
		if c.name != name {
			continue
		}
		inv := &invocation{command: &c, out: out, err: err}
		if code, ok := inv.parse(args[1:]); !ok {
			return code
		}
		return c.run(inv)
	}
	fmt.Fprintf(err, "mailmux: there is no command %q; mailmux help lists them\n", name)
	return exitUsage
}

// parse reads flags before, between and behind the arguments. It says false when the call ends here, with its code.
func (inv *invocation) parse(args []string) (code int, ok bool) {
	inv.flagSet()
	for {
		if err := inv.flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			inv.command.help(inv.out)
			return exitDone, false
		} else if err != nil {
			return inv.usage(err.Error()), false
		}
		if inv.flags.NArg() == 0 {
			break
		}
		inv.args = append(inv.args, inv.flags.Arg(0))
		args = inv.flags.Args()[1:]
	}
	switch n := len(inv.args); {
	case n < inv.command.least:
		return inv.usage("say " + inv.command.what), false
	case n > inv.command.most:
		return inv.usage(fmt.Sprintf("what is %q?", strings.Join(inv.args[inv.command.most:], " "))), false
	}
	return exitDone, true
}

// flagSet makes the flags of the command.
func (inv *invocation) flagSet() {
	inv.flags = flag.NewFlagSet(inv.command.name, flag.ContinueOnError)
	inv.flags.SetOutput(io.Discard)
	inv.flags.StringVar(&inv.config, "config", conf.DefaultPath, "the configuration `file`")
	if inv.command.remote {
		inv.flags.StringVar(&inv.socket, "socket", "", "the admin socket's `path`, when it is not the one in the configuration")
		inv.flags.BoolVar(&inv.json, "json", false, "print JSON")
	}
	if inv.command.flags != nil {
		inv.command.flags(inv.flags)
	}
}

// usage reports a call that makes no sense.
func (inv *invocation) usage(text string) int {
	fmt.Fprintf(inv.err, "mailmux %s: %s\nmailmux help %s tells more\n", inv.command.name, text, inv.command.name)
	return exitUsage
}

// fail reports what did not work.
func (inv *invocation) fail(err error) int {
	fmt.Fprintf(inv.err, "mailmux %s: %v\n", inv.command.name, err)
	return exitFailed
}

// load reads the configuration, and reports its faults. It says false when there are some. The warnings are for the
// caller to tell.
func (inv *invocation) load() (*conf.Config, bool) {
	cfg, err := conf.Load(inv.config)
	if err == nil {
		return cfg, true
	}
	fmt.Fprintln(inv.err, err)
	var faults conf.Faults
	if errors.As(err, &faults) && len(faults) > 1 {
		fmt.Fprintf(inv.err, "%d faults; nothing was started\n", len(faults))
	}
	return cfg, false
}

// warn tells the warnings of a configuration.
func (inv *invocation) warn(cfg *conf.Config) {
	for _, w := range cfg.Warnings {
		fmt.Fprintf(inv.err, "warning: %v\n", w)
	}
}

// text is a flag's value.
func (inv *invocation) text(name string) string { return inv.flags.Lookup(name).Value.String() }

// is says whether a flag is set.
func (inv *invocation) is(name string) bool { return inv.text(name) == "true" }
