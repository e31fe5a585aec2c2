package xclient

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	attributes := []attribute{{"HELO", "my pc"}, {"LOGIN", "ann"}, {"TTL", ""}, {"ADDR", "IPV6:2001:db8::1"}, {"NAME", unavailable}}
	got := write("NAME ADDR helo TTL", attributes)
	if want := []string{"XCLIENT HELO=my+20pc ADDR=IPV6:2001:db8::1 NAME=[UNAVAILABLE]"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := write("PROTO", attributes); got != nil {
		t.Errorf("nothing advertised: %q", got)
	}
}

func TestWriteSplitsLines(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	got := write("A B C D E", []attribute{{"A", long(500)}, {"B", long(501)}, {"C", long(250)}, {"D", long(250)}, {"E", "e"}})
	want := []string{"XCLIENT A=" + long(500), "XCLIENT C=" + long(250), "XCLIENT D=" + long(250) + " E=e"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	for _, line := range got {
		if len(line) > 510 {
			t.Errorf("%d bytes: %.40s", len(line), line)
		}
	}
}

func TestParse(t *testing.T) {
	var got []string
	collect := func(name, value string) error {
		if value == "no" {
			return errors.New("refused")
		}
		got = append(got, name+":"+value)
		return nil
	}
	if err := parse(" addr=203.0.113.5  HELO=a+2Bb NAME=[unavailable] CLIENT-TRANSPORT=TLS", collect); err != nil {
		t.Fatal(err)
	}
	if want := []string{"ADDR:203.0.113.5", "HELO:a+b", "NAME:", "CLIENT-TRANSPORT:TLS"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, bad := range []string{"", "  ", "ADDR", "=x", "A DR=x", "ADDR=+zz", "A_B=x", "ADDR=no"} {
		if err := parse(bad, collect); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// FuzzParse: what was understood survives being written again.
func FuzzParse(f *testing.F) {
	f.Add("ADDR=IPV6:::1 HELO=a+20b TTL=6")
	f.Add("A=+FF B=[UNAVAILABLE]")
	f.Fuzz(func(t *testing.T, args string) {
		var attributes []attribute
		names := ""
		err := parse(args, func(name, value string) error {
			if value != "" {
				attributes = append(attributes, attribute{name, value})
				names += name + " "
			}
			return nil
		})
		if err != nil || len(args) > 150 {
			return
		}
		var again []attribute
		for _, command := range write(names, attributes) {
			err := parse(strings.TrimPrefix(command, "XCLIENT "), func(name, value string) error {
				again = append(again, attribute{name, value})
				return nil
			})
			if err != nil || len(command) > maxCommand {
				t.Fatalf("%q: %v", command, err)
			}
		}
		if !slices.Equal(attributes, again) {
			t.Errorf("%q became %q", attributes, again)
		}
	})
}
