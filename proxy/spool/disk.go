package spool

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// disk is every change that the spool makes to its file system. The fault of tests comes before the change, and takes its
// place when it is an error; nil outside of tests.
type disk struct {
	fault func(op, path string) error
}

func (d disk) step(op, path string) error {
	if d.fault == nil {
		return nil
	}
	return d.fault(op, path)
}

func (d disk) create(path string) (*os.File, error) {
	if err := d.step("create", path); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// writeAt writes b. A fault leaves half of it, as a process does that is killed on the way.
func (d disk) writeAt(f *os.File, b []byte, offset int64) error {
	if err := d.step("write", f.Name()); err != nil {
		_, _ = f.WriteAt(b[:len(b)/2], offset)
		return err
	}
	_, err := f.WriteAt(b, offset)
	return err
}

func (d disk) truncate(f *os.File, size int64) error {
	if err := d.step("truncate", f.Name()); err != nil {
		return err
	}
	return f.Truncate(size)
}

func (d disk) sync(f *os.File) error {
	if err := d.step("sync", f.Name()); err != nil {
		return err
	}
	return f.Sync()
}

// syncAll syncs the file system that the files are on, and so all of them. Since Linux 5.8 it says when something could
// not be written. A file that is at fault itself gets its error.
func (d disk) syncAll(jobs []*commit) error {
	for _, job := range jobs {
		job.err = d.step("sync", job.from)
	}
	return unix.Syncfs(int(jobs[0].file.Fd()))
}

func (d disk) rename(from, to string) error {
	if err := d.step("rename", to); err != nil {
		return err
	}
	return os.Rename(from, to)
}

func (d disk) remove(path string) error {
	if err := d.step("remove", path); err != nil {
		return err
	}
	return os.Remove(path)
}

// schedule sets the time of the next attempt.
func (d disk) schedule(path string, due time.Time) error {
	if err := d.step("schedule", path); err != nil {
		return err
	}
	return os.Chtimes(path, due, due)
}

// mkdir makes a directory that survives a power failure; one that is there already is fine.
func (d disk) mkdir(parent *os.File, path string) error {
	if err := d.step("mkdir", path); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil
		}
		return err
	}
	return d.sync(parent)
}

// topdir says that the directories in a directory have nothing to do with each other (chattr +T, ext4(5)).
const topdir = 0x20000

// spread has ext4 put the directories that are made in a directory, and the files that are made in those, in many places
// of the disk. It looks for the inode of a new file near the directory, and passes over those that were freed in the last
// minutes one by one (recently_deleted in fs/ext4/ialloc.c): where many messages had just left the queue that took two
// thirds of the time for the next ones. Other file systems do not know the flag, and do not need it.
func spread(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	if flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil && flags&topdir == 0 {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|topdir)) // without it all is only slower
	}
}

// lockDir takes the lock of a spool. The kernel gives it back when the process ends, however it ends.
func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the spool: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		var owner [20]byte
		n, _ := f.ReadAt(owner[:], 0)
		return nil, fmt.Errorf("%w: %s is held by process %s; stop it, or give this one a spool.dir of its own",
			ErrLocked, path, clean(string(owner[:max(n-1, 0)])))
	}
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid()) // for the text above only: a full disk must not keep us from serving
	}
	return f, nil
}

// freeSpace asks the file system how much is free, at most every 100 ms.
type freeSpace struct {
	mu    sync.Mutex
	at    time.Time
	bytes int64
	files int64
}

// minFiles is how many inodes stay free on file systems that count them.
const minFiles = 200

// take says whether size bytes may be written with floor bytes left, and counts them as taken until it asks again. It
// never refuses by what it remembers.
func (s *freeSpace) take(dir string, floor, size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.at.IsZero() || now.Sub(s.at) > 100*time.Millisecond || s.bytes-size < floor || s.files <= minFiles {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return fmt.Errorf("ask for free space in %s: %w", dir, err)
		}
		s.at, s.bytes, s.files = now, int64(st.Bavail)*st.Bsize, int64(st.Ffree)
		if st.Files == 0 {
			s.files = 1 << 62
		}
	}
	s.bytes -= size
	s.files--
	switch {
	case s.bytes < floor:
		return fmt.Errorf("%w: %s has less than spool.min_free, %s, left", ErrFull, dir, Size(floor))
	case s.files < minFiles:
		return fmt.Errorf("%w: %s has less than %d inodes left", ErrFull, dir, minFiles)
	}
	return nil
}

// full turns the file system's words for "no room" into ErrFull.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
