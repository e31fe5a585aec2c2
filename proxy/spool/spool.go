package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Target is where a recipient's mail goes now.
type Target struct {
	Host   string // the home host: names the directory that the message waits in
	Member string // the member of the host, or the smarthost: whatever the Deliverer understands
}

// Router says where mail goes. It is asked for every recipient at every attempt, so that a queued message follows its
// account. It may be called from many goroutines at once.
type Router interface {
	// Route finds the target of a recipient. An error is temporary, and its text is recorded, unless it is or wraps a
	// *PermanentError, which fails the recipient. With a temporary error the Host may still be set: the home host, if
	// that is known and no member of it is in service.
	Route(ctx context.Context, to *Recipient) (Target, error)
}

// PermanentError fails a recipient: there is no such user, or the account is disabled.
type PermanentError struct {
	Status string // the enhanced code, such as "5.1.1"
	Reply  string // what the sender is told, such as "550 5.1.1 no such user"
}

func (e *PermanentError) Error() string { return e.Reply }

// Deliverer takes a message to one member.
type Deliverer interface {
	// Deliver hands m to the target for these recipients, and gives one Outcome for each, in their order. It is called
	// from many goroutines, for one member at most Config.Concurrency at once; it ends soon when ctx does. It keeps
	// deadlines of its own; ctx ends after 30 minutes in any case.
	Deliver(ctx context.Context, to Target, m *Message, rcpts []Recipient) []Outcome
}

// Action is what a notification of success says was done (RFC 3464 section 2.3.3).
type Action string

// The actions of success.
const (
	ActionNone      Action = ""          // the member took over the duty to notify: it speaks DSN
	ActionDelivered Action = "delivered" // the message is in the mailbox
	ActionRelayed   Action = "relayed"   // the member accepted it, and will not notify
)

// Outcome is what became of one recipient. The zero value is a recipient that nobody answered for: it waits on.
type Outcome struct {
	// State is Delivered, Failed (do not try again) or Waiting.
	State State
	// Reply is the member's answer, such as "250 2.0.0 saved", or what went wrong before there was one.
	Reply string
	// Status is the enhanced code (RFC 3463), such as "4.2.2", if there was one.
	Status string
	// Unreachable is set when the member could not be reached or did not make sense, whatever the recipient: its other
	// mail waits without trying, too.
	Unreachable bool
	// Action is what a notification of success says.
	Action Action
	// Member is who answered, if that is not the target's member.
	Member string
}

// Services are what a spool works with.
type Services struct {
	Router    Router
	Deliverer Deliverer
	// Log gets one "delivery" line for each recipient and attempt, and warnings; nil is silent.
	Log *slog.Logger
	// Hostname is the name of this frontend, for notifications.
	Hostname string
}

// Spool is an open queue. Its methods may be called from many goroutines at once.
type Spool struct {
	Services
	cfg      Config
	disk     disk
	now      func() time.Time // the wall clock, which may jump
	cap      int              // of each window; 0 is the share of maxWindow
	lock     *os.File
	root     *os.File // DIR/queue
	free     freeSpace
	buffers  buffers
	commits  *committer
	stirred  chan struct{} // something may be due
	wishes   chan struct{} // there is a wish for the waker
	stopping context.Context
	stop     context.CancelFunc
	tasks    sync.WaitGroup // the committer and the waker

	importing sync.Mutex // one import at a time
	ages      ages

	mu       sync.Mutex
	shelves  map[string]*shelf
	busy     map[string]*claim // by id: nobody else may touch these messages
	members  map[Target]*member
	accepts  sync.WaitGroup
	running  int
	clock    time.Time // the wall clock when it was last looked at: before the scan, and then by Run
	bytes    int64
	wish     wish
	counters Counters
}

// Open takes the lock of the spool, makes its directories if they are not there, removes what was not finished, and reads
// what waits; it opens none of the messages. Messages are accepted from here on, and delivered as long as Run runs. The
// caller closes the spool.
func Open(cfg Config, services Services) (*Spool, error) {
	s := prepare(cfg, services)
	if err := s.open(); err != nil {
		return nil, err
	}
	return s, nil
}

// prepare is a spool before it touches the disk.
func prepare(cfg Config, services Services) *Spool {
	if services.Log == nil {
		services.Log = slog.New(slog.DiscardHandler)
	}
	s := &Spool{
		Services: services,
		cfg:      cfg.WithDefaults(),
		now:      func() time.Time { return time.Now().Round(0) },
		stirred:  make(chan struct{}, 1),
		wishes:   make(chan struct{}, 1),
		shelves:  make(map[string]*shelf),
		busy:     make(map[string]*claim),
		members:  make(map[Target]*member),
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	return s
}

// The directories of a spool.
const (
	dirTmp        = "tmp"
	dirQueue      = "queue"
	dirHold       = "hold"
	dirQuarantine = "quarantine"
)

func (s *Spool) open() (err error) {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make the spool: %w", err)
	}
	if s.lock, err = lockDir(s.path("lock")); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := s.openDirs(); err != nil {
		return fmt.Errorf("open the spool: %w", err)
	}
	s.clock = s.now()
	started := time.Now()
	if err := s.scan(); err != nil {
		return fmt.Errorf("read the spool: %w", err)
	}
	if err := s.resumeImports(); err != nil {
		return fmt.Errorf("go on with an import: %w", err)
	}
	if st := s.Stats(); st.Messages+st.Held+st.Quarantined > 0 {
		s.Log.Info("spool opened", "dir", s.cfg.Dir, "messages", st.Messages, "bytes", st.Bytes, "held", st.Held,
			"quarantined", st.Quarantined, "seconds", time.Since(started).Seconds())
	}
	s.commits = newCommitter(s.disk)
	s.tasks.Go(func() { s.commits.run(s.stopping) })
	s.tasks.Go(s.keepWaking)
	return nil
}

func (s *Spool) openDirs() error {
	dir, err := os.Open(s.cfg.Dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, name := range []string{dirTmp, dirQueue, dirHold, dirQuarantine, dirImport} {
		if err := s.disk.mkdir(dir, s.path(name)); err != nil {
			return err
		}
	}
	if s.root, err = os.Open(s.path(dirQueue)); err != nil {
		return err
	}
	return s.openTmp()
}

// openTmp makes the directories below tmp, and removes what a process has left there that did not end in order. They need
// not survive a power failure.
func (s *Spool) openTmp() error {
	spread(s.path(dirTmp))
	for _, c := range idAlphabet {
		dir := s.path(dirTmp, string(c))
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make %s: %w", dir, full(err))
		}
		err := eachFile(dir, func(name string) error {
			if err := s.disk.remove(filepath.Join(dir, name)); err != nil {
				s.Log.Warn("what was never acknowledged cannot be removed; it only takes room", "path", filepath.Join(dir, name), "error", err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// scan finds the shelves and fills their windows.
func (s *Spool) scan() error {
	err := eachFile(s.path(dirQueue), func(name string) error {
		if !isDir(s.path(dirQueue, name)) {
			s.Log.Warn("this is none of the queue's directories; remove it", "path", s.path(dirQueue, name))
			return nil
		}
		if _, err := s.newShelf(name); err != nil {
			return err
		}
		s.shelves[name].fresh, s.shelves[name].sweep = true, true
		return nil
	})
	if err != nil {
		return err
	}
	for _, sh := range s.shelves {
		if err := s.fill(sh); err != nil {
			return err
		}
	}
	for name, count := range map[string]*int{dirHold: &s.counters.Held, dirQuarantine: &s.counters.Quarantined} {
		err := eachFile(s.path(name), func(name string) error {
			if strings.HasSuffix(name, suffix) {
				*count++
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Spool) path(parts ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, parts...)...)
}

// shelf gives the directory of a host, and makes it if it is not there.
func (s *Spool) shelf(host string) (*shelf, error) {
	name := shelfName(host)
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh := s.shelves[name]; sh != nil {
		return sh, nil
	}
	return s.newShelf(name)
}

// newShelf opens a directory below queue. Spool.mu is held, or nobody else has the spool yet.
func (s *Spool) newShelf(name string) (*shelf, error) {
	path := s.path(dirQueue, name)
	if err := s.disk.mkdir(s.root, path); err != nil {
		return nil, fmt.Errorf("make %s: %w", path, full(err))
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	sh := &shelf{name: name, path: path, dir: dir, window: window{at: make(map[string]int)}}
	s.shelves[name] = sh
	return sh, nil
}

// Close ends the spool after the accepts that are under way, and gives the lock back. Run must have ended.
func (s *Spool) Close() error {
	s.mu.Lock()
	if s.stopping.Err() != nil {
		s.mu.Unlock()
		return ErrClosed
	}
	s.stop() // under the lock: no accept begins from here on
	s.mu.Unlock()
	s.accepts.Wait()
	s.close()
	return nil
}

func (s *Spool) close() {
	s.stop()
	s.tasks.Wait()
	for _, sh := range s.shelves {
		sh.dir.Close()
	}
	if s.root != nil {
		s.root.Close()
	}
	s.lock.Close()
}
