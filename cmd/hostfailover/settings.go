package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"mailmux/cmd/internal/conf"
	"mailmux/directory"
	"mailmux/failover"
)

// site is one directory: servers that hold the same entries.
type site struct {
	link *failover.Link
	cfg  directory.Config
}

// settings are what the configuration and the command line say together.
type settings struct {
	sites   []*site
	conf    *conf.Config // nil without -config
	domains directory.Domains
	say     func(format string, args ...any)
}

// settle reads the configuration, if there is one, and lays the command line over it.
func settle(o *options, say func(string, ...any)) (*settings, error) {
	s := &settings{say: say}
	var base directory.Config
	if o.config != "" {
		c, err := conf.Load(o.config)
		if err != nil {
			return nil, &exit{exitUsage, err}
		}
		s.conf, base, s.domains = c, c.Directory, c.Domains
	}
	o.overlay(&base)
	if err := o.readable(); err != nil {
		return nil, err
	}
	lists := [][]string{base.Servers}
	if len(o.servers) > 0 {
		lists = nil
		for _, server := range o.servers {
			lists = append(lists, []string{server})
		}
	}
	for _, servers := range lists {
		cfg := base
		cfg.Servers = servers
		if err := cfg.Validate(); err != nil {
			return nil, usage("%s", flagNames.Replace(err.Error()))
		}
		s.sites = append(s.sites, &site{cfg: cfg, link: &failover.Link{
			Servers: servers, Wait: o.wait, Say: say,
			Open: func(ctx context.Context, server string) (directory.Editor, error) {
				return directory.OpenEditor(ctx, cfg, server)
			},
		}})
	}
	return s, nil
}

// readable says at once what would else look like a directory that is away, or be found out in the middle.
func (o *options) readable() error {
	for _, f := range [][2]string{{"-bind-password-file", o.bindPasswordFile}, {"-tls-ca-file", o.tlsCAFile}} {
		if f[1] == "" {
			continue
		}
		if _, err := os.ReadFile(f[1]); err != nil {
			return usage("%s: %w", f[0], err)
		}
	}
	if o.filter != "" {
		if err := directory.CheckFilter(o.filter); err != nil {
			return usage("-filter: %w", err)
		}
	}
	return nil
}

// flagNames turns the keys in the faults of a configuration into flags.
var flagNames = strings.NewReplacer("servers: at least one is needed, such as", "say where the directory is, with -config or -server, such as",
	"base: is needed", "-base is needed", "bind_password_file: ", "-bind-password-file: ", "bind_dn: ", "-bind-dn: ")

// overlay lets the command line win over the configuration.
func (o *options) overlay(c *directory.Config) {
	over := func(field *string, value string) {
		if value != "" {
			*field = value
		}
	}
	over(&c.BindDN, o.bindDN)
	over(&c.BindPasswordFile, o.bindPasswordFile)
	over(&c.Base, o.base)
	over(&c.TLSCAFile, o.tlsCAFile)
	over(&c.Attributes.Host, o.hostAttribute)
	over(&c.Attributes.OldHost, o.oldHostAttribute)
	over(&c.Attributes.Login, o.loginAttribute)
	if o.bindDN != "" {
		c.SASLExternal = false
	}
	if o.saslExternal {
		c.SASLExternal, c.BindDN, c.BindPasswordFile = true, "", ""
	}
	if o.starttls {
		c.StartTLS = true
	}
	if o.connections > 0 {
		// One more than for changes: reading back entries must not wait for them.
		c.Connections = o.connections + 1
	}
}

func (s *settings) close() {
	for _, one := range s.sites {
		one.link.Close()
	}
}

// inTable gives the name of a host as the host table writes it. Without a configuration there is no table to ask.
func (s *settings) inTable(host string, force bool) (string, error) {
	if s.conf == nil || force {
		return host, nil
	}
	known := slices.Sorted(maps.Keys(s.conf.Hosts))
	for _, name := range known {
		if strings.EqualFold(name, host) {
			return name, nil
		}
	}
	if len(known) > 10 {
		known = append(known[:10], "…")
	}
	return "", refused("%s is not in the host table, so no frontend could serve its accounts; there are %s. Add it to hosts, or give -force", host, strings.Join(known, ", "))
}

// isAway says whether an error means that the directory cannot be reached.
func isAway(err error) bool {
	return errors.Is(err, failover.ErrAway) || errors.Is(err, directory.ErrUnavailable) || errors.Is(err, directory.ErrLost) ||
		errors.Is(err, directory.ErrBusy) || errors.Is(err, directory.ErrBadPassword) || errors.Is(err, failover.ErrPartial) ||
		errors.Is(err, failover.ErrNoWriter)
}

// connect makes the first connection. A directory that is not there at the start is not waited for as long as one that
// goes away in the middle: an operator waits for the answer.
func (one *site) connect(ctx context.Context) (directory.Editor, error) {
	wait := one.link.Wait
	one.link.Wait = min(wait, 3*time.Second)
	defer func() { one.link.Wait = wait }()
	editor, err := one.link.Editor(ctx)
	switch {
	case errors.Is(err, directory.ErrBadPassword):
		return nil, fmt.Errorf("%w: look at the bind DN and its password", err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", one.link.Name(), err)
	}
	return editor, nil
}
