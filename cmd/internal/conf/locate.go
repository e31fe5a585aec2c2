package conf

import (
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// locate finds the line of a key's path in a tree, or that of the nearest key above it; 0 when not even its first part is
// there. Keys may hold dots and colons, as the names of hosts do, so the longest key that fits is taken at each step.
func locate(root *yaml.Node, path string) int {
	node, line := content(root), 0
	for path != "" && node != nil {
		key, value, rest, ok := step(node, path)
		if !ok {
			break
		}
		line = key.Line
		node, path = content(value), strings.TrimPrefix(rest, ".")
	}
	return line
}

// step goes one key or one index down.
func step(node *yaml.Node, path string) (key, value *yaml.Node, rest string, ok bool) {
	switch node.Kind {
	case yaml.SequenceNode:
		index, after, ok := index(path)
		i, err := strconv.Atoi(index)
		if !ok || err != nil || i < 0 || i >= len(node.Content) {
			return nil, nil, "", false
		}
		return node.Content[i], node.Content[i], after, true
	case yaml.MappingNode:
		return stepKey(node, path)
	}
	return nil, nil, "", false
}

func stepKey(node *yaml.Node, path string) (key, value *yaml.Node, rest string, ok bool) {
	if name, after, bracket := index(path); bracket {
		for k, v := range pairs(node) {
			if strings.EqualFold(k.Value, name) {
				return k, v, after, true
			}
		}
	}
	best := -1
	for k, v := range pairs(node) {
		n := len(k.Value)
		if n <= best || n > len(path) || !strings.EqualFold(path[:n], k.Value) || !below(path, path[:n]) {
			continue
		}
		best, key, value, rest = n, k, v, path[n:]
	}
	return key, value, rest, best >= 0
}

// index takes "[…]" off the front of a path.
func index(path string) (inside, after string, ok bool) {
	if !strings.HasPrefix(path, "[") {
		return "", "", false
	}
	inside, after, ok = strings.Cut(path[1:], "]")
	return inside, after, ok
}

// pairs yields the keys and values of a mapping, those merged in by "<<" last.
func pairs(node *yaml.Node) func(yield func(k, v *yaml.Node) bool) {
	return func(yield func(k, v *yaml.Node) bool) {
		var merged []*yaml.Node
		for i := 0; i+1 < len(node.Content); i += 2 {
			k, v := node.Content[i], node.Content[i+1]
			if isMerge(k) {
				merged = append(merged, mergedInto(v)...)
				continue
			}
			if !yield(k, v) {
				return
			}
		}
		for _, m := range merged {
			for i := 0; i+1 < len(m.Content); i += 2 {
				if !yield(m.Content[i], m.Content[i+1]) {
					return
				}
			}
		}
	}
}

func isMerge(key *yaml.Node) bool {
	return key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge"
}

// mergedInto lists the mappings behind "<<": one, or a list of them.
func mergedInto(v *yaml.Node) []*yaml.Node {
	v = content(v)
	switch {
	case v == nil:
		return nil
	case v.Kind == yaml.MappingNode:
		return []*yaml.Node{v}
	case v.Kind == yaml.SequenceNode:
		var all []*yaml.Node
		for _, item := range v.Content {
			if item = content(item); item != nil && item.Kind == yaml.MappingNode {
				all = append(all, item)
			}
		}
		return all
	}
	return nil
}

// content looks through documents and aliases.
func content(node *yaml.Node) *yaml.Node {
	for range 100 { // an alias of an alias is none in YAML; the bound is for trees that were never parsed
		switch {
		case node == nil:
			return nil
		case node.Kind == yaml.DocumentNode:
			if len(node.Content) == 0 {
				return nil
			}
			node = node.Content[0]
		case node.Kind == yaml.AliasNode:
			node = node.Alias
		default:
			return node
		}
	}
	return nil
}
