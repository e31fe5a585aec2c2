package claims

import (
	"net"
	"strings"
	"testing"
	"time"
)

// check -online tells an endpoint that says nothing, one that nobody listens at, and one that works apart, and what does
// not answer does not take the time from what does.
func TestCheckOfSeveralEndpoints(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	cfg := Config{Endpoints: []string{"http://" + silent.Addr().String(), "http://" + gone.Addr().String(), etcd(t)}, Timeout: 2 * time.Second}
	well, faults := Check(t.Context(), cfg)
	want := []string{
		"claims.endpoints[0]: " + cfg.Endpoints[0] + " takes the connection, and does not answer: ",
		"claims.endpoints[1]: " + cfg.Endpoints[1] + ": dial tcp ",
	}
	if well != 1 || len(faults) != len(want) {
		t.Fatalf("%d well; %v", well, faults)
	}
	for i, text := range want {
		if !strings.HasPrefix(faults[i].Error(), text) {
			t.Errorf("%q does not begin with %q", faults[i], text)
		}
	}
}
