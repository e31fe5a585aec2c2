package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"mailmux/cmd/internal/conf"
	"mailmux/directory"
	"mailmux/proxy"
	"mailmux/proxy/claims"
)

// errNoClaims is said to commands that need the section claims.
var errNoClaims = errors.New("the configuration has no section claims")

// lateClaims are the frontend's, which are opened when it starts: the engine is made before.
type lateClaims struct{ *frontend }

// Take is of proxy.Claims.
func (l lateClaims) Take(ctx context.Context, want proxy.Want) (proxy.Claim, error) {
	return l.claims.Take(ctx, want)
}

// claimsOf is what the engine asks; nil in a process that has begun without the section claims: a reload opens none.
func (f *frontend) claimsOf() proxy.Claims {
	if !f.agrees {
		return nil
	}
	return lateClaims{f}
}

// openClaims begins to agree with the other frontends.
func (f *frontend) openClaims(cfg *conf.Config) (err error) {
	if !cfg.Claims.Given() {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the program for the guard: %w", err)
	}
	f.claims, err = claims.Open(cfg.Claims, claims.Parts{
		Hosts: f.table, Wished: f.letLeave, Log: f.log, Metrics: f.metrics, Guard: []string{self, guardCommand},
	})
	return err
}

// guardCommand is the word by which mailmux starts itself as a guard. It is no command for people.
const guardCommand = "guard-claims"

// guard is the second process of a frontend with claims. Signals that end a frontend are not for it: it ends behind it.
func guard(args []string, stderr io.Writer) int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	pid, err := strconv.Atoi(strings.Join(args, " "))
	if err == nil {
		err = claims.Guard(pid)
	}
	if err != nil {
		fmt.Fprintf(stderr, "mailmux %s: %v\n", guardCommand, err)
		return exitFailed
	}
	return exitDone
}

// letLeave has the sessions leave that are on members to be evacuated.
func (f *frontend) letLeave() { f.retired.Go(func() { f.engine.Evacuate(f.ended) }) }

// wish changes what the operator wants of members, here and, with claims, on all frontends: nowhere if etcd is away.
func (f *frontend) wish(change func() error) error {
	if f.claims == nil {
		return change()
	}
	return f.claims.Wish(f.ended, change)
}

// Move has an account leave its member on all frontends, and go to another one.
func (f *frontend) Move(ctx context.Context, login, member string) error {
	if f.claims == nil {
		return errNoClaims
	}
	account, err := f.accountOf(ctx, login)
	if err != nil {
		return err
	}
	host, err := f.table.Host(account.Host)
	if err != nil {
		return err
	}
	if !host.Claimed() {
		return fmt.Errorf("host %s has no claims: set its sticky to claim", host.Name())
	}
	m := host.Member(member)
	for _, other := range host.Members() {
		if other.String() == member {
			m = other
		}
	}
	if m == nil {
		return fmt.Errorf("%s, the home host of %s, has no member %q", host.Name(), login, member)
	}
	return f.claims.Move(ctx, proxy.ClaimKey(&account), m.String())
}

// accountOf looks a login name up.
func (f *frontend) accountOf(ctx context.Context, login string) (directory.Account, error) {
	now := f.current.Load()
	name, err := now.cfg.Domains.Login(login, netip.Addr{}, "")
	if err != nil {
		return directory.Account{}, err
	}
	return now.directory.Lookup(ctx, name)
}

// claimOf is the claim of an account that was looked up; nil without one, or where etcd does not say.
func (f *frontend) claimOf(ctx context.Context, account *directory.Account) *proxy.ClaimInfo {
	host, err := f.table.Host(account.Host)
	if f.claims == nil || err != nil || !host.Claimed() {
		return nil
	}
	info, err := f.claims.Info(ctx, proxy.ClaimKey(account))
	if err != nil {
		info.Moving = err.Error()
	}
	return &info
}

// claimStatus is the state of the claims; nil without the section.
func (f *frontend) claimStatus() *proxy.ClaimStatus {
	if f.claims == nil {
		return nil
	}
	s := f.claims.Status()
	return &s
}
