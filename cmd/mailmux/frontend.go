package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"mailmux/cmd/internal/conf"
	"mailmux/directory"
	"mailmux/proxy"
	"mailmux/proxy/admin"
	"mailmux/proxy/backend"
	"mailmux/proxy/claims"
	"mailmux/proxy/deliver"
	"mailmux/proxy/imap"
	"mailmux/proxy/lmtp"
	"mailmux/proxy/pop3"
	"mailmux/proxy/sieve"
	"mailmux/proxy/smtp"
	"mailmux/proxy/submission"
)

// frontend is a running mailmux: the engine, what it is made of, and what may be asked of it.
type frontend struct {
	log      *slog.Logger
	level    *slog.LevelVar
	metrics  *admin.Metrics
	handlers map[string]proxy.Handler
	delivers *deliver.Deliverer
	queue    *queue // nil without one
	// smarthosts are there when the queue is.
	smarthosts *deliver.Smarthosts
	engine     *proxy.Server
	table      *backend.Table
	agrees     bool           // the process has begun with the section claims
	claims     *claims.Claims // nil without it, and before the start
	started    time.Time

	current atomic.Pointer[loaded]
	fault   atomic.Pointer[string] // of the last reload, nil if it did well
	ended   context.Context        // ends with close
	end     context.CancelFunc
	retired sync.WaitGroup // what goes on beside the sessions: old directories, the operator's wishes

	mu        sync.Mutex // one reload, withdrawal or drain at a time
	draining  bool
	withdrawn context.CancelFunc // ends the watch for the last session; nil while in service
	lastGone  chan struct{}      // told when a withdrawn frontend has no session any more
}

// loaded is a configuration in use.
type loaded struct {
	cfg       *conf.Config
	at        time.Time
	directory *directory.Directory
	secrets   [sha256.Size]byte // of the directory's files
}

// newFrontend makes a frontend of a sound configuration. It opens no listening socket and dials nobody yet. The caller
// closes it.
func newFrontend(cfg *conf.Config, log *slog.Logger, level *slog.LevelVar) (*frontend, error) {
	f := &frontend{
		log: log, level: level, metrics: admin.NewMetrics(version()), delivers: deliver.New(cfg.Delivery), started: time.Now(),
		lastGone: make(chan struct{}, 1), agrees: cfg.Claims.Given(),
	}
	f.handlers = handlers(f.delivers)
	f.ended, f.end = context.WithCancel(context.Background())
	now, err := f.open(cfg, nil)
	if err != nil {
		return nil, err
	}
	f.current.Store(now)
	if err := f.useQueue(cfg); err != nil {
		f.closeParts()
		return nil, err
	}
	if f.table, err = backend.New(cfg.Config, f.options(cfg)); err != nil {
		f.closeParts()
		return nil, err
	}
	if f.engine, err = proxy.New(f.parts(now)); err != nil {
		f.closeParts()
		return nil, err
	}
	f.metrics.Watch(f)
	return f, nil
}

// handlers are the protocols that are built in. Messages are handed on by d.
func handlers(d *deliver.Deliverer) map[string]proxy.Handler {
	return map[string]proxy.Handler{
		"imap": imap.New(), "pop3": pop3.New(), "submission": submission.New(), "sieve": sieve.New(),
		"lmtp": lmtp.New(d), "smtp": smtp.New(d, nil),
	}
}

// probers are the handlers that can check a member, and what checks those that messages are handed to.
func probers(handlers map[string]proxy.Handler) map[string]backend.Prober {
	list := make(map[string]backend.Prober)
	for service, h := range handlers {
		if p, ok := h.(backend.Prober); ok {
			list[service] = p
		}
	}
	list["lmtp"], list["smtp"] = deliver.Prober{}, deliver.Prober{}
	return list
}

// options are those of the host table.
func (f *frontend) options(cfg *conf.Config) backend.Options {
	return backend.Options{
		Logger: f.log, Services: cfg.Services(), Probers: probers(f.handlers), StateFile: cfg.Admin.StateFile(), Source: members{f},
		// The table is made before the engine, and asks when it dials: later.
		Self:    func(a netip.AddrPort) bool { return f.engine.Self(a) },
		Changed: f.wake,
	}
}

// members reads the members of hosts that the directory lists.
type members struct{ *frontend }

// Values asks the directory of the configuration in use.
func (m members) Values(ctx context.Context, entry, attribute string) ([]string, error) {
	return m.current.Load().directory.Values(ctx, entry, attribute)
}

// parts are what the engine needs of a configuration.
func (f *frontend) parts(now *loaded) proxy.Parts {
	cfg := now.cfg
	limits, _ := fit(cfg.Limits) // start and reload give the advice
	return proxy.Parts{
		Config:    proxy.Config{Hostname: cfg.Hostname, Listeners: cfg.Listeners, TLS: cfg.TLS, Limits: limits, Auth: cfg.Auth, Trace: cfg.Log.Trace},
		Directory: now.directory, Domains: cfg.Domains, Hosts: f.table, Handlers: f.handlers, Log: f.log, Metrics: f.metrics,
		Claims: f.claimsOf(),
	}
}

// open makes what a configuration needs for itself. A directory whose settings and secrets are as before goes on, with
// all that it remembers.
func (f *frontend) open(cfg *conf.Config, old *loaded) (*loaded, error) {
	now := &loaded{cfg: cfg, at: time.Now(), secrets: secretsOf(&cfg.Directory)}
	if old != nil && old.secrets == now.secrets && reflect.DeepEqual(old.cfg.Directory, cfg.Directory) {
		now.directory = old.directory
		return now, now.directory.Reload()
	}
	var err error
	now.directory, err = directory.New(cfg.Directory, f.log, f.metrics)
	if err != nil {
		return nil, fmt.Errorf("directory.%w", err)
	}
	return now, nil
}

// secretsOf tells whether the contents of the directory's files have changed. A file that cannot be read is an empty one:
// those who need it will say so.
func secretsOf(cfg *directory.Config) [sha256.Size]byte {
	h := sha256.New()
	for _, path := range []string{cfg.BindPasswordFile, cfg.TLSCAFile, cfg.TLSCertFile, cfg.TLSKeyFile} {
		text, err := os.ReadFile(path)
		if err != nil {
			text = nil
		}
		sum := sha256.Sum256(text)
		h.Write(sum[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// start begins the checks and listens, on sockets from systemd where it passed them.
func (f *frontend) start() error {
	sockets, err := inherited()
	if err != nil {
		return err
	}
	limits := f.current.Load().cfg.Limits
	if _, advice := fit(limits); advice != "" {
		level := slog.LevelWarn
		if limits.Sessions == 0 {
			level = slog.LevelInfo // nobody asked for so many
		}
		f.log.Log(f.ended, level, "configuration", "warning", advice)
	}
	if err := f.openQueue(f.current.Load().cfg); err != nil {
		return err
	}
	f.table.Start(f.ended)
	if err := f.openClaims(f.current.Load().cfg); err != nil {
		return err
	}
	return f.engine.Listen(sockets)
}

// Reload reads the configuration again and puts it in place for the sessions to come, all of it or nothing.
func (f *frontend) Reload(context.Context) (warnings []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draining {
		return nil, errors.New("this frontend is ending; nothing was reloaded")
	}
	warnings, err = f.reload()
	for _, w := range warnings {
		f.log.Warn("configuration", "warning", w)
	}
	if err != nil {
		text := err.Error()
		f.fault.Store(&text)
		f.log.Error("the old configuration stays in use", "error", err)
		return warnings, err
	}
	f.fault.Store(nil)
	f.log.Info("configuration reloaded", "file", f.current.Load().cfg.Path)
	return warnings, nil
}

// reload does it; mu is held.
func (f *frontend) reload() (warnings []string, err error) {
	old := f.current.Load()
	cfg, err := conf.Load(old.cfg.Path)
	for _, w := range cfg.Warnings {
		warnings = append(warnings, w.Error())
	}
	if err != nil {
		return warnings, err
	}
	warnings = append(warnings, fixed(old.cfg, cfg)...)
	if _, advice := fit(cfg.Limits); advice != "" && cfg.Limits.Sessions != old.cfg.Limits.Sessions {
		warnings = append(warnings, advice)
	}
	now, err := f.open(cfg, old)
	if err != nil {
		return warnings, cfg.Place(err)
	}
	if err := f.replace(old, now); err != nil {
		if now.directory != old.directory {
			now.directory.Close()
		}
		return warnings, cfg.Place(err)
	}
	f.current.Store(now)
	f.delivers.Configure(cfg.Delivery)
	f.level.Set(cfg.Log.SlogLevel())
	if now.directory != old.directory {
		f.retired.Go(func() { f.retire(old.directory, old.cfg.Limits.WithDefaults().HandOverTimeout) })
	}
	return warnings, nil
}

// replace puts the table and the engine into the new state, or leaves both in the old one.
func (f *frontend) replace(old, now *loaded) error {
	if err := errors.Join(f.setTable(now.cfg), f.setSmarthosts(now.cfg)); err != nil {
		return errors.Join(err, f.setTable(old.cfg))
	}
	if f.withdrawn != nil {
		return nil // the engine would listen again; ready gives it the new configuration
	}
	if err := f.engine.Reload(f.parts(now)); err != nil {
		return errors.Join(err, f.setTable(old.cfg), f.setSmarthosts(old.cfg))
	}
	return nil
}

// setSmarthosts gives the queue other ways out.
func (f *frontend) setSmarthosts(cfg *conf.Config) error {
	if f.smarthosts == nil {
		return nil
	}
	return f.smarthosts.Configure(cfg.Outgoing)
}

func (f *frontend) setTable(cfg *conf.Config) error {
	if err := f.table.Update(cfg.Config); err != nil {
		return err
	}
	return f.table.SetServices(cfg.Services())
}

// retire closes the directory of an older configuration when no login can be using it any more.
func (f *frontend) retire(d *directory.Directory, after time.Duration) {
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.ended.Done():
	}
	d.Close()
}

// fixed lists what has changed and takes a restart.
func fixed(old, now *conf.Config) []string {
	var list []string
	for _, k := range []struct {
		key     string
		changed bool
	}{
		{"admin", old.Admin != now.Admin},
		{"spool", old.Spool != now.Spool},
		{"claims", !reflect.DeepEqual(old.Claims, now.Claims)},
		{"log.format", old.Log.Format != now.Log.Format},
		{"log.time", old.Log.Time != now.Log.Time},
	} {
		if k.changed {
			list = append(list, k.key+": has changed; that takes a restart")
		}
	}
	if !old.Claims.Given() && now.Claims.Given() {
		list = append(list, "claims: until the restart hosts with sticky: claim go by hash")
	}
	return list
}

// drain ends the frontend: no new sessions, and those there are have until ctx ends. It says how many it had to cut.
func (f *frontend) drain(ctx context.Context) int {
	f.mu.Lock()
	f.draining = true
	f.mu.Unlock()
	return f.engine.Drain(ctx)
}

// close gives everything back, and ends what sessions there are.
func (f *frontend) close() {
	f.engine.Close()
	f.closeParts()
}

func (f *frontend) closeParts() {
	if f.queue != nil {
		f.queue.close(f.log)
	}
	f.end()
	if f.claims != nil {
		f.claims.Close()
	}
	if f.table != nil {
		f.table.Close()
	}
	f.retired.Wait()
	f.delivers.Close()
	if f.smarthosts != nil {
		f.smarthosts.Close()
	}
	f.current.Load().directory.Close()
}
