package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"mailmux/cmd/internal/conf"
	"mailmux/proxy"
)

// newLogger makes the log of a configuration. The level can be changed later.
func newLogger(cfg conf.Log, w io.Writer, level *slog.LevelVar) *slog.Logger {
	level.Set(cfg.SlogLevel())
	options := &slog.HandlerOptions{Level: level}
	if cfg.Time == "off" || cfg.Time != "on" && toJournal(w) {
		options.ReplaceAttr = withoutTime
	}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// toJournal says whether a stream is the journal's, which adds a time of its own (systemd.exec(5), JOURNAL_STREAM).
func toJournal(w io.Writer) bool {
	device, inode, ok := strings.Cut(os.Getenv("JOURNAL_STREAM"), ":")
	if b, waits := w.(interface{ under() io.Writer }); waits {
		w = b.under()
	}
	file, isFile := w.(*os.File)
	if !ok || !isFile {
		return false
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return false
	}
	return device == strconv.FormatUint(uint64(stat.Dev), 10) && inode == strconv.FormatUint(stat.Ino, 10)
}

// Descriptors: each session has two, and the process some of its own for listeners, the directory, checks and files.
const (
	perSession = 2
	ownFiles   = 250
)

// fit keeps the ceiling of sessions within what the process has descriptors for: a client then waits in the kernel's
// queue for a moment, instead of being dropped because its backend cannot be dialed. Advice is "" when all fits.
func fit(limits proxy.Limits) (fitting proxy.Limits, advice string) {
	files, err := raiseFiles()
	if err != nil {
		return limits, fmt.Sprintf("cannot raise the number of open files: %v", err)
	}
	wanted := limits.WithDefaults().Sessions
	most := max(1, (int(min(files, 1<<30))-ownFiles)/perSession)
	if wanted <= most {
		return limits, ""
	}
	limits.Sessions = most
	return limits, fmt.Sprintf("limits.sessions is %d, but %d open files are enough for %d only: raise LimitNOFILE= or ulimit -n",
		wanted, files, most)
}

// raiseFiles raises the soft limit of open files to the hard one, and says what that is.
func raiseFiles() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	if limit.Cur < limit.Max {
		limit.Cur = limit.Max
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			return 0, err
		}
	}
	return limit.Cur, nil
}

// inherited are the listening sockets that systemd's socket units passed.
func inherited() ([]net.Listener, error) {
	list, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take the sockets over from systemd: %w", err)
	}
	var sockets []net.Listener
	for _, l := range list {
		if l != nil { // a datagram socket is none of ours
			sockets = append(sockets, l)
		}
	}
	return sockets, nil
}

// notify tells systemd how we are, if it wants to know (sd_notify(3)).
func notify(log *slog.Logger, lines ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		log.Warn("cannot tell systemd", "state", lines[0], "error", err)
	}
}
