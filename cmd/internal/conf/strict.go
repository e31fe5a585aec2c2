package conf

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// checker compares a tree with the type that it is to be decoded into, reports what does not fit and takes it out of the
// tree. The YAML package would find most of it, too; but it knows no key paths, does not say what to do, and leaves out
// the whole of a mapping for one fault in it, so that the sections would miss what is there.
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

// isText says whether a type reads itself from a text, isShort whether it may stand as a text in place of its keys.
func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func isShort(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[interface{ UnmarshalYAML(func(any) error) error }]())
}

// value checks one value and says whether it can be decoded.
func (c *checker) value(path string, node *yaml.Node, t reflect.Type) bool {
	line := node.Line
	if node = content(node); node == nil || isNull(node) {
		return true // absent: the default holds
	}
	switch {
	case isText(t), isShort(t) && node.Kind == yaml.ScalarNode:
		return c.scalar(path, line, node, t)
	case t.Kind() == reflect.Struct:
		return c.mapping(path, line, node, t)
	case t.Kind() == reflect.Map:
		return c.table(path, line, node, t)
	case t.Kind() == reflect.Slice:
		return c.list(path, line, node, t)
	}
	return c.scalar(path, line, node, t)
}

func (c *checker) scalar(path string, line int, node *yaml.Node, t reflect.Type) bool {
	pointed := t.Kind() == reflect.Pointer // zero and absent differ
	if pointed {
		t = t.Elem()
	}
	into := reflect.New(t)
	if node.Kind != yaml.ScalarNode || node.Decode(into.Interface()) != nil {
		return c.wrong(path, line, wanted(t), node)
	}
	if t.Kind() == reflect.Int && node.ShortTag() == "!!float" {
		return c.wrong(path, line, wanted(t), node) // the YAML package would cut 1.5 down to 1
	}
	// Absent means the default, and so would a zero: whoever writes one means something else, such as "unlimited".
	number := t.Kind() == reflect.Int || t.Kind() == reflect.Int64
	if number && !pointed && into.Elem().IsZero() && !strings.HasSuffix(path, ".priority") {
		c.fault(line, path, "0 is no value here, and nothing is unlimited; leave the key out for the default")
		c.covered = append(c.covered, path)
	}
	return true
}

func (c *checker) mapping(path string, line int, node *yaml.Node, t reflect.Type) bool {
	if node.Kind != yaml.MappingNode {
		return c.wrong(path, line, "must be keys and values", node)
	}
	known := fields(t)
	c.prune(path, node, func(k, v *yaml.Node) bool {
		if isMerge(k) {
			return c.merge(path, k, v, t)
		}
		at := join(path, k.Value)
		i := slices.IndexFunc(known, func(f field) bool { return f.key == k.Value })
		if i < 0 {
			return c.unknown(path, k, known)
		}
		if isNull(content(v)) && isLeaf(known[i].typ) {
			c.warn(k.Line, at, "has no value and counts as absent; write one, or remove the key")
		}
		return c.value(at, v, known[i].typ)
	})
	return true
}

// table is a map whose keys the operator chooses.
func (c *checker) table(path string, line int, node *yaml.Node, t reflect.Type) bool {
	if node.Kind != yaml.MappingNode {
		return c.wrong(path, line, "must be keys and values", node)
	}
	c.prune(path, node, func(k, v *yaml.Node) bool {
		if isMerge(k) {
			return c.merge(path, k, v, t)
		}
		if k.Kind != yaml.ScalarNode || k.Decode(reflect.New(t.Key()).Interface()) != nil {
			return c.wrong(path, k.Line, "a key here "+wanted(t.Key()), k)
		}
		return c.value(join(path, k.Value), v, t.Elem())
	})
	return true
}

// merge checks what "<<" brings in.
func (c *checker) merge(path string, key, value *yaml.Node, t reflect.Type) bool {
	from := mergedInto(value)
	for _, m := range from {
		c.value(path, m, t)
	}
	if len(from) == 0 {
		c.fault(key.Line, path, "<< takes the alias of keys and values, or a list of such aliases")
	}
	return len(from) > 0
}

func (c *checker) list(path string, line int, node *yaml.Node, t reflect.Type) bool {
	if node.Kind != yaml.SequenceNode {
		return c.wrong(path, line, "must be a list, in [ ] or one line with a dash each", node)
	}
	for i, item := range node.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		if isNull(content(item)) {
			c.fault(item.Line, at, "is empty; remove it")
			c.covered = append(c.covered, at)
			continue
		}
		if !c.value(at, item, t.Elem()) {
			// Its place stays, so that the others keep their numbers.
			node.Content[i] = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: item.Line}
		}
	}
	return true
}

// prune takes the pairs out of a mapping that keep does not want, and those whose key is there before.
func (c *checker) prune(path string, node *yaml.Node, keep func(k, v *yaml.Node) bool) {
	first := make(map[string]int, len(node.Content)/2)
	pairs := node.Content
	node.Content = nil // an anchor within itself finds nothing more
	var kept []*yaml.Node
	for i := 0; i+1 < len(pairs); i += 2 {
		k, v := pairs[i], pairs[i+1]
		if line, ok := first[k.Value]; ok {
			at := join(path, k.Value)
			c.fault(k.Line, at, fmt.Sprintf("given twice, first in line %d; remove one", line))
			c.covered = append(c.covered, at)
			continue
		}
		first[k.Value] = k.Line
		if keep(k, v) {
			kept = append(kept, k, v)
		}
	}
	node.Content = kept
}

func (c *checker) unknown(path string, key *yaml.Node, known []field) bool {
	at := join(path, key.Value)
	c.covered = append(c.covered, at)
	names := make([]string, len(known))
	for i, f := range known {
		names[i] = f.key
	}
	if near := nearest(key.Value, names); near != "" {
		c.covered = append(c.covered, join(path, near))
		c.fault(key.Line, at, fmt.Sprintf("unknown key; did you mean %s?", near))
		return false
	}
	slices.Sort(names)
	c.fault(key.Line, at, "unknown key; known here: "+strings.Join(names, ", "))
	return false
}

// wrong reports a value of the wrong kind; it says false, since that cannot be decoded.
func (c *checker) wrong(path string, line int, want string, node *yaml.Node) bool {
	c.covered = append(c.covered, path)
	got := map[yaml.Kind]string{yaml.MappingNode: "keys and values", yaml.SequenceNode: "a list"}[node.Kind]
	if node.Kind == yaml.ScalarNode {
		got = fmt.Sprintf("%q", shorten(node.Value))
	}
	c.fault(line, path, want+", got "+got)
	return false
}

// wanted says what a value of a type looks like.
func wanted(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "must be a duration with its unit, such as 30s, 5m or 24h"
	case t == reflect.TypeFor[netip.Addr]():
		return "must be an IP address, such as 192.0.2.10 or 2001:db8::1"
	case t == reflect.TypeFor[netip.Prefix]():
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
	return isText(t) || t.Kind() != reflect.Struct && t.Kind() != reflect.Map && t.Kind() != reflect.Slice
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
