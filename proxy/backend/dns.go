package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// serverTimeout is how long one DNS server may take before the next one is asked.
const serverTimeout = 2 * time.Second

// dnsServers asks DNS servers of the configuration, one after the other until one answers. The one that answered last
// comes first. That there is no such name is an answer.
type dnsServers struct {
	servers []*net.Resolver
	good    atomic.Int64 // the one that answered last
}

var _ Resolver = (*dnsServers)(nil)

// newDNSServers makes the resolver of valid addresses.
func newDNSServers(addresses []string) (*dnsServers, error) {
	d := &dnsServers{}
	for _, text := range addresses {
		at, err := parseServer(text)
		if err != nil {
			return nil, err
		}
		d.servers = append(d.servers, &net.Resolver{
			PreferGo: true,
			Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				var dialer net.Dialer
				return dialer.DialContext(ctx, network, at.String())
			},
		})
	}
	return d, nil
}

// parseServer reads "10.0.0.53" or "127.0.0.1:8600".
func parseServer(text string) (netip.AddrPort, error) {
	if ip, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(ip, 53), nil
	}
	at, err := netip.ParseAddrPort(text)
	if err != nil || at.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("%q: is not an IP address, with or without a port", text)
	}
	return at, nil
}

// LookupNetIP looks the addresses of a name up.
func (d *dnsServers) LookupNetIP(ctx context.Context, network, host string) (addrs []netip.Addr, err error) {
	err = d.ask(ctx, func(ctx context.Context, r *net.Resolver) error {
		addrs, err = r.LookupNetIP(ctx, network, host)
		return err
	})
	return addrs, err
}

// LookupSRV looks SRV records up. Beside an error there may be records, as with net.Resolver: that is an answer, too.
func (d *dnsServers) LookupSRV(ctx context.Context, service, proto, name string) (target string, records []*net.SRV, err error) {
	var odd error
	err = d.ask(ctx, func(ctx context.Context, r *net.Resolver) error {
		target, records, odd = r.LookupSRV(ctx, service, proto, name)
		if len(records) > 0 {
			return nil
		}
		return odd
	})
	if err == nil {
		err = odd
	}
	return target, records, err
}

func (d *dnsServers) ask(ctx context.Context, question func(context.Context, *net.Resolver) error) error {
	var last error
	first := d.good.Load()
	for n := range int64(len(d.servers)) {
		at := (first + n) % int64(len(d.servers))
		limited, cancel := context.WithTimeout(ctx, serverTimeout)
		err := question(limited, d.servers[at])
		cancel()
		var dns *net.DNSError
		if err == nil || errors.As(err, &dns) && dns.IsNotFound {
			d.good.Store(at)
			return err
		}
		last = err
		if ctx.Err() != nil {
			break
		}
	}
	return last
}
