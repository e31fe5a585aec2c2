package envelope

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// pieces is a source that hands out n bytes at a time.
type pieces struct {
	rest string
	n    int
}

func (p *pieces) Peek() ([]byte, error) {
	if p.rest == "" {
		return nil, io.ErrUnexpectedEOF
	}
	return []byte(p.rest[:min(p.n, len(p.rest))]), nil
}

func (p *pieces) Skip(n int) { p.rest = p.rest[n:] }

// What ends a text and what does not, however the network cuts it: of all the ends that servers have taken for one, only
// CRLF.CRLF is.
func TestTextEndsOnlyByCRLFDotCRLF(t *testing.T) {
	const behind = "MAIL FROM:<x@example.net>\r\n"
	for _, c := range []struct {
		in, text, repaired string // repaired "" is as text
		bare               bool
	}{
		{"a\r\n.\r\n", "a\r\n", "", false},
		{".\r\n", "", "", false},
		{"..\r\n...x\r\n.y\r\n.\r\n", ".\r\n..x\r\ny\r\n", "", false},
		{"a\n.\n\r\n.\r\n", "", "a\r\n.\r\n\r\n", true},
		{"a\n.\r\nb\r\n.\r\n", "", "a\r\n.\r\nb\r\n", true},
		{"a\r\n.\nb\r\n.\r\n", "", "a\r\n\r\nb\r\n", true},
		{"a\r.\rb\r\n.\r\n", "", "a\r\n.\r\nb\r\n", true},
		{"a\r.\r\nb\r\n.\r\n", "", "a\r\n.\r\nb\r\n", true},
		{"a\r\n.\rb\r\n.\r\n", "", "a\r\n\r\nb\r\n", true},
		{"a\r\n.\r\r\nb\r\n.\r\n", "", "a\r\n\r\n\r\nb\r\n", true},
		{"a\r\r\n.\r\n", "", "a\r\n\r\n", true},
		{"a\r\n\x00.\r\nb\r\n.\r\n", "a\r\n\x00.\r\nb\r\n", "", false},
		{"a\r\n. \r\nb\r\n.\r\n", "a\r\n \r\nb\r\n", "", false},
	} {
		for n := 1; n <= len(c.in)+3; n++ {
			for _, repair := range []bool{false, true} {
				src := &pieces{c.in + behind, n}
				text := NewText(src, 1000, repair)
				got, err := io.ReadAll(text)
				if err != nil || src.rest != behind {
					t.Fatalf("%q in pieces of %d: error %v, %q is left", c.in, n, err, src.rest)
				}
				want := c.text
				if repair && c.repaired != "" {
					want = c.repaired
				}
				if refused := errors.Is(text.Fault(), ErrBareNewline); refused != (c.bare && !repair) {
					t.Errorf("%q, repair %t: fault %v", c.in, repair, text.Fault())
				} else if !refused && string(got) != want {
					t.Errorf("%q, repair %t, in pieces of %d: %q, want %q", c.in, repair, n, got, want)
				}
			}
		}
	}
}

// A text that is too big, or comes in chunks that end in the middle of a CRLF, is judged at its end.
func TestTextLimitsAndChunks(t *testing.T) {
	src := &pieces{strings.Repeat("0123456789\r\n", 20) + ".\r\nNOOP", 7}
	text := NewText(src, 100, false)
	if got, err := io.ReadAll(text); err != nil || len(got) > 100 || !errors.Is(text.Fault(), ErrTooBig) || src.rest != "NOOP" {
		t.Errorf("%d bytes, %v, fault %v, left %q", len(got), err, text.Fault(), src.rest)
	}
	src = &pieces{"one\r" + "\n.\r\ntwo\r", 3}
	text = NewChunks(src, 100, false)
	var all []byte
	for _, n := range []int64{4, 4, 4} {
		text.Chunk(n)
		got, err := io.ReadAll(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, got...)
	}
	if string(all) != "one\r\n.\r\ntwo" || !errors.Is(text.Close(), ErrBareNewline) {
		t.Errorf("%q, fault %v", all, text.Fault())
	}
	header := strings.Repeat("RECEIVED: from a by b\r\n\tfolded\r\n", 7) + "Subject: x\r\n\r\nReceived: not one\r\n.\r\n"
	text = NewText(&pieces{header, 5}, 10000, false)
	if _, err := io.ReadAll(text); err != nil || text.Hops() != 7 {
		t.Errorf("%d hops, %v; want 7", text.Hops(), err)
	}
}

// What is decoded never has a bare CR or LF, and what follows the end is never touched.
func FuzzText(f *testing.F) {
	f.Add("a\r\n.\r\n", byte(1), true)
	f.Add("..\n.\r\r\n\x00.\r\n.\r\n", byte(3), false)
	f.Fuzz(func(t *testing.T, in string, n byte, repair bool) {
		src := &pieces{in + "\r\n.\r\n", int(n)%16 + 1}
		text := NewText(src, 1<<20, repair)
		got, err := io.ReadAll(text)
		if err != nil {
			t.Fatal(err)
		}
		left := strings.ReplaceAll(string(got), "\r\n", "")
		if strings.ContainsAny(left, "\r\n") {
			t.Errorf("%q became %q", in, got)
		}
		if text.Fault() == nil && !repair {
			plain := "\r\n" + in + "\r\n.\r\n"
			end := strings.Index(plain, "\r\n.\r\n")
			if want := strings.ReplaceAll(plain[:end+2], "\r\n.", "\r\n"); "\r\n"+string(got) != want {
				t.Errorf("%q became %q, want %q", in, got, want[2:])
			}
		}
	})
}

func TestParse(t *testing.T) {
	all := Offer{DSN: true, UTF8: true}
	for in, want := range map[string]Sender{
		"FROM:<a@example.net>":                              {Address: "a@example.net"},
		"from: <> size=12 BODY=8bitmime":                    {Size: 12, EightBit: true},
		"FROM:<@a,@b:x@example.net> RET=hdrs ENVID=a+2Bb":   {Address: "x@example.net", Return: "HDRS", EnvID: "a+b"},
		`FROM:<"a> SIZE=9"@example.net> SMTPUTF8 AUTH=<>`:   {Address: `"a> SIZE=9"@example.net`, UTF8: true},
		"FROM:<j\u00fcrgen@example.net> SMTPUTF8 BODY=7BIT": {Address: "j\u00fcrgen@example.net", UTF8: true},
	} {
		if got, err := ParseMail([]byte(in), all); err != nil || got != want {
			t.Errorf("MAIL %s: %+v, %v; want %+v", in, got, err, want)
		}
	}
	for in, want := range map[string]error{
		"FROM:a@example.net": ErrSyntax, "TO:<a@b>": ErrSyntax, "FROM:<a@b": ErrSyntax, "FROM:<a@b>SIZE=1": ErrSyntax, "FROM:<a b@c>": ErrSyntax,
		"FROM:<a@b> SIZE=x": ErrSyntax, "FROM:<a@b> SIZE=99999999999999999999": ErrSyntax, "FROM:<a@b> BODY=BINARYMIME": ErrSyntax,
		"FROM:<a@b> FOO": ErrParameter, "FROM:<a\u00fc@b>": ErrUTF8, "FROM:<a\x01@b>": ErrSyntax, "FROM:<a@b> ENVID=a+00b": ErrSyntax, "FROM:<a<b@c>": ErrSyntax,
		"FROM:<" + strings.Repeat("a", 260) + "@b>": ErrSyntax, "FROM:<a\xff@b> SMTPUTF8": ErrSyntax,
	} {
		if _, err := ParseMail([]byte(in), all); !errors.Is(err, want) {
			t.Errorf("MAIL %q: %v, want %v", in, err, want)
		}
	}
	r, err := ParseRecipient([]byte("TO:<a@b> NOTIFY=success,DELAY ORCPT=rfc822;x+40y"), all, false)
	if err != nil || !slices.Equal(r.Notify, []string{"SUCCESS", "DELAY"}) || r.Original != "x@y" || r.OriginalType != "rfc822" {
		t.Errorf("%+v, %v", r, err)
	}
	for in, want := range map[string]string{
		"X400;/G=Ann/": "x400;/G=Ann/", `utf-8;j\x{FC}rgen@x`: "utf-8;jürgen@x", "UTF-8;jürgen@x": "utf-8;jürgen@x", `rfc822;\x{FC}`: `rfc822;\x{FC}`,
	} {
		r, err := ParseRecipient([]byte("TO:<a@b> ORCPT="+in), all, false)
		if got := r.OriginalType + ";" + r.Original; err != nil || got != want {
			t.Errorf("ORCPT=%s: %q, %v", in, got, err)
		}
	}
	for in, want := range map[string]error{
		`TO:<a@b> ORCPT=utf-8;\x{FC`: ErrSyntax, `TO:<a@b> ORCPT=utf-8;\x{110000}`: ErrSyntax, `TO:<a@b> ORCPT=utf-8;\x{A}`: ErrSyntax,
		"TO:<>": ErrSyntax, "TO:<a@b> NOTIFY=NEVER,DELAY": ErrSyntax, "TO:<a@b> NOTIFY=DELAY,DELAY": ErrSyntax, "TO:<a@b> NOTIFY=NEVER notify=DELAY": ErrSyntax, "TO:<a@b> ORCPT=x y": ErrSyntax, "TO:<a@b> ORCPT=;y": ErrSyntax, "TO:<a@b> ORCPT=x@z;y": ErrSyntax,
		"TO:<a@b> SIZE=1": ErrParameter, "TO:<\u00fc@b>": ErrUTF8,
	} {
		if _, err := ParseRecipient([]byte(in), all, false); !errors.Is(err, want) {
			t.Errorf("RCPT %q: %v, want %v", in, err, want)
		}
	}
	if _, err := ParseRecipient([]byte("TO:<a@b> NOTIFY=NEVER"), Offer{}, false); !errors.Is(err, ErrParameter) {
		t.Errorf("a parameter that was not offered: %v", err)
	}
}

// A path that is taken can be written behind RCPT TO again, and reads the same.
func FuzzParseRecipient(f *testing.F) {
	f.Add(`TO:<"a> NOTIFY=NEVER"@x> NOTIFY=NEVER`)
	f.Add("TO:<@a:b@c>")
	f.Fuzz(func(t *testing.T, in string) {
		r, err := ParseRecipient([]byte(in), Offer{DSN: true, UTF8: true}, true)
		if err != nil {
			return
		}
		again, err := ParseRecipient([]byte("TO:<"+r.Address+">"), Offer{}, true)
		if err != nil || again.Address != r.Address || strings.ContainsAny(r.Address, "\r\n") {
			t.Errorf("%q: %q, then %q, %v", in, r.Address, again.Address, err)
		}
	})
}

// A body that outgrows the memory of its own, or of all, goes on in a file, and any number of readers have it whole.
func TestBody(t *testing.T) {
	store := &Store{Dir: t.TempDir(), PerBody: 10_000, Total: 15_000}
	var bodies []*Body
	for _, size := range []int{9_000, 9_000, 100_000, 10} {
		b := store.NewBody()
		bodies = append(bodies, b)
		want := strings.Repeat("x", size-1) + "\xe4"
		for rest := want; rest != ""; rest = rest[min(1000, len(rest)):] {
			if _, err := b.Write([]byte(rest[:min(1000, len(rest))])); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			got, err := io.ReadAll(b.Open())
			if err != nil || string(got) != want || b.Size() != int64(size) || !b.EightBit() {
				t.Errorf("%d of %d bytes, %v", len(got), size, err)
			}
		}
	}
	if bodies[0].file != nil || bodies[1].file == nil || bodies[2].file == nil {
		t.Error("the bounds of memory are not kept")
	}
	for _, b := range bodies {
		b.Close()
		b.Close()
	}
	if n := store.used.Load(); n != 0 {
		t.Errorf("%d bytes are held by nobody", n)
	}
}

// The Received fields are counted, folded or not, and those with our own words; what stands in the body is no field.
func TestHopsAndPasses(t *testing.T) {
	const by = "by mail.example.com (mailmux)"
	for _, c := range []struct {
		text         string
		hops, passes int
	}{
		{"Received: from x\r\n\t" + by + " with LMTP;\r\n\tdate\r\nSubject: " + by + "\r\n\r\nReceived: " + by + "\r\n.\r\n", 1, 1},
		{"received: from x " + by + " " + by + "\r\nX-Received: " + by + "\r\nRECEIVED: by by mail.example.com (mailmux)\r\n.\r\n", 2, 2},
		{"Received: from x by\r\n mail.example.com (mailmux)\r\nReceived: by mail.example.com (other)\r\n\t" + by + "\r\n.\r\n", 2, 1},
		{"Subject: x\r\n\t" + by + "\r\nReceived:\r\n.\r\n", 1, 0},
	} {
		for n := 1; n < 40; n++ {
			text := NewText(&pieces{c.text, n}, 1000, false)
			text.Watch(by)
			if _, err := io.ReadAll(text); err != nil {
				t.Fatal(err)
			}
			if text.Hops() != c.hops || text.Passes() != c.passes {
				t.Errorf("%q in pieces of %d: %d hops, %d passes", c.text, n, text.Hops(), text.Passes())
			}
		}
	}
}
