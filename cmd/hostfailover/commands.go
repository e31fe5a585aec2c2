package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// command is one of the words behind hostfailover. Help, the man page and the completions are made from this table.
type command struct {
	name    string
	args    string // as in the usage line
	short   string // one line
	long    string // paragraphs
	groups  []group
	own     group // flags of this command alone
	operand bool  // takes one argument
	run     func(ctx context.Context, o *options, operand string, c console) error
}

// commands is made by a function because help is one of them and prints them all.
func commands() []command {
	return []command{
		{
			name: "status", short: "count the accounts by home host and original home host",
			long: "Reads the directory and changes nothing.",
			groups: []group{directoryFlags, {"Which accounts", func(o *options, f *flag.FlagSet) {
				f.StringVar(&o.filter, "filter", "", "only entries that match this LDAP `FILTER` too")
				f.StringVar(&o.domain, "domain", "", "only accounts of this `DOMAIN`")
			}}},
			own: group{"Output", func(o *options, f *flag.FlagSet) { f.BoolVar(&o.json, "json", false, "write JSON") }},
			run: runStatus,
		},
		{
			name: "move", args: "-from HOST -to HOST[=WEIGHT],… [-apply]", short: "point the accounts of a host at another one",
			long: `Changes hostServer of every account on -from to -to, and keeps the original home host in oldHostServer, over any number of moves. Several targets share the accounts by weight; the same account always goes to the same target. An account that comes back to its original home host loses oldHostServer.

Nothing is changed without -apply. Each change is a compare-and-set in the directory: an entry that somebody else changes at the same time is left alone and reported. A run that was interrupted is completed by running it again.`,
			groups: []group{directoryFlags, selectionFlags, runFlags, targetFlags, frontendFlags},
			own: group{"What", func(o *options, f *flag.FlagSet) {
				f.StringVar(&o.from, "from", "", "the `HOST` that the accounts are on")
				f.StringVar(&o.original, "original", "", "instead of -from, or besides: the original home `HOST` of the accounts")
				f.StringVar(&o.to, "to", "", "the `HOST` they are to be on; HOST=WEIGHT,HOST=WEIGHT shares them")
			}},
			run: runMove,
		},
		{
			name: "restore", args: "-host HOST [-from HOST] [-apply]", short: "bring the accounts home whose original host is back",
			long:   "Changes hostServer of every account whose oldHostServer is -host back to it, wherever it is now, and removes oldHostServer.",
			groups: []group{directoryFlags, selectionFlags, runFlags, targetFlags, frontendFlags},
			own: group{"What", func(o *options, f *flag.FlagSet) {
				f.StringVar(&o.host, "host", "", "the original home `HOST`")
				f.StringVar(&o.from, "from", "", "only accounts that are on this `HOST` now")
			}},
			run: runRestore,
		},
		{
			name: "undo", args: "-journal FILE [-apply]", short: "revert what a run did",
			long:   "Reverts the changes in a journal, last one first, each by compare-and-set: what was changed again since is left alone and reported. The undoing run writes a journal of its own, FILE.undo-TIME.",
			groups: []group{directoryFlags, undoFlags, frontendFlags},
			own: group{"What", func(o *options, f *flag.FlagSet) {
				f.StringVar(&o.journal, "journal", "", "revert the changes in this `FILE`")
				f.StringVar(&o.run, "run", "", "only the run with this `ID`, when the journal has several")
			}},
			run: runUndo,
		},
		{
			name: "verify", short: "look for accounts that no frontend can serve",
			long:   "Finds entries without a home host, with several, with one that is not in the host table, and with an original home host that is not. Exits with 1 when there are any.",
			groups: []group{directoryFlags},
			own:    group{"Output", func(o *options, f *flag.FlagSet) { f.BoolVar(&o.json, "json", false, "write JSON") }},
			run:    runVerify,
		},
		{
			name: "journal", args: "show FILE", short: "print the runs and the changes in a journal",
			own:     group{"Output", func(o *options, f *flag.FlagSet) { f.BoolVar(&o.verbose, "v", false, "print every change") }},
			operand: true, run: runJournal,
		},
		{
			name: "completion", args: "bash|zsh|fish", short: "print a completion script for a shell",
			operand: true, run: runCompletion,
		},
		{
			name: "help", args: "[COMMAND]", short: "explain a command; -man prints the manual page",
			own:     group{"Output", func(o *options, f *flag.FlagSet) { f.BoolVar(&o.man, "man", false, "print the manual page in roff") }},
			operand: true, run: runHelp,
		},
	}
}

func lookup(name string) *command {
	for _, c := range commands() {
		if c.name == name {
			return &c
		}
	}
	return nil
}

// flags makes the flag set of a command.
func (c *command) flags(o *options) *flag.FlagSet {
	f := flag.NewFlagSet(c.name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	for _, g := range append([]group{c.own}, c.groups...) {
		if g.register != nil {
			g.register(o, f)
		}
	}
	return f
}

// dispatch finds the command and reads its flags.
func dispatch(ctx context.Context, args []string, con console) error {
	if len(args) == 0 {
		fmt.Fprint(con.err, overview(con.column()))
		return &exit{exitUsage, errors.New("")}
	}
	switch args[0] {
	case "-h", "-help", "--help":
		fmt.Fprint(con.out, overview(con.column()))
		return nil
	}
	c := lookup(args[0])
	if c == nil {
		return usage("%q is no command: there are %s", args[0], strings.Join(names(), ", "))
	}
	o := &options{}
	f := c.flags(o)
	rest := args[1:]
	if c.name == "journal" && len(rest) > 0 && rest[0] == "show" {
		rest = rest[1:]
	}
	operand, err := "", f.Parse(rest)
	if err == nil && c.operand && f.NArg() > 0 {
		operand, err = f.Arg(0), f.Parse(f.Args()[1:]) // flags may follow it
	}
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(con.out, c.help(con.column()))
		return nil
	} else if err != nil {
		return usage("%s: %w; hostfailover %s -h explains", c.name, err, c.name)
	}
	if f.NArg() > 0 {
		return usage("%s: %q is one argument too many; hostfailover %s -h explains", c.name, f.Arg(f.NArg()-1), c.name)
	}
	return c.run(ctx, o, operand, con)
}

func names() []string {
	var all []string
	for _, c := range commands() {
		all = append(all, c.name)
	}
	return all
}
