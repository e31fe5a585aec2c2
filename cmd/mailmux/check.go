package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"mailmux/cmd/internal/conf"
	"mailmux/directory"
	"mailmux/proxy/backend"
	"mailmux/proxy/claims"
	"mailmux/proxy/deliver"
)

// check looks the configuration over, and with -online the servers that it names.
func check(inv *invocation) int {
	cfg, ok := inv.load()
	inv.warn(cfg)
	if !ok {
		return exitUsage
	}
	if err := dryStart(cfg); err != nil {
		inv.startFault(cfg, err)
		return exitUsage
	}
	fmt.Fprintf(inv.out, "%s: the configuration is sound: %s\n", cfg.Path, summary(cfg))
	if !inv.is("online") {
		return exitDone
	}
	faults := inv.checkServers(cfg)
	if faults > 0 {
		fmt.Fprintf(inv.out, "%s\n", plural(faults, "failure"))
		return exitFailed
	}
	fmt.Fprintln(inv.out, "everything answers")
	return exitDone
}

// dryStart makes a frontend without starting it: certificates and secrets are read, nothing is opened or dialed.
func dryStart(cfg *conf.Config) error {
	f, err := newFrontend(cfg, slog.New(slog.DiscardHandler), new(slog.LevelVar))
	if err != nil {
		return err
	}
	f.close()
	return nil
}

func summary(cfg *conf.Config) string {
	members := 0
	for _, h := range cfg.Hosts {
		members += len(h.Members)
	}
	return fmt.Sprintf("%s with %s, %s, %s", plural(len(cfg.Hosts), "host"), plural(members, "member"), plural(len(cfg.Listeners), "listener"),
		plural(len(cfg.Directory.Servers), "directory server"))
}

// checkServers asks the directory, etcd and every member. It says how many fail.
func (inv *invocation) checkServers(cfg *conf.Config) int {
	d, err := directory.New(cfg.Directory, nil, nil)
	if err != nil {
		fmt.Fprintf(inv.out, "directory: %v\n", err)
		return 1
	}
	defer d.Close()
	return inv.checkDirectory(cfg, d) + inv.checkClaims(cfg) + inv.checkMembers(cfg, d)
}

// checkClaims connects to every endpoint of etcd, logs in, and asks whether its keys may be read and written.
func (inv *invocation) checkClaims(cfg *conf.Config) int {
	if len(cfg.Claims.Endpoints) == 0 {
		return 0 // none, or embedded: it runs only with the frontend
	}
	well, faults := claims.Check(context.Background(), cfg.Claims)
	for _, err := range faults {
		fmt.Fprintln(inv.out, err)
	}
	if well > 0 {
		fmt.Fprintf(inv.out, "claims: etcd answers at %s\n", plural(well, "endpoint"))
	}
	return len(faults)
}

// checkDirectory binds to every server of the directory and searches there.
func (inv *invocation) checkDirectory(cfg *conf.Config, d *directory.Directory) int {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	faults := d.Check(ctx)
	for _, err := range faults {
		fmt.Fprintf(inv.out, "%v; %s\n", err, directoryRemedy(err.Error()))
	}
	if well := len(cfg.Directory.Servers) - len(faults); well > 0 {
		fmt.Fprintf(inv.out, "directory: %s well, by bind and search\n", plural(well, "server"))
	}
	return len(faults)
}

// checkMembers greets every member by each service that a listener has, as the running checks do.
func (inv *invocation) checkMembers(cfg *conf.Config, d *directory.Directory) int {
	hosts := checked(cfg)
	table, err := backend.New(hosts, backend.Options{Services: cfg.Services(), Probers: probers(handlers(deliver.New(cfg.Delivery))), Source: d})
	if err != nil {
		fmt.Fprintf(inv.out, "hosts: %v\n", err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	table.Start(ctx)
	defer table.Close()
	await(ctx, table, greeted)
	faults := 0
	for _, h := range table.Status() {
		for _, source := range h.Sources {
			if source.Error != "" {
				faults++
				fmt.Fprintf(inv.out, "%s: members of %s: %s\n", h.Name, source.Name, source.Error)
			}
		}
		for _, m := range h.Members {
			faults += inv.showMember(h.Name, m)
		}
	}
	return faults
}

// checked is the host table with every check on, one miss enough, and no agents.
func checked(cfg *conf.Config) backend.Config {
	return withChecks(cfg, func(c *backend.CheckConfig) {
		c.Mode, c.Rise, c.Fall, c.Interval, c.AgentPort = "on", 1, 1, time.Hour, 0
		c.Timeout = max(c.Timeout, 5*time.Second)
	})
}

// unchecked is the host table with every check off.
func unchecked(cfg *conf.Config) backend.Config {
	return withChecks(cfg, func(c *backend.CheckConfig) { c.Mode, c.AgentPort = "off", 0 })
}

// withChecks is the host table with other checks, at each level that could say something of its own.
func withChecks(cfg *conf.Config, change func(*backend.CheckConfig)) backend.Config {
	hosts := cfg.Config
	change(&hosts.Backend.Check)
	hosts.Hosts = make(map[string]backend.HostConfig, len(cfg.Hosts))
	for name, h := range cfg.Hosts {
		change(&h.Check)
		h.Members = slices.Clone(h.Members)
		for i := range h.Members {
			change(&h.Members[i].Check)
		}
		hosts.Hosts[name] = h
	}
	return hosts
}

// await looks at a table until all of its hosts are done, or ctx ends.
func await(ctx context.Context, table *backend.Table, done func(backend.HostStatus) bool) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for slices.ContainsFunc(table.Status(), func(h backend.HostStatus) bool { return !done(h) }) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// listed says whether all sources of a host's members have answered, or failed.
func listed(h backend.HostStatus) bool {
	return !slices.ContainsFunc(h.Sources, func(s backend.SourceStatus) bool { return s.Asked.IsZero() && s.Error == "" })
}

// greeted says whether every service of every member was checked once.
func greeted(h backend.HostStatus) bool {
	return listed(h) && !slices.ContainsFunc(h.Members, func(m backend.MemberStatus) bool {
		return slices.ContainsFunc(m.Services, func(s backend.ServiceStatus) bool { return s.LastCheck.IsZero() })
	})
}

// showMember prints what each service of a member answered, and says how many fail.
func (inv *invocation) showMember(host string, m backend.MemberStatus) int {
	faults := 0
	for _, s := range m.Services {
		name := fmt.Sprintf("%s/%s: %s at %s", host, m.Name, s.Service, s.Address)
		switch {
		case s.LastCheck.IsZero():
			faults++
			fmt.Fprintf(inv.out, "%s: not reached within a minute\n", name)
		case s.State == "up":
			fmt.Fprintf(inv.out, "%s: answers in %s\n", name, s.Check.Round(100*time.Microsecond))
		default:
			faults++
			fmt.Fprintf(inv.out, "%s: %s; %s\n", name, s.Why, remedy(s.Why))
		}
	}
	return faults
}

// directoryRemedy says what usually helps against a directory server's failure.
func directoryRemedy(why string) string {
	code := func(n ...uint16) bool {
		return slices.ContainsFunc(n, func(n uint16) bool { return strings.Contains(why, fmt.Sprintf("LDAP Result Code %d ", n)) })
	}
	switch {
	case code(ldapInvalidCredentials, ldapInvalidDN):
		return "see directory.bind_dn and directory.bind_password_file"
	case code(ldapNoSuchObject):
		return "see directory.base: there is no such entry, or directory.bind_dn must not see it"
	case code(ldapInsufficientAccess, ldapAuthRequired, ldapInappropriateAuth):
		return "give directory.bind_dn the right to search there, and to read the attributes"
	case code(ldapConfidentiality):
		return "set directory.starttls, or use ldaps://"
	case strings.Contains(why, "certificate") || strings.Contains(why, "x509"):
		return "see directory.tls_ca_file, and that the certificate there is for the name in directory.servers"
	case strings.Contains(why, "TLS"):
		return "see directory.starttls and directory.servers: does this port speak TLS at once (ldaps), after STARTTLS, or not at all?"
	case strings.Contains(why, "refused"):
		return "does the directory run there, and is the port right?"
	case strings.Contains(why, "referrals"):
		return "see directory.base"
	case strings.Contains(why, "timeout") || strings.Contains(why, "deadline") || strings.Contains(why, "no route"):
		return "is the address right, does a firewall stand between, and is what directory.filter asks for indexed?"
	case strings.Contains(why, "lookup"):
		return "is the name right, and does the DNS know it?"
	}
	return "see the log of the directory server"
}

// Result codes of RFC 4511 appendix A, as they stand in the directory's errors.
const (
	ldapAuthRequired       = 8
	ldapConfidentiality    = 13
	ldapNoSuchObject       = 32
	ldapInvalidDN          = 34
	ldapInappropriateAuth  = 48
	ldapInvalidCredentials = 49
	ldapInsufficientAccess = 50
)

// remedy says what usually helps against a check's failure.
func remedy(why string) string {
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(why, w) })
	}
	switch {
	case has("certificate", "x509"):
		return "see tls_ca_file and tls_server_name here, and the certificate there"
	case has("TLS", "tls:"):
		return "see tls and ports here: does this port speak TLS at once (implicit), after STARTTLS, or not at all?"
	case has("refused"):
		return "does the service run there, and is the port right (ports)?"
	case has("no route", "unreachable", "timeout", "deadline"):
		return "is the address right, and does a firewall stand between?"
	case has("no such host", "lookup"):
		return "is the name right, and does the DNS know it?"
	}
	return "see the log of the member"
}
