package directory

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"mailmux/directory/slapdtest"
)

// The members of a host can be listed in an entry, on a server and in a file alike.
func TestValues(t *testing.T) {
	s := slapdtest.Start(t, slapdtest.Options{LDIF: people})
	sources := map[string]*Directory{
		"slapd": open(t, slapdConfig(t, s.URL)),
		"ldif":  open(t, Config{Servers: []string{"ldif:" + writeLDIF(t, slapdtest.Skeleton+people)}, Base: slapdtest.Base}),
	}
	const homeless = "uid=homeless,dc=example.com,ou=domains,dc=example,dc=com"
	for name, d := range sources {
		values, err := d.Values(t.Context(), strings.ToUpper(homeless), "DESCRIPTION")
		slices.Sort(values)
		if want := []string{"back1.example.com", "back2.example.com"}; err != nil || !slices.Equal(values, want) {
			t.Errorf("%s: %q, %v; want %q", name, values, err, want)
		}
		if values, err := d.Values(t.Context(), homeless, "ipHostNumber"); err == nil {
			t.Errorf("%s: an attribute that is not there has the values %q", name, values)
		}
		if values, err := d.Values(t.Context(), "uid=none,"+slapdtest.Base, "description"); err == nil {
			t.Errorf("%s: an entry that is not there has the values %q", name, values)
		}
	}
	s.Stop()
	if _, err := sources["slapd"].Values(t.Context(), homeless, "description"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without a server: %v, want ErrUnavailable", err)
	}
}
