package submission

import (
	"slices"
	"strings"
	"testing"

	"mailmux/proxy/smtpwire"
)

func TestCommon(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lists [][]string
		want  []string
	}{
		{"one member", [][]string{{"DSN", "SIZE 100", "STARTTLS", "AUTH PLAIN", "AUTH=LOGIN", "XCLIENT ADDR", "XFORWARD NAME", "X-EXPS", "VRFY"}},
			[]string{"DSN", "SIZE 100", "VRFY"}},
		{"two", [][]string{{"8BITMIME", "CHUNKING", "DSN"}, {"8bitmime", "dsn"}}, []string{"8BITMIME", "DSN"}},
		{"parameters differ", [][]string{{"LIMITS RCPTMAX=5", "DELIVERBY 60"}, {"LIMITS RCPTMAX=9", "DELIVERBY 60"}}, []string{"DELIVERBY 60"}},
		{"smallest size", [][]string{{"SIZE 300"}, {"size 200"}, {"SIZE 0"}, {"SIZE"}}, []string{"SIZE 200"}},
		{"no fixed size", [][]string{{"SIZE 0"}, {"SIZE"}}, []string{"SIZE"}},
		{"size not known", [][]string{{"SIZE 300"}, {"DSN"}}, nil},
		{"size that is none", [][]string{{"SIZE many"}, {"SIZE 99999999999999999999999"}}, []string{"SIZE"}},
		{"overlong", [][]string{{"LIMITS " + strings.Repeat("x", 300)}}, nil},
		{"nothing", [][]string{{}}, nil},
		{"no member seen yet", nil, safeOffer},
	} {
		if got := common(tt.lists); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestOfferable(t *testing.T) {
	got := offerable(smtpwire.Extensions{"SIZE 5", "auth PLAIN", "StartTLS", "xclient ADDR", "DSN", "AUTH=X"})
	if want := []string{"SIZE 5", "DSN"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
