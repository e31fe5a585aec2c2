package ldapd

import (
	"bytes"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"
)

// memoryConn feeds a connection from memory and forgets what it writes.
type memoryConn struct {
	io.Reader
	net.Conn
}

func (c *memoryConn) Read(p []byte) (int, error)       { return c.Reader.Read(p) }
func (c *memoryConn) Write(p []byte) (int, error)      { return len(p), nil }
func (c *memoryConn) Close() error                     { return nil }
func (c *memoryConn) SetDeadline(time.Time) error      { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

// FuzzServe feeds raw bytes to a connection that may write: no request may panic, hang, or leave the tree inconsistent.
func FuzzServe(f *testing.F) {
	seq := func(id int, rest string) string {
		body := "\x02\x01" + string(rune(id)) + rest
		return "\x30" + string(rune(len(body))) + body
	}
	search := "\x63\x1d\x04\x04dc=a\x0a\x01\x02\x0a\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\x00\xa3\x06\x04\x01a\x04\x01b\x30\x00"
	modify := "\x66\x15\x04\x04dc=a\x30\x0d\x30\x0b\x0a\x01\x00\x30\x06\x04\x01x\x31\x01\x00"
	f.Add([]byte(seq(1, "\x60\x10\x02\x01\x03\x04\x05cn=ad\x80\x04root")))
	f.Add([]byte(seq(1, search)))
	f.Add([]byte(seq(1, modify) + seq(2, "\x4a\x04dc=a")))
	f.Add([]byte(seq(1, "\x77\x10\x80\x0e1.3.6.1.1.21.1") + seq(2, modify)))
	f.Add([]byte(seq(1, "\x42\x00")))
	f.Fuzz(func(t *testing.T, data []byte) {
		tree := NewTree(Rules{})
		if err := tree.LoadLDIF(strings.NewReader("dn: dc=a\ndc: a\nobjectClass: x\n\ndn: uid=u,dc=a\nuid: u\nobjectClass: x\n")); err != nil {
			t.Fatal(err)
		}
		server := New(tree, Config{AnonymousWrites: true, MaxMessage: 64 << 10})
		c := newConn(server, &memoryConn{Reader: bytes.NewReader(data)}, 1)
		c.serve()
		children := make(map[string]int)
		for key, n := range tree.entries {
			if key != n.key || key == "" {
				t.Fatalf("entry %q is filed under %q", n.key, key)
			}
			children[n.parent]++
		}
		for parent, count := range tree.children {
			if children[parent] != count {
				t.Fatalf("%q has %d children, the tree says %d", parent, children[parent], count)
			}
		}
	})
}

// FuzzParseDN: a canonical key is its own canonical key, and its parent is a suffix of it.
func FuzzParseDN(f *testing.F) {
	for _, dn := range []string{"", "cn=a", "cn=Smith\\, Jane,ou=x", "a=1+b=2;c=\\20\\3d", "uid=\\", "cn=\\c3\\a4"} {
		f.Add(dn)
	}
	f.Fuzz(func(t *testing.T, s string) {
		dn, err := parseDN(s)
		if err != nil {
			return
		}
		again, err := parseDN(dn.key)
		if err != nil || again.key != dn.key {
			t.Fatalf("%q has key %q, which has key %q, %v", s, dn.key, again.key, err)
		}
		if parent, ok := dn.parent(); ok && !strings.HasSuffix(dn.key, ","+parent) {
			t.Fatalf("%q has key %q and parent %q", s, dn.key, parent)
		}
	})
}

// FuzzReadLDIF: no file panics, and what was read can be written and read back.
func FuzzReadLDIF(f *testing.F) {
	f.Add("dn: dc=a\na: b\n")
	f.Add("dn:: ZGM9YQ==\na::\n  \n\ndn: b=c\nx:<\n")
	f.Fuzz(func(t *testing.T, text string) {
		tree := NewTree(Rules{})
		if tree.LoadLDIF(strings.NewReader(text)) != nil {
			return
		}
		var out bytes.Buffer
		if err := tree.WriteLDIF(&out); err != nil {
			t.Fatal(err)
		}
		again := NewTree(Rules{})
		if err := again.LoadLDIF(&out); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(tree.Entries(), again.Entries()) {
			t.Fatalf("%q became %q", tree.Entries(), again.Entries())
		}
	})
}
