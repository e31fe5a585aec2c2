package main

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"mailmux/cmd/internal/conf"
	"mailmux/directory"
	"mailmux/proxy"
	"mailmux/proxy/admin"
	"mailmux/proxy/backend"
)

// What the admin socket asks of a frontend.
var (
	_ admin.Engine    = (*proxy.Server)(nil)
	_ admin.Frontend  = (*frontend)(nil)
	_ admin.Switches  = (*frontend)(nil)
	_ admin.Explainer = (*frontend)(nil)
	_ admin.Forgetter = (*frontend)(nil)
	_ admin.Mover     = (*frontend)(nil)
)

// Status is the state of now.
func (f *frontend) Status() admin.Status {
	now := f.current.Load()
	counts := f.engine.Counts()
	s := admin.Status{
		Hostname: now.cfg.Hostname, Version: version(), PID: os.Getpid(), State: f.state(), Started: f.started, Loaded: now.at,
		Config: now.cfg.Path, Hosts: f.table.Status(), CheckFactor: f.table.CheckFactor(), CheckLag: f.table.CheckLag(), Directory: now.directory.Stats(), Listeners: f.listeners(now.cfg),
		Sessions: admin.Count{
			Open: counts.Sessions, Relayed: counts.LoggedIn, Limit: counts.Ceiling, Service: f.metrics.Open(), Penalised: counts.Penalties,
		},
	}
	if f.queue != nil {
		s.Queue = admin.QueueOf(f.queue.Survey())
	}
	s.Claims = f.claimStatus()
	if fault := f.fault.Load(); fault != nil {
		s.LastFault = *fault
	}
	return s
}

func (f *frontend) state() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.draining:
		return admin.Draining
	case f.withdrawn != nil:
		return admin.Withdrawn
	}
	return admin.Serving
}

// listeners pairs the sockets that are open with what the configuration says of them.
func (f *frontend) listeners(cfg *conf.Config) []admin.ListenerStatus {
	list := []admin.ListenerStatus{}
	for service, addresses := range f.engine.Addrs() {
		for _, a := range addresses {
			list = append(list, admin.ListenerStatus{Service: service, Address: a.String(), TLS: tlsOf(cfg, service, a.String())})
		}
	}
	slices.SortFunc(list, func(a, b admin.ListenerStatus) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Address, b.Address))
	})
	return list
}

// tlsOf is the TLS mode of the listener that has a service and a port.
func tlsOf(cfg *conf.Config, service, address string) string {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return ""
	}
	i := slices.IndexFunc(cfg.Listeners, func(l proxy.Listener) bool {
		port := portOf(l.Address)
		return l.Service == service && (port == at.Port() || port == 0) // 0: any that was free
	})
	if i < 0 {
		return ""
	}
	if mode := cmp.Or(cfg.Listeners[i].TLS, proxy.TLSStart); len(cfg.TLS.Certificates) > 0 {
		return string(mode)
	}
	return string(proxy.TLSOff)
}

// Withdraw takes a member, a host or this frontend out of service.
func (f *frontend) Withdraw(t admin.Target) error {
	if t.Target != admin.Self {
		err := f.wish(func() error { return f.table.Withdraw(t.Target, t.Evacuate) })
		if err == nil && t.Evacuate {
			f.letLeave()
		}
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draining {
		return errors.New("this frontend is ending")
	}
	if f.withdrawn != nil {
		f.withdrawn()
	}
	ctx, cancel := context.WithCancel(f.ended)
	f.withdrawn = cancel
	f.engine.Withdraw()
	if !t.Stay {
		f.retired.Go(func() { f.watchLast(ctx) })
	}
	return nil
}

// watchLast tells when the last session of a withdrawn frontend is gone.
func (f *frontend) watchLast(ctx context.Context) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if f.engine.Sessions() == 0 {
			f.lastGone <- struct{}{} // has room for the one message there is
			return
		}
	}
}

// Ready puts back what was withdrawn.
func (f *frontend) Ready(target string) error {
	if target != admin.Self {
		return f.wish(func() error { return f.table.Ready(target) })
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draining {
		return errors.New("this frontend is ending; start it again")
	}
	if f.withdrawn == nil {
		return nil
	}
	if err := f.engine.Reload(f.parts(f.current.Load())); err != nil {
		return err
	}
	f.withdrawn()
	f.withdrawn = nil
	return nil
}

// Forget drops what is remembered of accounts. What waits for them is tried at once: they may have moved.
func (f *frontend) Forget(host string, accounts []string) int {
	now := f.current.Load()
	n := 0
	if host != "" {
		n = now.directory.ForgetHost(host)
	}
	var names []directory.Name
	for _, account := range accounts {
		if name, err := now.cfg.Domains.Login(account, netip.Addr{}, ""); err == nil {
			names = append(names, name)
		}
	}
	now.directory.Forget(names...)
	if f.queue != nil {
		for _, name := range names {
			accounts = append(accounts, name.String())
		}
		f.queue.follow(host, accounts)
	}
	return n + len(names)
}

// Normal is the name by which an account is known here.
func (f *frontend) Normal(login string) string {
	name, err := f.current.Load().cfg.Domains.Login(login, netip.Addr{}, "")
	if err != nil {
		return login
	}
	return name.String()
}

// Explain follows the way of a login name.
func (f *frontend) Explain(ctx context.Context, login string) (admin.Explanation, error) {
	now := f.current.Load()
	x, err := explain(ctx, now.cfg, now.directory, f.table, login)
	if err == nil {
		x.Claim = f.claimOf(ctx, &x.Directory.Account)
		x.Sessions = admin.Filter{Account: x.Name}.Sessions(f.engine)
	}
	return x, err
}

// explain follows the way of a login name through a directory and a host table. The error is one of the name.
func explain(ctx context.Context, cfg *conf.Config, d *directory.Directory, table *backend.Table, login string) (admin.Explanation, error) {
	x := admin.Explanation{Login: login}
	name, err := cfg.Domains.Login(login, netip.Addr{}, "")
	if err != nil {
		return x, err
	}
	x.Name = name.String()
	x.Directory, err = d.Explain(ctx, name)
	if err != nil {
		x.Answer, x.Temporary = err.Error(), !errors.Is(err, directory.ErrNoUser)
	}
	x.Host = x.Directory.Account.Host
	if x.Host == "" {
		return x, nil
	}
	host, err := table.Host(x.Host)
	if err != nil {
		x.HostError = err.Error()
		return x, nil
	}
	for _, service := range cfg.Services() {
		choice, err := host.Explain(service, x.Name)
		if err != nil {
			x.HostError = err.Error()
			continue
		}
		x.Choices = append(x.Choices, choice)
	}
	return x, nil
}

// portOf is the port of a listener's address, 0 if it has none.
func portOf(address string) uint16 {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0
	}
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		return 0
	}
	return uint16(n)
}
