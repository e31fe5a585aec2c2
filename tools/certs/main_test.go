package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	for _, test := range []struct {
		args   []string
		code   int
		output string
	}{
		{[]string{}, 2, "certs: say where to write with -dir DIR"},
		{[]string{"-dir", dir, "a.example.com"}, 2, "nothing else without a flag"},
		{[]string{"-nonsense"}, 2, "flag provided but not defined"},
		{[]string{"-dir", os.DevNull}, 1, "certs: make directory"},
		{[]string{"-dir", dir, "-host", "a.example.com", "-host", "127.0.0.1"}, 0, "ca, server, server-rsa for a.example.com 127.0.0.1"},
		{[]string{"-dir", dir, "-name", "other"}, 0, "ca, other, other-rsa for localhost 127.0.0.1 ::1"},
	} {
		var out bytes.Buffer
		code := run(test.args, &out, &out)
		if code != test.code || !strings.Contains(out.String(), test.output) {
			t.Errorf("%q: code %d, output %q; want %d, %q", test.args, code, out.String(), test.code, test.output)
		}
	}
	// The second run kept the authority of the first one: it vouches for the certificates of both.
	authority, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	for _, name := range []string{"server", "server-rsa", "other", "client"} {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		usages := []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: usages}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
