package failover

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mailmux/directory"
)

// Journal is the record of a run, one JSON object a line, and only ever appended to. Several runs may follow each other
// in one file; each begins with its Header.
type Journal struct {
	mu   sync.Mutex
	file *os.File
	n    int64
	err  error // of the first write that failed: behind half a line nothing more may be written
}

// Header begins a run in the journal.
type Header struct {
	Journal string    `json:"journal"` // "hostfailover"
	Version int       `json:"version"` // 1
	Run     string    `json:"run"`     // an id
	Time    time.Time `json:"time"`
	Server  string    `json:"server"`  // the directory that is changed
	Command string    `json:"command"` // as it was given
}

// Line is a change in the journal, or, with Void, the news that one was not made after all.
type Line struct {
	N       int64     `json:"n"` // counts the changes of a run from 1
	Time    time.Time `json:"time"`
	DN      string    `json:"dn"`
	From    string    `json:"from"`
	To      string    `json:"to"`
	Old     string    `json:"old"`    // original home host before; "" for none
	OldTo   string    `json:"old_to"` // original home host after
	Void    int64     `json:"void,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Journal string    `json:"journal,omitempty"` // set in a Header only
}

// void strikes out the change with this number, and says why.
type void struct {
	Void   int64     `json:"void"`
	Time   time.Time `json:"time"`
	Reason string    `json:"reason"`
}

// change is the change of a line.
func (l *Line) change() directory.Change {
	return directory.Change{DN: l.DN, From: l.From, To: l.To, OldFrom: l.Old, OldTo: l.OldTo}
}

// ErrJournalInUse keeps two runs from writing one journal at the same time.
var ErrJournalInUse = errors.New("another run writes it")

// ErrJournal ends a run: what cannot be written down is not done.
var ErrJournal = errors.New("the journal cannot be written")

// OpenJournal creates the file or goes on behind what is in it, and writes the header. Only one run at a time has it.
func OpenJournal(path string, h Header) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	j := &Journal{file: f}
	if err := errors.Join(j.begin(h), syncDir(filepath.Dir(path))); err != nil {
		f.Close()
		return nil, fmt.Errorf("open the journal %s: %w", path, err)
	}
	return j, nil
}

// syncDir makes sure that a new file is found again after a crash.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func (j *Journal) begin(h Header) error {
	if err := unix.Flock(int(j.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrJournalInUse
		}
		return fmt.Errorf("lock it: %w", err)
	}
	h.Journal, h.Version = "hostfailover", 1
	var b bytes.Buffer
	// A run that was killed may have left half a line. Its change was never sent.
	if end, err := j.file.Seek(0, io.SeekEnd); err != nil {
		return err
	} else if end > 0 {
		last := make([]byte, 1)
		if _, err := j.file.ReadAt(last, end-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			b.WriteByte('\n')
		}
	}
	if err := json.NewEncoder(&b).Encode(h); err != nil {
		return err
	}
	return j.write(b.Bytes())
}

// write appends and makes sure that it is on the disk.
func (j *Journal) write(p []byte) error {
	if err := j.append(p); err != nil {
		return err
	}
	j.err = unix.Fdatasync(int(j.file.Fd()))
	return j.err
}

func (j *Journal) append(p []byte) error {
	if j.err == nil {
		_, j.err = j.file.Write(p)
	}
	return j.err
}

// Intend writes changes down before they are sent, and gives the number of the first one.
func (j *Journal) Intend(batch []directory.Change) (first int64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	first, now := j.n+1, time.Now().UTC()
	for _, c := range batch {
		j.n++
		if err := e.Encode(Line{N: j.n, Time: now, DN: c.DN, From: c.From, To: c.To, Old: c.OldFrom, OldTo: c.OldTo}); err != nil {
			return 0, err
		}
	}
	return first, j.write(b.Bytes())
}

// Void strikes out a change that was not made. It need not reach the disk: a change too many in the journal is one that
// undo finds not to fit.
func (j *Journal) Void(n int64, o Outcome) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := void{Void: n, Time: time.Now().UTC(), Reason: "already so"}
	if o.Err != nil {
		l.Reason = o.Err.Error()
	}
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return j.append(append(text, '\n'))
}

// Close ends the journal.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return errors.Join(unix.Fdatasync(int(j.file.Fd())), j.file.Close())
}

// backwards reads a file's lines from the last to the first, with one block in memory. A last line without an end was
// never finished and is left out.
func backwards(f io.ReaderAt, size int64, each func(line []byte) error) error {
	const block = 256 << 10
	var tail []byte // the beginning of a line that goes on behind it
	first := true
	for end := size; end > 0; {
		start := max(0, end-block)
		buffer := make([]byte, end-start, int(end-start)+len(tail))
		if _, err := f.ReadAt(buffer, start); err != nil {
			return err
		}
		buffer = append(buffer, tail...)
		for {
			cut := bytes.LastIndexByte(buffer, '\n')
			if cut < 0 {
				break
			}
			line := buffer[cut+1:]
			buffer = buffer[:cut]
			if !first && len(line) > 0 {
				if err := each(line); err != nil {
					return err
				}
			}
			first = false
		}
		tail, end = buffer, start
	}
	if !first && len(tail) > 0 {
		return each(tail)
	}
	return nil
}

// Undo is the feed that reverts what a journal says, last change first.
type Undo struct {
	Path string
	Run  string // only this run; "" for all in the file
	// Server leaves out the runs on other directories; "" for all.
	Server string
}

// Feed gives the changes that revert. Runs are kept apart: the same entry may be in several of them.
func (u *Undo) Feed(_ context.Context, out func(Item) error) error {
	f, err := os.Open(u.Path)
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	return u.read(f, info.Size(), out)
}

func (u *Undo) read(f io.ReaderAt, size int64, out func(Item) error) error {
	wanted, err := u.runs(f, size)
	if err != nil {
		return err
	}
	struck := map[int64]bool{}
	run := len(wanted) - 1
	return backwards(f, size, func(text []byte) error {
		var l Line
		if err := json.Unmarshal(text, &l); err != nil {
			return nil // Half a line, of a run that was killed: it was never sent.
		}
		switch {
		case l.Journal != "":
			clear(struck)
			run--
			return out(Item{Barrier: true})
		case run < 0 || !wanted[run]:
		case l.Void != 0:
			struck[l.Void] = true
		case !struck[l.N] && l.DN != "":
			c := l.change()
			c.From, c.To, c.OldFrom, c.OldTo = c.To, c.From, c.OldTo, c.OldFrom
			return out(Item{Change: c})
		}
		return nil
	})
}

// runs says of each run in the file, in order, whether it is wanted.
func (u *Undo) runs(f io.ReaderAt, size int64) ([]bool, error) {
	var wanted []bool
	err := ReadJournal(io.NewSectionReader(f, 0, size), func(h *Header, _ *Line) error {
		if h != nil {
			wanted = append(wanted, (u.Run == "" || u.Run == h.Run) && (u.Server == "" || u.Server == h.Server))
		}
		return nil
	})
	if err == nil && len(wanted) == 0 {
		err = fmt.Errorf("%s is not a journal of hostfailover", u.Path)
	}
	return wanted, err
}

// Runs gives the headers of the runs in a journal. A file without any is an error.
func Runs(path string) ([]Header, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var runs []Header
	err = ReadJournal(f, func(h *Header, _ *Line) error {
		if h != nil {
			runs = append(runs, *h)
		}
		return nil
	})
	if err == nil && len(runs) == 0 {
		err = fmt.Errorf("%s is not a journal of hostfailover", path)
	}
	return runs, err
}

// ReadJournal gives the headers and the lines of a journal in order.
func ReadJournal(r io.Reader, each func(*Header, *Line) error) error {
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		text, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil // Half a line at the end was never finished.
		}
		if err != nil {
			return fmt.Errorf("read the journal: %w", err)
		}
		var l Line
		if json.Unmarshal(text, &l) != nil {
			continue
		}
		if l.Journal == "" {
			err = each(nil, &l)
		} else {
			var h Header
			if err = json.Unmarshal(text, &h); err == nil {
				err = each(&h, nil)
			}
		}
		if err != nil {
			return err
		}
	}
}
