// Command certs makes a test authority and certificates signed by it:
//
//	go run ./tools/certs -dir DIR -host mail.example.com -host 127.0.0.1
//
// writes ca.pem, ca.key, server.pem and server.key (ECDSA), server-rsa.pem and server-rsa.key, client.pem and client.key
// into DIR. An authority that is there already is kept and used.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mailmux/tools/certs/pki"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// options are the command line.
type options struct {
	dir    string
	name   string
	client string
	hosts  []string
}

// run does the work and returns the exit code: 0 done, 1 it could not be done, 2 usage.
func run(args []string, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("certs", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.dir, "dir", "", "directory to write to; made if need be")
	flags.StringVar(&o.name, "name", "server", "file name of the server certificates, without .pem")
	flags.StringVar(&o.client, "client", "client", "common name of the client certificate")
	flags.Func("host", "DNS name or address of the server certificates; may be given often (default localhost, 127.0.0.1, ::1)",
		func(host string) error { o.hosts = append(o.hosts, host); return nil })
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if o.dir == "" || flags.NArg() > 0 {
		fmt.Fprintln(stderr, "certs: say where to write with -dir DIR, and nothing else without a flag")
		return 2
	}
	if err := write(o); err != nil {
		fmt.Fprintln(stderr, "certs:", err)
		return 1
	}
	fmt.Fprintf(stdout, "%s: ca, %s, %s-rsa for %s; client for %s\n", o.dir, o.name, o.name, strings.Join(o.hostList(), " "), o.client)
	return 0
}

// hostList are the hosts asked for, or this machine.
func (o options) hostList() []string {
	if len(o.hosts) == 0 {
		return []string{"localhost", "127.0.0.1", "::1"}
	}
	return o.hosts
}

// write makes the files.
func write(o options) error {
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	ca, err := authority(o.dir)
	if err != nil {
		return err
	}
	for _, wanted := range []struct {
		file    string
		request pki.Request
	}{
		{o.name, pki.Request{Hosts: o.hostList()}},
		{o.name + "-rsa", pki.Request{Hosts: o.hostList(), Algorithm: pki.RSA}},
		{"client", pki.Request{Name: o.client, Client: true}},
	} {
		pair, err := ca.Issue(wanted.request)
		if err != nil {
			return err
		}
		if err := pair.Write(o.dir, wanted.file); err != nil {
			return err
		}
	}
	return nil
}

// authority loads the authority of the directory, or makes it.
func authority(dir string) (*pki.CA, error) {
	_, err := os.Stat(filepath.Join(dir, "ca.pem"))
	if err == nil {
		return pki.LoadCA(dir, "ca")
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for an authority: %w", err)
	}
	ca, err := pki.NewCA("mailmux test authority", pki.ECDSA)
	if err != nil {
		return nil, err
	}
	return ca, ca.Write(dir, "ca")
}
