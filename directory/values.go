package directory

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-ldap/ldap/v3"
)

// Values reads an attribute of one entry, past the memory: the members of a host that are listed in the directory. An
// entry that is not there, or has no such attribute, is an error as an outage is, for whoever asks knows better than to
// believe that a host has no members.
func (d *Directory) Values(ctx context.Context, dn, attribute string) ([]string, error) {
	if !d.begin() {
		return nil, fmt.Errorf("%w: closed", ErrUnavailable)
	}
	defer d.wg.Done()
	e, err := d.source.entry(ctx, dn, attribute)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", attribute, clip(dn), err)
	}
	values := e.values(attribute)
	if len(values) == 0 {
		return nil, fmt.Errorf("read %s of %s: the entry has no such attribute", attribute, clip(dn))
	}
	return values, nil
}

func (p *servers) entry(ctx context.Context, dn, name string) (*entry, error) {
	request := ldap.NewSearchRequest(dn, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, 0, false, "(objectClass=*)", []string{name}, nil)
	var found []*ldap.Entry
	_, err := p.ask(ctx, "search", func(ctx context.Context, s *server) error {
		return s.try(ctx, func(ctx context.Context, c *conn) (err error) {
			found, err = c.search(ctx, request, 1)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errNoEntry
	}
	e := &entry{dn: found[0].DN}
	for _, a := range found[0].Attributes {
		e.attributes = append(e.attributes, attribute{a.Name, a.Values})
	}
	return e, nil
}

func (f *file) entry(_ context.Context, dn, _ string) (*entry, error) {
	f.requests.Add(1)
	if e := f.current().byDN[foldDN(dn)]; e != nil {
		return e, nil
	}
	return nil, errNoEntry
}

// errNoEntry: a DN that was configured is not there, or not to be seen.
var errNoEntry = errors.New("there is no such entry, or it must not be read")
