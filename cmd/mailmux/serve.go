package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"mailmux/cmd/internal/conf"
	"mailmux/proxy/admin"
)

// serve runs a frontend until a signal ends it.
func serve(inv *invocation) int {
	cfg, ok := inv.load()
	if !ok {
		return exitUsage
	}
	lines := newBacklog(inv.err)
	defer lines.close()
	inv.err = lines // faults come behind the lines before them
	var level slog.LevelVar
	log := newLogger(cfg.Log, lines, &level)
	lines.tellBy(newLogger(cfg.Log, remark{lines}, &level))
	for _, w := range cfg.Warnings {
		log.Warn("configuration", "warning", w.Error())
	}
	// A log reader that goes away must not take the sessions with it: writes fail, and that is all.
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	f, err := newFrontend(cfg, log, &level)
	if err != nil {
		return inv.startFault(cfg, err)
	}
	p := &process{frontend: f, log: log, signals: signals}
	code := p.run(inv, cfg)
	f.close()
	return code
}

// startFault reports what only shows when the configuration is put to work, a fault a line.
func (inv *invocation) startFault(cfg *conf.Config, err error) int {
	fmt.Fprintln(inv.err, cfg.Place(err))
	return exitFailed
}

// process is a frontend with its signals and its service manager.
type process struct {
	*frontend
	log      *slog.Logger
	signals  chan os.Signal
	watchdog sync.WaitGroup
}

// run listens, says so, and goes on until it is to end.
func (p *process) run(inv *invocation, cfg *conf.Config) int {
	if err := p.start(); err != nil {
		inv.startFault(cfg, err)
		var socket *net.OpError
		if errors.Is(err, syscall.EACCES) && errors.As(err, &socket) {
			fmt.Fprintln(inv.err, "ports below 1024 need CAP_NET_BIND_SERVICE, or sockets from systemd")
		}
		return exitFailed
	}
	parts := admin.Parts{
		Engine: p.engine, Switches: p.frontend, Frontend: p.frontend, Explainer: p.frontend, Forgetter: p.frontend, Mover: p.frontend,
		Metrics: p.metrics, Log: p.log,
	}
	if p.queue != nil {
		parts.Queue = p.queue
	}
	door, err := admin.Start(cfg.Admin, parts)
	defer p.closeDoor(door)
	if err != nil {
		return inv.startFault(cfg, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer p.watchdog.Wait()
	defer cancel()
	p.watchdog.Go(func() { p.feedWatchdog(ctx) })
	p.announce(door)
	p.await()
	return p.end()
}

// announce says that clients can come.
func (p *process) announce(door *admin.Server) {
	for _, l := range p.Status().Listeners {
		p.log.Info("listening", "service", l.Service, "address", l.Address, "tls", l.TLS)
	}
	for _, address := range door.Addresses() {
		p.log.Info("admin", "address", address)
	}
	p.log.Info("ready", "version", version(), "pid", os.Getpid())
	notify(p.log, daemon.SdNotifyReady, p.statusLine())
}

func (p *process) statusLine() string {
	return fmt.Sprintf("STATUS=%s, %s", p.state(), plural(len(p.current.Load().cfg.Hosts), "host"))
}

// await returns when the process is to end.
func (p *process) await() {
	for {
		select {
		case s := <-p.signals:
			if s != syscall.SIGHUP {
				p.log.Info("ending", "signal", s.String())
				return
			}
			p.reloadNow()
		case <-p.lastGone:
			p.log.Info("ending: withdrawn, and the last session is gone")
			return
		}
	}
}

// reloadNow reloads between the two messages that systemd's Type=notify-reload waits for.
func (p *process) reloadNow() {
	notify(p.log, daemon.SdNotifyReloading, strings.TrimSpace(daemon.SdNotifyMonotonicUsec()))
	state := p.statusLine
	if _, err := p.Reload(context.Background()); err != nil {
		// Reload has logged it. systemd knows no reload that did not succeed, so the status line has to say it.
		state = func() string { return "STATUS=the old configuration is in use: the new one has faults" }
	}
	notify(p.log, daemon.SdNotifyReady, state())
}

// end drains within the time that is configured. A second signal takes what is left of it.
func (p *process) end() int {
	limit := p.current.Load().cfg.Limits.WithDefaults().DrainTimeout
	notify(p.log, daemon.SdNotifyStopping, fmt.Sprintf("STATUS=ending, at most %s", limit))
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var impatient sync.WaitGroup
	impatient.Go(func() { p.second(ctx, cancel) })
	open := p.engine.Sessions()
	cut := p.drain(ctx)
	cancel()
	impatient.Wait()
	p.log.Info("ended", "sessions_ended", open-cut, "sessions_closed", cut)
	return exitDone
}

// second waits for a second signal.
func (p *process) second(ctx context.Context, cancel context.CancelFunc) {
	for {
		select {
		case s := <-p.signals:
			if s == syscall.SIGHUP {
				p.log.Info("not reloaded: ending")
				continue
			}
			p.log.Info("ending at once", "signal", s.String())
			cancel()
			return
		case <-ctx.Done():
			return
		}
	}
}

func (p *process) closeDoor(door *admin.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := door.Close(ctx); err != nil {
		p.log.Warn("cannot close the admin socket", "error", err)
	}
}

// feedWatchdog tells systemd that we are alive, as long as the locks that every session takes can be had. A process that
// hangs misses it and is started anew (systemd.service(5), WatchdogSec=).
func (p *process) feedWatchdog(ctx context.Context) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		p.log.Warn("cannot read the watchdog's interval", "error", err)
	}
	if err != nil || interval <= 0 {
		return
	}
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		p.engine.Counts()
		notify(p.log, daemon.SdNotifyWatchdog)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
