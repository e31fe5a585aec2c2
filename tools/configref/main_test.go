package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const module = "../.."

// TestReference wants the file to be what the source says.
func TestReference(t *testing.T) {
	want, err := reference(module)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(module, target))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the source says: run go run ./tools/configref", target)
	}
}

// TestKeys looks for keys at each depth, and for names of Go that have no place in a document for operators.
func TestKeys(t *testing.T) {
	b, err := reference(module)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, want := range []string{
		"| `hostname` | text | The name ", "### directory.cache\n", "| `negative_ttl` |", "### hosts.NAME.members[]\n", "| `weight` |", "### backend.check\n",
		"### listeners[]\n", "| `proxy_protocol` | list of networks |", "### tls.certificates[]\n", "| `login_timeout` | duration |",
		"| `mailmux_sessions_ended_total` | counter | outcome, service |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the reference", want)
		}
	}
	for line := range strings.Lines(text) {
		if word := camel.FindString(line); word != "" && !known[word] {
			t.Errorf("a name of Go: %s in %s", word, line)
		}
	}
}

// known are words that look like names of Go and are none.
var known = map[string]bool{"HAProxy": true, "TimeoutStopSec": true}
