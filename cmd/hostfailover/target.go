package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"mailmux/proxy/backend"
	"mailmux/proxy/imap"
	"mailmux/proxy/pop3"
	"mailmux/proxy/sieve"
	"mailmux/proxy/submission"
)

// probeWithin bounds one conversation with a member.
const probeWithin = 10 * time.Second

// checkTargets makes sure that the hosts which accounts are to be moved to answer: a failover to a host that is down as
// well would only hide the outage. Without -probe a connection to one service of one member is enough.
func (j *job) checkTargets(ctx context.Context, hosts []string) error {
	if j.set.conf == nil {
		if j.o.probe {
			return usage("-probe needs -config: the host table says where the hosts are")
		}
		if j.o.apply && len(hosts) > 0 && !j.o.force {
			j.report.say("no -config, so there is no host table: nobody checked that %s can be served", strings.Join(hosts, ", "))
		}
		return nil
	}
	if j.o.force || !j.o.probe && (j.o.noCheck || !j.o.apply) {
		return nil
	}
	table, err := backend.New(j.set.conf.Config, backend.Options{})
	if err != nil {
		return refused("the host table: %w", err)
	}
	defer table.Close()
	for _, name := range hosts {
		host, err := table.Host(name)
		if err != nil {
			return refused("%w", err)
		}
		if j.o.probe {
			err = j.probe(ctx, host)
		} else {
			err = j.answers(ctx, host)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return refused("%s does not answer, so its accounts would not be served: %w. -no-check moves them all the same", name, err)
		}
	}
	return nil
}

// services are those that the frontends offer.
func (j *job) services() []string {
	var all []string
	seen := map[string]bool{}
	for _, l := range j.set.conf.Listeners {
		if service := l.Service; !seen[service] && probers()[service] != nil {
			seen[service] = true
			all = append(all, service)
		}
	}
	if len(all) == 0 {
		return []string{"imap"}
	}
	return all
}

func probers() map[string]backend.Prober {
	return map[string]backend.Prober{
		"imap": imap.Prober{}, "pop3": &pop3.Handler{}, "sieve": &sieve.Handler{}, "submission": submission.Prober{},
	}
}

// answers is content with one connection.
func (j *job) answers(ctx context.Context, host *backend.Host) error {
	var errs []error
	for _, service := range j.services() {
		for _, m := range host.Members() {
			ctx, cancel := context.WithTimeout(ctx, probeWithin)
			c, err := m.Dial(ctx, service, backend.DialInfo{})
			cancel()
			if err == nil {
				c.Close()
				return nil
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// probe wants every service, on one member at least.
func (j *job) probe(ctx context.Context, host *backend.Host) error {
	password := ""
	if j.o.probePasswordFile != "" {
		text, err := os.ReadFile(j.o.probePasswordFile)
		if err != nil {
			return err
		}
		password = strings.TrimRight(string(text), "\r\n")
	}
	for _, service := range j.services() {
		var errs []error
		good := false
		for _, m := range host.Members() {
			if err := j.converse(ctx, m, service, password); err != nil {
				errs = append(errs, fmt.Errorf("%s: %s: %w", service, m, err))
				continue
			}
			good = true
			j.report.say("%s on %s answers", service, m)
		}
		if !good {
			return errors.Join(errs...)
		}
	}
	return nil
}

func (j *job) converse(ctx context.Context, m *backend.Member, service, password string) error {
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	raw, err := m.Dial(ctx, service, backend.DialInfo{})
	if err != nil {
		return err
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	if err := raw.SetDeadline(time.Now().Add(probeWithin)); err != nil {
		return err
	}
	mode, config := m.TLS(service)
	var c net.Conn = raw
	if mode == backend.Implicit {
		c = tls.Client(raw, config)
	}
	_, err = probers()[service].Probe(ctx, c, backend.Probe{
		Service: service, Host: m.Host(), Member: m.Name(), Mode: mode, TLS: config, User: j.o.probeUser, Password: password,
	})
	return err
}
