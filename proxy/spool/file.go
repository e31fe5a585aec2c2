package spool

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// format is the version of the file format; a file of another one is left to a human.
const format = 1

// header is the first line of a file. Its size is padded, so that it can be written when the message has ended.
type header struct {
	Format   int       `json:"mailmux"`
	ID       string    `json:"id"`
	Size     int64     `json:"size"`
	Rcpts    int       `json:"rcpts"`
	At       time.Time `json:"at"`
	From     string    `json:"from"`
	Body     string    `json:"body,omitempty"`
	SMTPUTF8 bool      `json:"smtputf8,omitempty"`
	Ret      string    `json:"ret,omitempty"`
	EnvID    string    `json:"envid,omitempty"`
	Client   string    `json:"client,omitempty"`
}

// record is a line behind the message: what happened to recipients, by their number.
type record struct {
	At       time.Time `json:"at"`
	Rcpt     []int     `json:"rcpt"`
	State    State     `json:"state,omitempty"`
	Host     string    `json:"host,omitempty"`
	Member   string    `json:"member,omitempty"`
	Reply    string    `json:"reply,omitempty"`
	Status   string    `json:"status,omitempty"`
	Action   Action    `json:"action,omitempty"`
	Delayed  bool      `json:"delayed,omitempty"`  // the sender was told of the delay
	Notified bool      `json:"notified,omitempty"` // the sender was told of the success
}

// progress is a recipient with all that its records say.
type progress struct {
	Recipient
	State    State
	Member   string
	Reply    string
	Status   string
	Action   Action
	Last     time.Time
	Attempts int
	Delayed  bool
	Notified bool
}

// item is a file as it was read: its envelope and state, and where its parts are.
type item struct {
	header
	rcpts []progress
	start int64 // of the message
	end   int64 // of the last whole record
}

// errUnreadable marks what no retry can mend: the file goes to quarantine.
var errUnreadable = errors.New("not a readable queue file")

// sizeWidth is the room for the size; maxMessage is what fits in.
const (
	sizeWidth  = 12
	maxMessage = 999_999_999_999
)

// encodeHead gives the lines before the message, and the offset of the size within them.
func encodeHead(id string, at time.Time, e *Envelope) (head []byte, sizeAt int, err error) {
	lead := fmt.Sprintf(`{"mailmux":%d,"id":%q,"size":`, format, id)
	line, err := encode(struct {
		header
		Format int    `json:"mailmux,omitempty"` // these stand in lead
		ID     string `json:"id,omitempty"`
		Size   int64  `json:"size,omitempty"`
	}{header: header{Rcpts: len(e.To), At: at.UTC(), From: e.From, Body: e.Body, SMTPUTF8: e.SMTPUTF8, Ret: e.Ret, EnvID: e.EnvID, Client: e.Client}})
	if err != nil {
		return nil, 0, err
	}
	head = fmt.Appendf(nil, "%s%*d,%s", lead, sizeWidth, 0, line[1:])
	for i := range e.To {
		line, err := encode(&e.To[i])
		if err != nil {
			return nil, 0, err
		}
		head = append(head, line...)
	}
	return append(head, '\n'), len(lead), nil
}

// encodeSize is the text that takes the place of the size.
func encodeSize(size int64) []byte { return fmt.Appendf(nil, "%*d", sizeWidth, size) }

// encode gives a line of JSON that a human can read: < and > stay what they are.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// rcptsPerRecord keeps a record's line below maxLine.
const rcptsPerRecord = 5000

// encodeRecords gives the lines of records, with long ones split.
func encodeRecords(records []record) ([]byte, error) {
	var b []byte
	for _, r := range records {
		r.At = r.At.UTC()
		r.Reply = clean(r.Reply)
		rest := r.Rcpt
		for len(rest) > 0 {
			n := min(len(rest), rcptsPerRecord)
			r.Rcpt, rest = rest[:n], rest[n:]
			line, err := encode(r)
			if err != nil {
				return nil, err
			}
			b = append(b, line...)
		}
	}
	return b, nil
}

// clean makes a remote text one line of bounded length, without control characters.
func clean(text string) string {
	const most = 800
	if len(text) > most {
		text = text[:most]
	}
	text = strings.ToValidUTF8(text, "?")
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, text)
}

// openItem opens a queue file. What is none, such as a directory, a link or a pipe, is unreadable, and not waited for.
func openItem(path string, flags int) (*os.File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: it is no file, but %s", errUnreadable, info.Mode())
	}
	return os.OpenFile(path, flags, 0)
}

// readItem reads the head and the records of a file of the given length. It holds no message in memory. Errors of the
// content wrap errUnreadable, errors of the disk do not.
func readItem(file io.ReaderAt, length int64) (*item, error) {
	in := lineReader{r: bufio.NewReader(io.NewSectionReader(file, 0, length))}
	it := &item{}
	if err := it.readHead(&in); err != nil {
		return nil, err
	}
	it.start = in.offset
	it.end = it.start + it.Size + 1
	if it.end > length {
		return nil, fmt.Errorf("%w: cut short: %d bytes of message, %d of file", errUnreadable, it.Size, length)
	}
	in = lineReader{r: bufio.NewReader(io.NewSectionReader(file, it.end-1, length-it.end+1))}
	if sep, err := in.next(); err != nil || len(sep) != 0 {
		return nil, fmt.Errorf("%w: no line end behind the message", errUnreadable)
	}
	return it, it.readRecords(&in)
}

func (it *item) readHead(in *lineReader) error {
	line, err := in.next()
	if err != nil {
		return in.cut("first line", err)
	}
	if err := json.Unmarshal(line, &it.header); err != nil {
		return fmt.Errorf("%w: first line: %w", errUnreadable, err)
	}
	switch {
	case it.Format != format:
		return fmt.Errorf("%w: format %d, this mailmux reads %d", errUnreadable, it.Format, format)
	case it.Rcpts < 1 || it.Rcpts > maxRecipients:
		return fmt.Errorf("%w: %d recipients", errUnreadable, it.Rcpts)
	case it.Size < 0 || it.Size > maxMessage:
		return fmt.Errorf("%w: a message of %d bytes", errUnreadable, it.Size)
	}
	for i := range it.Rcpts {
		line, err := in.next()
		if err != nil {
			return in.cut(fmt.Sprintf("recipient %d", i), err)
		}
		p := progress{State: Waiting}
		if err := json.Unmarshal(line, &p.Recipient); err != nil {
			return fmt.Errorf("%w: recipient %d: %w", errUnreadable, i, err)
		}
		it.rcpts = append(it.rcpts, p)
	}
	if line, err := in.next(); err != nil || len(line) != 0 {
		return fmt.Errorf("%w: no empty line before the message", errUnreadable)
	}
	e := it.envelope()
	if err := e.validate(); err != nil {
		return fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return nil
}

// readRecords replays what happened. A last line without its end was being written when the process died.
func (it *item) readRecords(in *lineReader) error {
	base := it.end - in.offset
	for {
		line, err := in.next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return in.cut("records", err)
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("%w: record at byte %d: %w", errUnreadable, it.end, err)
		}
		if err := it.apply(&r); err != nil {
			return err
		}
		it.end = base + in.offset
	}
}

// apply lets a record happen to the recipients.
func (it *item) apply(r *record) error {
	for _, n := range r.Rcpt {
		if n < 0 || n >= len(it.rcpts) {
			return fmt.Errorf("%w: a record of recipient %d of %d", errUnreadable, n, len(it.rcpts))
		}
		p := &it.rcpts[n]
		p.Delayed = p.Delayed || r.Delayed
		p.Notified = p.Notified || r.Notified
		switch r.State {
		case Waiting, Delivered, Failed:
		case "":
			continue
		default:
			return fmt.Errorf("%w: a state %q", errUnreadable, r.State)
		}
		if p.State != Waiting {
			continue // what is done stays done
		}
		p.State, p.Member, p.Reply, p.Status, p.Action, p.Last = r.State, r.Member, r.Reply, r.Status, r.Action, r.At
		p.Attempts++
		if r.Host != "" {
			p.Host = r.Host
		}
	}
	return nil
}

// envelope is what Accept was given, with the hosts as they are known now.
func (it *item) envelope() Envelope {
	e := Envelope{From: it.From, Body: it.Body, SMTPUTF8: it.SMTPUTF8, Ret: it.Ret, EnvID: it.EnvID, Client: it.Client}
	for i := range it.rcpts {
		e.To = append(e.To, it.rcpts[i].Recipient)
	}
	return e
}

// waiting gives the numbers of the recipients that are not done.
func (it *item) waiting() []int {
	var n []int
	for i := range it.rcpts {
		if it.rcpts[i].State == Waiting {
			n = append(n, i)
		}
	}
	return n
}

// host is the one home host of all that waits, or "" when there are several or none is known.
func (it *item) host() string {
	host, first := "", true
	for i := range it.rcpts {
		switch p := &it.rcpts[i]; {
		case p.State != Waiting:
		case first:
			host, first = p.Host, false
		case p.Host != host:
			return ""
		}
	}
	return host
}

// lineReader reads lines of bounded length and knows the offset behind the last one.
type lineReader struct {
	r      *bufio.Reader
	offset int64
}

// next gives a line without its end. The line is valid until the next call. At the end of the file the error is io.EOF,
// and io.ErrUnexpectedEOF within a line.
func (l *lineReader) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if err == nil {
		l.offset += int64(len(line))
		return line[:len(line)-1], nil
	}
	if !errors.Is(err, bufio.ErrBufferFull) {
		if errors.Is(err, io.EOF) && len(line) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	long := bytes.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) && len(long) <= maxLine {
		line, err = l.r.ReadSlice('\n')
		long = append(long, line...)
	}
	switch {
	case len(long) > maxLine:
		return nil, fmt.Errorf("%w: a line above %d bytes", errUnreadable, maxLine)
	case errors.Is(err, io.EOF):
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	}
	l.offset += int64(len(long))
	return long[:len(long)-1], nil
}

// cut tells a file that ends too early from a disk that cannot be read.
func (l *lineReader) cut(what string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends in the %s", errUnreadable, what)
	}
	return fmt.Errorf("read the %s: %w", what, err)
}

// validText says whether a text survives the file: JSON would replace what is not UTF-8.
func validText(t string) bool {
	return utf8.ValidString(t) && !strings.ContainsFunc(t, func(c rune) bool { return c < ' ' || c == 0x7f })
}
