package prototest

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Script is a parsed wire script.
type Script struct {
	Story    string // the comment at its top
	Settings []Setting
	Steps    []Step
}

// Setting is one "# set key=value".
type Setting struct{ Key, Value string }

// Step is one line of a script: something said or heard, or a directive.
type Step struct {
	Line   int      // in the file, from 1
	Source string   // as it stands there
	End    byte     // 'C', 'S', 'P' or 'B'; 0 for a directive
	Raw    bool     // without a line end
	Joined bool     // said in one write with the step before
	Words  []string // of a directive
	text   []piece
}

// piece is a part of a text.
type piece struct {
	kind pieceKind
	text string // the bytes, or the name
}

type pieceKind uint8

const (
	literal pieceKind = iota
	anything
	named
)

// directives are the words that a directive may begin with, and how many words may follow.
var directives = map[string]struct{ least, most int }{
	"TLS": {1, 2}, "close": {1, 1}, "reset": {1, 1}, "shut": {1, 1}, "end": {1, 1}, "refuse": {0, 0}, "accept": {0, 0}, "dial": {1, 1},
	"wait": {1, 1}, "shutdown": {0, 0}, "event": {1, 100},
}

// Parse reads a script. Its error names all faulty lines.
func Parse(source string) (*Script, error) {
	s := &Script{}
	var faults []error
	joinable := byte(0) // the end whose line a next one would join
	for i, line := range strings.Split(strings.ReplaceAll(source, "\r\n", "\n"), "\n") {
		step := Step{Line: i + 1, Source: line}
		switch {
		case strings.TrimSpace(line) == "":
			joinable = 0
			continue
		case line[0] == '#':
			joinable = 0
			if err := s.comment(line); err != nil {
				faults = append(faults, fmt.Errorf("line %d: %w", i+1, err))
			}
			continue
		}
		if err := step.parse(line); err != nil {
			faults = append(faults, fmt.Errorf("line %d: %w", i+1, err))
			continue
		}
		if n := len(s.Steps); n > 0 && step.changesWorld() && s.Steps[n-1].says() {
			faults = append(faults, fmt.Errorf("line %d: %s races with what mailmux does about the line before; put it before that line", i+1, line))
			continue
		}
		step.Joined = step.End != 0 && step.End == joinable && (step.End == 'C' || step.End == 'B')
		joinable = step.End
		s.Steps = append(s.Steps, step)
	}
	if s.Story == "" {
		faults = append(faults, errors.New("no story: a script begins with a comment that tells what it shows"))
	}
	return s, errors.Join(faults...)
}

func (s *Script) comment(line string) error {
	text := strings.TrimSpace(strings.TrimLeft(line, "#"))
	setting, ok := strings.CutPrefix(text, "set ")
	if !ok {
		if len(s.Steps) == 0 && len(s.Settings) == 0 {
			s.Story = strings.TrimSpace(s.Story + " " + text)
		}
		return nil
	}
	key, value, ok := strings.Cut(setting, "=")
	switch {
	case !ok:
		return fmt.Errorf("%q is not key=value", setting)
	case len(s.Steps) > 0:
		return fmt.Errorf("setting %q stands behind the first line", setting)
	}
	s.Settings = append(s.Settings, Setting{strings.TrimSpace(key), strings.TrimSpace(value)})
	return nil
}

func (st *Step) parse(line string) error {
	if len(line) >= 2 && strings.IndexByte("CSPB", line[0]) >= 0 && (line[1] == ':' || line[1] == '>') {
		st.End, st.Raw = line[0], line[1] == '>'
		text, err := compile(strings.TrimPrefix(line[2:], " "))
		st.text = text
		if err == nil && (st.says() || st.Raw) {
			err = wantPlain(text)
		}
		return err
	}
	st.Words = strings.Fields(line)
	form, ok := directives[st.Words[0]]
	if n := len(st.Words) - 1; !ok || n < form.least || n > form.most {
		return fmt.Errorf("%q is neither a line of C, S, P or B nor a directive", line)
	}
	return nil
}

// changesWorld is whether the step is a directive that decides how mailmux takes what is said next.
func (st *Step) changesWorld() bool {
	return st.End == 0 && (st.Words[0] == "refuse" || st.Words[0] == "accept" || st.Words[0] == "shutdown")
}

// says is whether the script's own ends say the line.
func (st *Step) says() bool { return st.End == 'C' || st.End == 'B' }

func wantPlain(text []piece) error {
	for _, p := range text {
		if p.kind == anything {
			return errors.New("{*} can only be heard, in a whole line")
		}
	}
	return nil
}

var (
	repeated = regexp.MustCompile(`^(.+)\*([0-9]+)$`)
	variable = regexp.MustCompile(`^[a-z]+$`)
)

// compile takes a text apart.
func compile(text string) ([]piece, error) {
	var pieces []piece
	var plain strings.Builder
	for text != "" {
		if text[0] == '{' {
			if end := strings.IndexByte(text, '}'); end > 0 {
				p, ok, err := brace(text[1:end])
				if err != nil {
					return nil, err
				}
				if ok {
					if p.kind == literal {
						plain.WriteString(p.text)
					} else {
						pieces = append(pieces, piece{literal, plain.String()}, p)
						plain.Reset()
					}
					text = text[end+1:]
					continue
				}
			}
		}
		b, rest, err := unescape(text)
		if err != nil {
			return nil, err
		}
		plain.WriteByte(b)
		text = rest
	}
	return append(pieces, piece{literal, plain.String()}), nil
}

// brace reads what stands between braces. ok is false when the braces mean themselves, as in an IMAP literal.
func brace(inside string) (p piece, ok bool, err error) {
	if inside == "*" {
		return piece{kind: anything}, true, nil
	}
	if text, ok := strings.CutPrefix(inside, "base64:"); ok {
		bytes, err := unescapeAll(text)
		return piece{literal, base64.StdEncoding.EncodeToString([]byte(bytes))}, true, err
	}
	if m := repeated.FindStringSubmatch(inside); m != nil {
		bytes, err := unescapeAll(m[1])
		n, _ := strconv.Atoi(m[2])
		return piece{literal, strings.Repeat(bytes, n)}, true, err
	}
	if variable.MatchString(inside) {
		return piece{named, inside}, true, nil
	}
	return piece{}, false, nil
}

func unescapeAll(text string) (string, error) {
	var b strings.Builder
	for text != "" {
		c, rest, err := unescape(text)
		if err != nil {
			return "", err
		}
		b.WriteByte(c)
		text = rest
	}
	return b.String(), nil
}

// unescape reads one byte of a text.
func unescape(text string) (b byte, rest string, err error) {
	if text[0] != '\\' {
		return text[0], text[1:], nil
	}
	if len(text) > 1 {
		if i := strings.IndexByte(`rnt0\`, text[1]); i >= 0 {
			return "\r\n\t\x00\\"[i], text[2:], nil
		}
	}
	if len(text) > 3 && text[1] == 'x' {
		if v, err := strconv.ParseUint(text[2:4], 16, 8); err == nil {
			return byte(v), text[4:], nil
		}
	}
	return 0, "", fmt.Errorf(`bad escape at %q: known are \r \n \t \0 \\ \xHH`, text)
}

// variables are the words that a script has bound by hearing them.
type variables map[string]string

// said is the text with its words put in.
func (v variables) said(text []piece) (string, error) {
	var b strings.Builder
	for _, p := range text {
		if p.kind != named {
			b.WriteString(p.text)
			continue
		}
		word, ok := v[p.text]
		if !ok {
			return "", fmt.Errorf("{%s} was not heard yet", p.text)
		}
		b.WriteString(word)
	}
	return b.String(), nil
}

// heard says whether a line is what the text wants, and binds the words it has not heard yet.
func (v variables) heard(text []piece, line string) bool {
	var pattern strings.Builder
	pattern.WriteString(`(?s)\A`)
	var names []string
	for _, p := range text {
		switch word, bound := v[p.text]; {
		case p.kind == literal:
			pattern.WriteString(regexp.QuoteMeta(p.text))
		case p.kind == anything:
			pattern.WriteString(`.*`)
		case bound:
			pattern.WriteString(regexp.QuoteMeta(word))
		default:
			pattern.WriteString(`([^\s"]+?)`)
			names = append(names, p.text)
		}
	}
	// Bytes that are no UTF-8 would not match in a pattern; as Latin-1 every byte is a character.
	m := regexp.MustCompile(latin1(pattern.String()) + `\z`).FindStringSubmatch(latin1(line))
	if m == nil {
		return false
	}
	for i, name := range names {
		v[name] = m[i+1]
	}
	return true
}

func latin1(s string) string {
	runes := make([]rune, len(s))
	for i := range len(s) {
		runes[i] = rune(s[i])
	}
	return string(runes)
}
