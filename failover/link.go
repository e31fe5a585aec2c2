package failover

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"mailmux/directory"
)

// ErrAway ends a run whose directory did not come back in time.
var ErrAway = errors.New("the directory is away")

// ErrNoWriter ends a run in which every server refused to take changes.
var ErrNoWriter = errors.New("no server of the directory takes changes")

// Link is the way to one directory: a list of servers that hold the same entries, and the editor of the one in use. When
// that one is lost, the servers are tried in turn until one answers or Wait is over. Its methods may be called from
// several goroutines at once.
type Link struct {
	Servers []string
	Open    func(ctx context.Context, server string) (directory.Editor, error)
	Wait    time.Duration // how long to wait for a directory that is away
	Say     func(format string, args ...any)

	mu       sync.Mutex
	editor   directory.Editor
	next     int // of Servers, to try
	readOnly map[string]bool
	refused  map[string]error // the servers that refuse the bind
}

// Name is what the directory is called in reports.
func (l *Link) Name() string { return strings.Join(l.Servers, " ") }

// Editor gives the editor in use, or connects.
func (l *Link) Editor(ctx context.Context) (directory.Editor, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.editor != nil {
		return l.editor, nil
	}
	pause, deadline, said := 50*time.Millisecond, time.Now().Add(l.Wait), false
	for {
		for range l.Servers {
			server := l.Servers[l.next%len(l.Servers)]
			if !l.usable(server) {
				l.next++
				continue
			}
			editor, err := l.Open(ctx, server)
			if err == nil {
				l.editor = editor
				if said {
					l.Say("%s answers again", server)
				}
				return editor, nil
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			l.next++
			if errors.Is(err, directory.ErrBadPassword) {
				l.refuse(server, err)
				continue
			}
			if time.Now().After(deadline) {
				return nil, fmt.Errorf("%w: %w", ErrAway, err)
			}
			if !said {
				l.Say("%v; waiting up to %s for it", err, l.Wait)
				said = true
			}
		}
		if !slices.ContainsFunc(l.Servers, l.usable) {
			return nil, l.nobody()
		}
		if err := sleep(ctx, pause*3/4+rand.N(pause/2)); err != nil {
			return nil, err
		}
		pause = min(2*pause, 2*time.Second)
	}
}

func (l *Link) usable(server string) bool { return !l.readOnly[server] && l.refused[server] == nil }

// refuse keeps in mind that a server does not know us: to ask again could lock the account.
func (l *Link) refuse(server string, err error) {
	if l.refused == nil {
		l.refused = map[string]error{}
	}
	l.refused[server] = err
}

// nobody is why there is no server left to try.
func (l *Link) nobody() error {
	for _, err := range l.refused {
		return err
	}
	return ErrNoWriter
}

// Lost drops an editor whose connection broke. Only the first to report it does so.
func (l *Link) Lost(editor directory.Editor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.editor == editor {
		editor.Close()
		l.editor = nil
	}
}

// ReadOnly drops an editor whose server takes no changes, for good.
func (l *Link) ReadOnly(editor directory.Editor) {
	l.mu.Lock()
	if l.readOnly == nil {
		l.readOnly = map[string]bool{}
	}
	l.readOnly[editor.Server()] = true
	l.mu.Unlock()
	l.Lost(editor)
}

// Close ends the connections.
func (l *Link) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.editor != nil {
		l.editor.Close()
		l.editor = nil
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
