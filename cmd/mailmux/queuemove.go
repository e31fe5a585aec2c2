package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"mailmux/proxy/spool"
)

// spoolDir is the directory of the spool that is meant: by the flag, or by the configuration.
func (inv *invocation) spoolDir() (string, int) {
	if dir := inv.text("dir"); dir != "" {
		return dir, exitDone
	}
	cfg, ok := inv.load()
	switch {
	case !ok:
		return "", exitUsage
	case !cfg.Spool.Enabled():
		inv.fail(fmt.Errorf("%s has no queue (spool.dir); say -dir", cfg.Path))
		return "", exitUsage
	}
	return cfg.Spool.Dir, exitDone
}

// queueExport takes the queue out of a stopped frontend's spool.
func queueExport(inv *invocation) int {
	dir, code := inv.spoolDir()
	if code != exitDone {
		return code
	}
	file := ""
	if len(inv.args) > 1 && inv.args[1] != "-" {
		file = inv.args[1]
	}
	if terminal(inv.out) && file == "" {
		return inv.usage("name a file, or send the output to one, or to mailmux queue import: it is no text")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	x, err := spool.OpenExport(dir, inv.text("again"))
	switch {
	case errors.Is(err, spool.ErrNothing):
		if inv.fail(err); strings.Contains(err.Error(), "earlier") {
			fmt.Fprintln(inv.err, "-again NAME makes one of them once more")
		}
		return exitNoEntry
	case err != nil:
		return inv.fail(err)
	}
	defer x.Close()
	n, err := inv.writeExport(ctx, x, file)
	if err == nil {
		err = x.Done()
	}
	aside := filepath.Join(dir, x.Name)
	if err != nil {
		return inv.fail(fmt.Errorf("%w\nthe queue is set aside in %s, and is not delivered from there: export it again", err, aside))
	}
	inv.exported(n, aside, file)
	return exitDone
}

// exported tells the operator, beside the data, what to do next.
func (inv *invocation) exported(n int, aside, file string) {
	fmt.Fprintf(inv.err, "%s exported; they stay set aside in %s\n", plural(n, "message"), aside)
	if file != "" {
		fmt.Fprintf(inv.err, "next: mailmux queue import %s, on one other frontend; then remove both\n", file)
	}
}

// writeExport writes the export to a file, which gets its name when it is whole and on disk, or to the output.
func (inv *invocation) writeExport(ctx context.Context, x *spool.Export, file string) (n int, err error) {
	if file == "" {
		return x.Write(ctx, inv.out)
	}
	if _, err := os.Lstat(file); err == nil {
		return 0, fmt.Errorf("%s exists; name another file, or remove it", file)
	}
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	n, err = x.Write(ctx, f)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return 0, err
	}
	return n, os.Rename(f.Name(), file)
}

// terminal says whether a person would read what is written.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// queueImport brings an exported queue in: into the running frontend, or into the spool of a stopped one.
func queueImport(inv *invocation) int {
	in := io.Reader(os.Stdin)
	if len(inv.args) > 1 && inv.args[1] != "-" {
		f, err := os.Open(inv.args[1])
		if err != nil {
			return inv.fail(err)
		}
		defer f.Close()
		in = f
	}
	var done spool.Imported
	var code int
	if inv.text("dir") != "" {
		code = inv.importHere(in, &done)
	} else {
		code = inv.importThere(in, &done)
	}
	switch {
	case code != exitDone:
		return code
	case inv.json:
		return inv.printJSON(done)
	case done.Before:
		fmt.Fprintf(inv.out, "%s was imported here before: nothing was done\n", done.Export)
		return exitDone
	}
	fmt.Fprintf(inv.out, "%s imported", plural(done.Messages, "message"))
	if done.Known > 0 {
		fmt.Fprintf(inv.out, ", %d in the queue already", done.Known)
	}
	if done.Unreadable > 0 {
		fmt.Fprintf(inv.out, ", %d not readable and in quarantine", done.Unreadable)
	}
	fmt.Fprintln(inv.out)
	return exitDone
}

// importThere hands an export to the running frontend.
func (inv *invocation) importThere(in io.Reader, done *spool.Imported) int {
	d, code := inv.queueDoor()
	if d == nil {
		return code
	}
	defer d.client.CloseIdleConnections()
	err := d.send("/queue/import", in, done)
	if errors.Is(err, errNobody) {
		err = fmt.Errorf("%w\nto import into the spool of a frontend that is stopped, say -dir", err)
	}
	if err != nil {
		return inv.answered(err)
	}
	return exitDone
}

// importHere writes an export into the spool of a frontend that is stopped. Nothing is delivered.
func (inv *invocation) importHere(in io.Reader, done *spool.Imported) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	dir, err := filepath.Abs(inv.text("dir"))
	if err != nil {
		return inv.fail(err)
	}
	s, err := spool.Open(spool.Config{Dir: dir}, spool.Services{})
	if errors.Is(err, spool.ErrLocked) {
		return inv.fail(fmt.Errorf("%w\nto import into a running frontend, leave -dir out", err))
	}
	if err != nil {
		return inv.fail(err)
	}
	*done, err = s.Import(ctx, in)
	if err = errors.Join(err, s.Close()); err != nil {
		return inv.fail(err)
	}
	return exitDone
}
