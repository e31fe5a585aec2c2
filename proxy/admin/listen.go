package admin

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// fresh is behind the name of a socket until it is ready to be found.
const fresh = ".new"

// socket is a listening unix socket that takes its file away when it closes, unless another process has put its own
// there meanwhile.
type socket struct {
	net.Listener
	path string
	file fs.FileInfo
}

// listenUnix makes the operator's socket. What a process that died left behind is replaced; a socket that somebody
// answers at is not. The file appears with its permissions, never without.
func listenUnix(path string) (net.Listener, error) {
	if err := replaceable(path); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the directory of the admin socket: %w; make it yourself, or set admin.address", err)
	}
	temporary := path + fresh
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove an old admin socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the admin socket: %w; see that %s is writable, or set admin.address", err, filepath.Dir(path))
	}
	l.SetUnlinkOnClose(false)
	s := &socket{Listener: l, path: path}
	if err := s.publish(temporary); err != nil {
		return nil, errors.Join(fmt.Errorf("make the admin socket: %w", err), l.Close(), os.Remove(temporary))
	}
	return s, nil
}

// publish gives the socket its permissions and its name.
func (s *socket) publish(temporary string) error {
	if err := os.Chmod(temporary, 0o660); err != nil {
		return err
	}
	info, err := os.Lstat(temporary)
	if err != nil {
		return err
	}
	s.file = info
	return os.Rename(temporary, s.path)
}

// Close takes the file away first: a command that finds the socket gets an answer.
func (s *socket) Close() error {
	if info, err := os.Lstat(s.path); err == nil && os.SameFile(info, s.file) {
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, s.Listener.Close())
		}
	}
	return s.Listener.Close()
}

// replaceable says whether a socket may be made at path.
func replaceable(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look for an admin socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("make the admin socket: %s is there and is no socket; remove it, or set admin.address", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return fmt.Errorf("make the admin socket: another process answers at %s; stop it, or set admin.address", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make the admin socket: %w", err)
	}
	return nil
}
