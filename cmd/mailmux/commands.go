package main

import (
	"flag"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
)

// command is one verb of the program.
type command struct {
	name    string
	args    string // for the usage line
	summary string
	long    string
	least   int // arguments
	most    int
	what    string // the argument that is missing
	remote  bool   // speaks to the running frontend
	flags   func(*flag.FlagSet)
	run     func(*invocation) int
}

// commands lists every verb, in the order of the overview.
func commands() []command {
	return []command{
		{name: "serve", summary: "run in the foreground", run: serve, long: `
Listens, says so to systemd, and relays sessions. SIGTERM and SIGINT end it: it stops listening, gives sessions
limits.drain_timeout to end, and closes the rest; a second one ends it at once. SIGHUP reads the configuration, the
certificates and the secrets again; sessions live on, and with a fault in it the old configuration stays in use.
It logs to the standard error stream. It drops no privileges: let systemd start it as a user of its own, with
AmbientCapabilities=CAP_NET_BIND_SERVICE or with sockets from socket units.`},
		{name: "check", summary: "look the configuration over", run: check, flags: func(f *flag.FlagSet) {
			f.Bool("online", false, "also ask every directory server, etcd, and every member of every host")
		}, long: `
Reports every fault at once, each with its line, its key and what to do. With -online it binds to and searches every
directory server, asks etcd whether it may read and write the claims, and greets every member of every host by each
service that a listener has, with TLS where configured.`},
		{name: "lookup", args: "NAME", summary: "show where an account goes, and why", run: lookup, remote: true, least: 1, most: 1,
			what: "the login name or address to look up", long: `
Shows each step for a login name as a client would type it: the normalised name, the filter, the entry and its
attributes, what is remembered and for how long, the home host, its members with their state, and which one a session
would get. Asks the running frontend if there is one, which knows what is remembered and how the members are; else the
directory is asked from here.`},
		{name: "status", summary: "show the state of the frontend, its hosts and its directory", run: status, remote: true},
		{name: "who", args: "[ACCOUNT]", summary: "list sessions", run: who, remote: true, most: 1, flags: filterFlags},
		{name: "kick", args: "[ACCOUNT]", summary: "end sessions", run: kick, remote: true, most: 1, flags: filterFlags, long: `
Ends the sessions that match all that is given. Clients usually come back at once; withdraw a member or change the
account first if they are to come back elsewhere.`},
		{name: "withdraw", args: "TARGET", summary: "take a member, a host or this frontend out of service", run: withdraw, remote: true,
			least: 1, most: 1, what: "what to withdraw: a member, a host, host/member, or self", flags: func(f *flag.FlagSet) {
				f.Bool("evacuate", false, "of a member or host: also let its sessions go, at a bounded rate")
				f.Bool("stay", false, "of self: do not exit with the last session, so that ready can take it back")
			}, long: `
A withdrawn member gets no new sessions until ready. That is kept apart from the checks, and over restarts (admin.state).
A withdrawn frontend (self) stops listening, so that load balancers notice, and exits when its last session is gone.`},
		{name: "ready", args: "TARGET", summary: "put back what was withdrawn", run: ready, remote: true, least: 1, most: 1,
			what: "what to put back: a member, a host, host/member, or self"},
		{name: "queue", args: "VERB", summary: "see and steer the messages that wait", run: queueCommand, remote: true, least: 1, most: manyIDs + 1,
			what: "what is to be done: list, show, retry, hold, release, delete, flush, export or import", flags: queueFlags, long: queueHelp},
		{name: "move", args: "ACCOUNT MEMBER", summary: "send an account to another member of its host", run: move, remote: true, least: 2, most: 2,
			what: "the account, and the member of its home host", long: `
For hosts with sticky: claim. The account's sessions on other members are closed on all frontends, and its next login,
within 5 minutes, goes to the member. It stays there while it has sessions; withdraw a member to keep accounts away.`},
		{name: "reload", summary: "read the configuration again, as SIGHUP does", run: reload, remote: true, long: `
Says what is wrong when the old configuration stays in use. Sessions live on either way. What a running process cannot
change is said as a warning: admin.address, admin.http and admin.state, log.format and log.time.`},
		{name: "version", summary: "print the version", run: printVersion},
	}
}

// filterFlags choose sessions.
func filterFlags(f *flag.FlagSet) {
	f.String("account", "", "sessions of this `name`")
	f.String("host", "", "sessions whose home host is this `name`")
	f.String("member", "", "sessions on this member, by its `name` or as host/member")
	f.String("service", "", "sessions of this `service`, such as imap")
	f.String("client", "", "sessions from this `address` or network")
	f.String("id", "", "the session of this `id`")
}

// overview is what mailmux says to a call without a command.
func overview(w io.Writer) {
	fmt.Fprint(w, "mailmux relays mail sessions to the server that holds the account.\n\nusage: mailmux COMMAND [-config FILE] ...\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-20s %s\n", strings.TrimSpace(c.name+" "+c.args), c.summary)
	}
	fmt.Fprint(w, "  help [COMMAND]       tell more about a command; -man prints the manual page\n\nexit codes:\n"+exitCodes)
}

const exitCodes = `  0  done
  1  it failed: the text says what, and what to do
  2  the command line or the configuration is at fault
  3  no running frontend answers at the admin socket
  4  lookup: no such account, or no way to its home host now; queue: no message matches
`

// help prints the overview, or what a command does.
func help(args []string, out, err io.Writer) int {
	if len(args) == 0 {
		overview(out)
		return exitDone
	}
	if args[0] == "-man" {
		manual(out)
		return exitDone
	}
	list := commands()
	i := slices.IndexFunc(list, func(c command) bool { return c.name == args[0] })
	if i < 0 {
		fmt.Fprintf(err, "mailmux: there is no command %q; mailmux help lists them\n", args[0])
		return exitUsage
	}
	list[i].help(out)
	return exitDone
}

// help prints a command's usage.
func (c *command) help(w io.Writer) {
	fmt.Fprintf(w, "usage: mailmux %s [flags]\n\n%s%s.\n", strings.TrimSpace(c.name+" "+c.args), strings.ToUpper(c.summary[:1]), c.summary[1:])
	if c.long != "" {
		fmt.Fprintf(w, "%s\n", c.long)
	}
	inv := &invocation{command: c}
	inv.flagSet()
	fmt.Fprint(w, "\nflags:\n")
	inv.flags.VisitAll(func(f *flag.Flag) {
		name, usage := spelled(f)
		fmt.Fprintf(w, "  %-18s %s\n", name, usage)
	})
}

// spelled is a flag with its value's name, and what it does.
func spelled(f *flag.Flag) (name, usage string) {
	value, usage := flag.UnquoteUsage(f)
	if f.DefValue != "" && f.DefValue != "false" {
		usage += " (" + f.DefValue + ")"
	}
	return strings.TrimSpace("-" + f.Name + " " + value), usage
}

// version is what the build recorded: a tag, or the commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

func printVersion(inv *invocation) int {
	fmt.Fprintf(inv.out, "mailmux %s\n", version())
	return exitDone
}
