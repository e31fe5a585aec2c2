package main

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"regexp"
	"strings"

	"mailmux/directory"
	"mailmux/proxy"
	"mailmux/proxy/admin"
	"mailmux/proxy/backend"
)

// common is the struct whose keys hosts and members take over from the section backend: it is told once, there.
const common = "Settings"

const head = `# Reference

Every key of the configuration file, and every metric. This file is generated from the source (` + "`go run ./tools/configref`" + `).

## Configuration

One strict YAML file, /etc/mailmux/mailmux.yaml unless ` + "`-config`" + ` says otherwise. Unknown keys, a second document and an empty
file are faults; all faults are reported at once. What is absent has the default named here, and a zero is never
"unlimited". Durations have their unit: 30s, 5m, 24h. Files are relative to the directory of the configuration file.
` + "`mailmux check`" + ` looks it over; SIGHUP or ` + "`mailmux reload`" + ` takes a new one over, or keeps the old one and says why.

`

// reference is the whole file.
func reference(root string) ([]byte, error) {
	s := &source{root: root, packages: make(map[string]*pkg)}
	p, err := s.load("cmd/internal/conf")
	if err != nil {
		return nil, err
	}
	top := p.types["Config"]
	if top == nil {
		return nil, fmt.Errorf("cmd/internal/conf has no Config")
	}
	var b bytes.Buffer
	b.WriteString(head)
	w := &writer{source: s, out: &b}
	if err := w.section("", top, "", 3); err != nil {
		return nil, err
	}
	if err := metrics(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// writer writes sections.
type writer struct {
	*source
	out *bytes.Buffer
}

// section writes a table of the keys of a struct, and behind it the sections of those keys that have keys of their own.
func (w *writer) section(path string, d *declared, intro string, level int) error {
	skip := ""
	if path != "backend" && inlines(d, common) {
		skip = common
	}
	keys, err := w.keys(d, skip)
	if err != nil {
		return err
	}
	if path != "" {
		fmt.Fprintf(w.out, "%s %s\n\n%s\n\n", strings.Repeat("#", level), path, intro)
	}
	if skip != "" {
		fmt.Fprintf(w.out, "Each key of [backend](#backend) down to `check` can be given here, too; the nearest one counts.\n\n")
	}
	w.out.WriteString("| key | value | |\n|---|---|---|\n")
	type below struct {
		path  string
		d     *declared
		intro string
	}
	var more []below
	for _, k := range keys {
		value, inner, suffix, err := w.value(k.typ, k.in)
		if err != nil {
			return err
		}
		fmt.Fprintf(w.out, "| `%s` | %s | %s |\n", k.name, value, cell(k))
		if inner != nil {
			at := strings.TrimPrefix(path+"."+k.name, ".") + suffix
			more = append(more, below{at, inner, words(inner.doc, inner.name, "`"+k.name+"`", nil)})
		}
	}
	w.out.WriteString("\n")
	for _, m := range more {
		if err := w.section(m.path, m.d, m.intro, min(level+1, 3)); err != nil {
			return err
		}
	}
	return nil
}

// value says what a type looks like in the file, and which struct it has inside.
func (w *writer) value(expr ast.Expr, in *declared) (text string, inner *declared, suffix string, err error) {
	switch e := expr.(type) {
	case *ast.ArrayType:
		text, inner, suffix, err = w.value(e.Elt, in)
		return "list of " + plural(text), inner, "[]" + suffix, err
	case *ast.MapType:
		from, _, _, err := w.value(e.Key, in)
		if err != nil {
			return "", nil, "", err
		}
		text, inner, suffix, err = w.value(e.Value, in)
		return from + ": " + text + ", …", inner, ".NAME" + suffix, err
	case *ast.StarExpr:
		return w.value(e.X, in)
	}
	if text := basic(expr); text != "" {
		return text, nil, "", nil
	}
	d, err := w.find(expr, in)
	if err != nil || d == nil {
		return "", nil, "", fmt.Errorf("%s.%s: a type that is not known here: %v (%w)", in.pkg.dir, in.name, expr, err)
	}
	if _, isStruct := d.expr.(*ast.StructType); isStruct {
		return "keys, see below", d, "", nil
	}
	return w.value(d.expr, d)
}

// basic is what values of simple types are called.
func basic(expr ast.Expr) string {
	name := ""
	switch e := expr.(type) {
	case *ast.Ident:
		name = e.Name
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok {
			name = x.Name + "." + e.Sel.Name
		}
	}
	return map[string]string{"string": "text", "int": "number", "int64": "number", "bool": "true or false", "time.Duration": "duration",
		"netip.Addr": "address", "netip.Prefix": "network"}[name]
}

func plural(text string) string {
	switch {
	case strings.HasPrefix(text, "keys"):
		return text
	case text == "address":
		return "addresses"
	}
	return text + "s"
}

// cell is a key's comment, fit for a table.
func cell(k key) string {
	names := make(map[string]string)
	if fields, ok := k.in.expr.(*ast.StructType); ok {
		for _, f := range fields.Fields.List {
			if name, _ := yamlTag(f); name != "" && len(f.Names) > 0 {
				names[f.Names[0].Name] = name
			}
		}
	}
	text := words(k.doc, k.field, "`"+k.name+"`", names)
	// The key stands beside it already: "`stale` is how long …" reads better as "How long …".
	if m := isWhat.FindStringSubmatch(text); m != nil {
		text = strings.ToUpper(m[1][:1]) + m[1][1:]
	}
	return strings.ReplaceAll(text, "|", `\|`)
}

var isWhat = regexp.MustCompile("^`[a-z_]+` (?:is|are) ((?:the|how|who|what|where|an?|one|for) .*)")

// camel matches names of fields that are no words: with a capital behind a small letter.
var camel = regexp.MustCompile(`\b[A-Z][A-Za-z]*[a-z][A-Z][A-Za-z]*\b`)

// words turns a comment into a line for people: the names of fields become those of the keys.
func words(doc, name, key string, names map[string]string) string {
	text := strings.Join(strings.Fields(doc), " ")
	if rest, ok := strings.CutPrefix(text, name+" "); ok {
		text = key + " " + rest
	}
	return camel.ReplaceAllStringFunc(text, func(word string) string {
		if key, ok := names[word]; ok {
			return "`" + key + "`"
		}
		return word
	})
}

// metrics writes the list of metrics.
func metrics(b *bytes.Buffer) error {
	m := admin.NewMetrics("")
	m.Watch(sample{})
	m.DirectoryRequest("", "", "", 0)
	list, err := m.List()
	if err != nil {
		return err
	}
	b.WriteString("## Metrics\n\nFor Prometheus, at /metrics of the admin socket and of `admin.http`; those of Go and of the process come on top.\n\n" +
		"| metric | type | labels | |\n|---|---|---|---|\n")
	for _, metric := range list {
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", metric.Name, metric.Type, strings.Join(metric.Labels, ", "), metric.Help)
	}
	return nil
}

// sample is a frontend with one of each, so that each metric has a series.
type sample struct{}

func (sample) Reload(context.Context) ([]string, error) { return nil, nil }

func (sample) Status() admin.Status {
	var s admin.Status
	s.Hosts = []backend.HostStatus{{Members: []backend.MemberStatus{{Services: []backend.ServiceStatus{{}}}}}}
	s.Directory.Servers = make([]directory.ServerStats, 1)
	s.Claims = &proxy.ClaimStatus{}
	return s
}
