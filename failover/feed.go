package failover

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"mailmux/directory"
)

// Item is one step of a feed.
type Item struct {
	Change  directory.Change
	DN      string // of an entry that is left alone; a name where there is no entry
	Leave   string // why; "" for a change
	Broken  bool   // left alone because something is wrong with it
	Barrier bool   // nothing but a line: what came before has to be done before what follows
}

// Feed finds out what is to be changed.
type Feed interface {
	// Feed gives the items to out, and stops at its first error. An error that is ErrPartial says that there may be more,
	// which another pass would find.
	Feed(ctx context.Context, out func(Item) error) error
}

// ErrPartial says that a feed ended early, with the directory.
var ErrPartial = errors.New("the search ended early")

// SearchFeed finds the entries of a plan by a search.
type SearchFeed struct {
	Link *Link
	Plan Plan
	Base string // narrows the search, as do Filter and Domain
	// Filter is an LDAP filter besides the plan's own.
	Filter string
	Domain string
}

// Feed searches, and lets the plan decide.
func (f *SearchFeed) Feed(ctx context.Context, out func(Item) error) error {
	editor, err := f.Link.Editor(ctx)
	if err != nil {
		return err
	}
	q := f.Plan.Query()
	q.Base, q.Filter, q.Domain = f.Base, f.Filter, f.Domain
	var ours error
	err = editor.Search(ctx, q, func(r directory.Record) error {
		ours = out(decide(f.Plan, r))
		return ours
	})
	if err != nil && ours == nil && ctx.Err() == nil && (errors.Is(err, directory.ErrLost) || errors.Is(err, directory.ErrBusy)) {
		f.Link.Lost(editor)
		return fmt.Errorf("%w: %w", ErrPartial, err)
	}
	return err
}

func decide(p Plan, r directory.Record) Item {
	c, leave := p.Decide(r)
	return Item{Change: c, DN: cmp.Or(r.DN, r.Referral), Leave: leave, Broken: unclear(r) != ""}
}

// ListFeed takes the accounts from a list: one login name, address or DN a line; blank lines and lines that begin with #
// do not count, nor does the mark that some editors put in front of UTF-8.
type ListFeed struct {
	Link    *Link
	Plan    Plan
	List    io.Reader
	Domains *directory.Domains
}

// maxLine bounds a line of the list; a DN has no bound of its own.
const maxLine = 1 << 20

// Feed looks up each name. An account that is named twice counts once: its second change would not fit any more.
func (f *ListFeed) Feed(ctx context.Context, out func(Item) error) error {
	seen := map[string]bool{}
	lines := bufio.NewScanner(f.List)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		name := strings.TrimSpace(strings.TrimPrefix(lines.Text(), "\ufeff"))
		if name == "" || strings.HasPrefix(name, "#") {
			continue
		}
		item, err := f.lookUp(ctx, name)
		if err != nil {
			return err
		}
		key := directory.CanonicalDN(cmp.Or(item.Change.DN, item.DN))
		if seen[key] {
			continue
		}
		seen[key] = true
		if err := out(item); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the list of accounts: %w", err)
	}
	return nil
}

// lookUp reads one account; a directory that went away meanwhile is waited for.
func (f *ListFeed) lookUp(ctx context.Context, name string) (Item, error) {
	for deadline := time.Now().Add(f.Link.Wait); ; {
		editor, err := f.Link.Editor(ctx)
		if err != nil {
			return Item{}, err
		}
		item, err := f.ask(ctx, editor, name)
		switch {
		case err == nil || ctx.Err() != nil || errors.Is(err, directory.ErrUnavailable):
			return item, err
		case errors.Is(err, directory.ErrLost), errors.Is(err, directory.ErrBusy):
			f.Link.Lost(editor)
			if time.Now().After(deadline) {
				return Item{}, fmt.Errorf("%w: %w", ErrAway, err)
			}
			if err := sleep(ctx, 100*time.Millisecond); err != nil {
				return Item{}, err
			}
		default: // what the directory says of one name is no reason to leave the others where they are
			return Item{DN: name, Leave: err.Error(), Broken: true}, nil
		}
	}
}

// ask reads the entry of a name. An address may read as a DN, such as a=b@example.com.
func (f *ListFeed) ask(ctx context.Context, editor directory.Editor, name string) (Item, error) {
	if directory.IsDN(name) {
		r, err := editor.Get(ctx, name)
		switch {
		case err == nil || !errors.Is(err, directory.ErrGone):
			return decide(f.Plan, r), err
		case !strings.Contains(name, "@"):
			return Item{DN: name, Leave: "there is no such entry", Broken: true}, nil
		}
	}
	normal, err := f.Domains.Login(name, netip.Addr{}, "")
	if err != nil {
		return Item{DN: name, Leave: err.Error(), Broken: true}, nil
	}
	found, err := editor.Find(ctx, normal)
	switch {
	case err != nil:
		return Item{}, err
	case len(found) == 0:
		return Item{DN: name, Leave: "there is no such account", Broken: true}, nil
	case len(found) > 1:
		return Item{DN: name, Leave: fmt.Sprintf("several entries match: %s and %s", found[0].DN, found[1].DN), Broken: true}, nil
	}
	return decide(f.Plan, found[0]), nil
}
