package main

import (
	"flag"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// options are all that can be said on the command line; each command registers the ones it knows.
type options struct {
	// The directory.
	config           string
	servers          list
	bindDN           string
	bindPasswordFile string
	saslExternal     bool
	starttls         bool
	tlsCAFile        string
	hostAttribute    string
	oldHostAttribute string
	loginAttribute   string
	wait             time.Duration
	connections      int

	// The selection.
	from, to, host, original string
	base, filter, domain     string
	accounts                 string
	limit                    int

	// The run.
	apply       bool
	yes         bool
	maxShare    float64
	transaction string
	batch       int
	rate        int
	journal     string
	run         string

	// The target.
	noCheck           bool
	probe             bool
	probeUser         string
	probePasswordFile string
	force             bool

	// What is told, and to whom.
	json    bool
	verbose bool
	notify  list
	kick    bool

	man bool
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// group is a set of flags that several commands share. The words between backquotes name the value in the help.
type group struct {
	title    string
	register func(o *options, f *flag.FlagSet)
}

var directoryFlags = group{"The directory", func(o *options, f *flag.FlagSet) {
	f.StringVar(&o.config, "config", "", "read the frontends' own configuration `FILE`: the directory, the attributes, the host table")
	f.Var(&o.servers, "server", "LDAP `URL`, or ldif:FILE; instead of the configured ones. Given several times, each is a directory of its own and is changed and reported apart")
	f.StringVar(&o.bindDN, "bind-dn", "", "bind as this `DN`")
	f.StringVar(&o.bindPasswordFile, "bind-password-file", "", "`FILE` with the password of -bind-dn")
	f.BoolVar(&o.saslExternal, "sasl-external", false, "bind by SASL EXTERNAL: as the process's user over ldapi, or by the client certificate")
	f.BoolVar(&o.starttls, "starttls", false, "encrypt ldap:// connections")
	f.StringVar(&o.tlsCAFile, "tls-ca-file", "", "`FILE` of certificates to verify the servers by")
	f.StringVar(&o.base, "base", "", "search under this `DN` instead of the configured one")
	f.StringVar(&o.hostAttribute, "host-attribute", "", "`NAME` of the home host's attribute (default hostServer)")
	f.StringVar(&o.oldHostAttribute, "old-host-attribute", "", "`NAME` of the original home host's attribute (default oldHostServer)")
	f.StringVar(&o.loginAttribute, "login-attribute", "", "`NAME` of the login name's attribute (default mail)")
	f.DurationVar(&o.wait, "wait", time.Minute, "wait this `TIME` for a directory that goes away to come back")
}}

var selectionFlags = group{"Which accounts", func(o *options, f *flag.FlagSet) {
	f.StringVar(&o.filter, "filter", "", "only entries that match this LDAP `FILTER` too")
	f.StringVar(&o.domain, "domain", "", "only accounts of this `DOMAIN`")
	f.StringVar(&o.accounts, "accounts", "", "only the accounts in this `FILE`, - for the standard input: one login name, address or DN a line")
	f.IntVar(&o.limit, "limit", 0, "stop after this `NUMBER` of accounts")
}}

var runFlags = group{"The run", func(o *options, f *flag.FlagSet) {
	registerRun(o, f)
	f.StringVar(&o.journal, "journal", "", "write the journal to this `FILE` (default hostfailover-TIME.journal in the working directory)")
}}

// undoFlags are those of a run whose -journal is the one to revert.
var undoFlags = group{"The run", registerRun}

func registerRun(o *options, f *flag.FlagSet) {
	f.BoolVar(&o.apply, "apply", false, "change the directory; without it, say what would be changed")
	f.BoolVar(&o.yes, "yes", false, "do not ask, however many accounts it is")
	f.Float64Var(&o.maxShare, "max-share", 0.5, "ask when more than this `SHARE` of all accounts would be changed; a list of accounts and a journal are taken at their word")
	f.StringVar(&o.transaction, "txn", "auto", "LDAP transactions: `MODE` auto (until one aborts), on, or off")
	f.IntVar(&o.batch, "batch", 0, "at most this `NUMBER` of changes in one transaction (default 1000)")
	f.IntVar(&o.connections, "connections", 4, "make changes without transactions over this `NUMBER` of connections")
	f.IntVar(&o.rate, "rate", 0, "at most this `NUMBER` of changes a second")
	f.BoolVar(&o.verbose, "v", false, "name every account, also the ones that are left alone")
	f.BoolVar(&o.json, "json", false, "write events as JSON, one a line, to the standard output")
}

var frontendFlags = group{"The frontends", func(o *options, f *flag.FlagSet) {
	f.Var(&o.notify, "notify", "tell the frontend with this admin `SOCKET` (a path, unix:PATH or http URL) to forget the accounts; may be given several times")
	f.BoolVar(&o.kick, "kick", false, "have the frontends of -notify close the sessions of moved accounts that are still on the old host")
}}

var targetFlags = group{"Safety", func(o *options, f *flag.FlagSet) {
	f.BoolVar(&o.noCheck, "no-check", false, "do not connect to the target host before -apply")
	f.BoolVar(&o.probe, "probe", false, "ask the target host in each protocol for its greeting first")
	f.StringVar(&o.probeUser, "probe-account", "", "with -probe: log in as this `USER`, too")
	f.StringVar(&o.probePasswordFile, "probe-password-file", "", "`FILE` with the password of -probe-account")
	f.BoolVar(&o.force, "force", false, "move to a host that is not in the host table")
}}

// transactions checks -txn.
func (o *options) transactions() error {
	switch o.transaction {
	case "auto", "on", "off":
		return nil
	}
	return usage("-txn is auto, on or off, not %q", o.transaction)
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// terminalWidth is 0 when the file is no terminal, or one that does not know.
func terminalWidth(f *os.File) int {
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}
