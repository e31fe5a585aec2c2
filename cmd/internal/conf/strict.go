package conf

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// checker compares a tree with the type that it is to be decoded into. The YAML package would find most of it, too; it
// knows no key paths, and stops short of saying what to do.
type checker struct {
	fault   func(line int, key, text string)
	warn    func(line int, key, text string)
	covered []string // keys whose value is not what the file meant; Validate's objections there are noise
}

// field is a key that a struct knows.
type field struct {
	key string
	typ reflect.Type
}

// fields lists the keys of a struct, inlined ones among them.
func fields(t reflect.Type) []field {
	var list []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case options == "inline":
			list = append(list, fields(f.Type)...)
		case name != "" && name != "-":
			list = append(list, field{name, f.Type})
		}
	}
	return list
}

var (
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
	shortType    = reflect.TypeFor[interface{ UnmarshalYAML(func(any) error) error }]()
	durationType = reflect.TypeFor[time.Duration]()
)

// value checks one value.
func (c *checker) value(path string, node *yaml.Node, t reflect.Type) {
	line := node.Line
	if node = content(node); node == nil || isNull(node) {
		return // absent: the default holds
	}
	if t.Kind() == reflect.Pointer {
		c.pointed(path, node, t.Elem())
		return
	}
	short := reflect.PointerTo(t).Implements(shortType)
	switch {
	case reflect.PointerTo(t).Implements(textType), short && node.Kind == yaml.ScalarNode:
		c.scalar(path, line, node, t)
	case t.Kind() == reflect.Struct:
		c.mapping(path, line, node, t)
	case t.Kind() == reflect.Map:
		c.table(path, line, node, t)
	case t.Kind() == reflect.Slice:
		c.list(path, line, node, t)
	default:
		c.scalar(path, line, node, t)
	}
}

// pointed is a value for which zero and absent differ.
func (c *checker) pointed(path string, node *yaml.Node, t reflect.Type) {
	if into := reflect.New(t); node.Kind != yaml.ScalarNode || node.Decode(into.Interface()) != nil {
		c.wrong(path, node.Line, wanted(t), node)
	}
}

func (c *checker) scalar(path string, line int, node *yaml.Node, t reflect.Type) {
	into := reflect.New(t)
	if node.Kind != yaml.ScalarNode {
		c.wrong(path, line, wanted(t), node)
		return
	}
	if err := node.Decode(into.Interface()); err != nil {
		c.wrong(path, line, wanted(t), node)
		return
	}
	// Absent means the default, and so would a zero: whoever writes one means something else, such as "unlimited".
	number := t.Kind() == reflect.Int || t.Kind() == reflect.Int64
	if number && into.Elem().IsZero() && !strings.HasSuffix(path, ".priority") {
		c.fault(line, path, "0 is no value here, and nothing is unlimited; leave the key out for the default")
		c.covered = append(c.covered, path)
	}
}

func (c *checker) mapping(path string, line int, node *yaml.Node, t reflect.Type) {
	if node.Kind != yaml.MappingNode {
		c.wrong(path, line, "must be keys and values", node)
		return
	}
	known := fields(t)
	c.twice(path, node)
	for k, v := range pairs(node) {
		at := join(path, k.Value)
		i := slices.IndexFunc(known, func(f field) bool { return f.key == k.Value })
		if i < 0 {
			c.unknown(path, k, known)
			continue
		}
		if isNull(content(v)) && isLeaf(known[i].typ) {
			c.warn(k.Line, at, "has no value and counts as absent; write one, or remove the key")
		}
		c.value(at, v, known[i].typ)
	}
}

// table is a map whose keys the operator chooses.
func (c *checker) table(path string, line int, node *yaml.Node, t reflect.Type) {
	if node.Kind != yaml.MappingNode {
		c.wrong(path, line, "must be keys and values", node)
		return
	}
	c.twice(path, node)
	for k, v := range pairs(node) {
		if k.Kind != yaml.ScalarNode || k.Decode(reflect.New(t.Key()).Interface()) != nil {
			c.wrong(path, k.Line, "a key here "+wanted(t.Key()), k)
			continue
		}
		c.value(join(path, k.Value), v, t.Elem())
	}
}

func (c *checker) list(path string, line int, node *yaml.Node, t reflect.Type) {
	if node.Kind != yaml.SequenceNode {
		c.wrong(path, line, "must be a list, in [ ] or one line with a dash each", node)
		return
	}
	for i, item := range node.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		if isNull(content(item)) {
			c.fault(item.Line, at, "is empty; remove it")
			c.covered = append(c.covered, at)
			continue
		}
		c.value(at, item, t.Elem())
	}
}

// twice finds keys that a mapping has more than once.
func (c *checker) twice(path string, node *yaml.Node) {
	first := make(map[string]int, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		k := node.Content[i]
		if line, ok := first[k.Value]; ok {
			c.fault(k.Line, join(path, k.Value), fmt.Sprintf("given twice, first in line %d; remove one", line))
			continue
		}
		first[k.Value] = k.Line
	}
}

func (c *checker) unknown(path string, key *yaml.Node, known []field) {
	at := join(path, key.Value)
	c.covered = append(c.covered, at)
	names := make([]string, len(known))
	for i, f := range known {
		names[i] = f.key
	}
	if near := nearest(key.Value, names); near != "" {
		c.covered = append(c.covered, join(path, near))
		c.fault(key.Line, at, fmt.Sprintf("unknown key; did you mean %s?", near))
		return
	}
	slices.Sort(names)
	c.fault(key.Line, at, "unknown key; known here: "+strings.Join(names, ", "))
}

// wrong reports a value of the wrong kind.
func (c *checker) wrong(path string, line int, want string, node *yaml.Node) {
	c.covered = append(c.covered, path)
	got := map[yaml.Kind]string{yaml.MappingNode: "keys and values", yaml.SequenceNode: "a list"}[node.Kind]
	if node.Kind == yaml.ScalarNode {
		got = fmt.Sprintf("%q", shorten(node.Value))
	}
	c.fault(line, path, want+", got "+got)
}

// wanted says what a value of a type looks like.
func wanted(t reflect.Type) string {
	switch {
	case t == durationType:
		return "must be a duration with its unit, such as 30s, 5m or 24h"
	case t.String() == "netip.Addr":
		return "must be an IP address, such as 192.0.2.10 or 2001:db8::1"
	case t.String() == "netip.Prefix":
		return "must be a network, such as 10.0.0.0/8 or 192.0.2.10/32"
	case t.Kind() == reflect.Bool:
		return "must be true or false"
	case t.Kind() == reflect.Int:
		return "must be a whole number"
	case t.Kind() == reflect.String:
		return "must be one word or text"
	}
	return "must be a single value or keys and values"
}

func isLeaf(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(textType) || t.Kind() != reflect.Struct && t.Kind() != reflect.Map && t.Kind() != reflect.Slice
}

func isNull(node *yaml.Node) bool {
	return node != nil && node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// shorten keeps a fault on its line: a value may be a whole file that was indented wrongly.
func shorten(s string) string {
	const most = 60
	runes := []rune(s)
	if len(runes) <= most {
		return s
	}
	return string(runes[:most]) + "…"
}

// nearest is the known name that is most like the one given, "" if none is.
func nearest(name string, known []string) string {
	best, bound := "", len(name)/3+1
	for _, k := range known {
		if d := distance(strings.ToLower(name), k); d <= bound && (best == "" || d < bound) {
			best, bound = k, d
		}
	}
	return best
}

// distance is the number of letters to change, add or drop; "-" and "_" are the same letter. Names are short: a long one
// is like no key.
func distance(a, b string) int {
	const far = 1 << 20
	if len(a) > 64 {
		return far
	}
	a = strings.ReplaceAll(a, "-", "_")
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
