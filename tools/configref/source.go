package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// source reads the structs of packages of this module, each package once.
type source struct {
	root     string
	packages map[string]*pkg // by directory
}

// pkg is the types of a package.
type pkg struct {
	dir   string
	types map[string]*declared
}

// declared is a type with its comment and what its file imports.
type declared struct {
	pkg     *pkg
	name    string
	doc     string
	expr    ast.Expr
	imports map[string]string // directory by name, for packages of this module
}

// key is a field that the configuration file can set.
type key struct {
	name  string // in the file
	field string // in the struct
	doc   string
	typ   ast.Expr
	in    *declared // the struct that declares it
}

// load reads a package's files.
func (s *source) load(dir string) (*pkg, error) {
	if p, ok := s.packages[dir]; ok {
		return p, nil
	}
	names, err := filepath.Glob(filepath.Join(s.root, dir, "*.go"))
	if err != nil {
		return nil, err
	}
	p := &pkg{dir: dir, types: make(map[string]*declared)}
	s.packages[dir] = p
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		p.add(file)
	}
	return p, nil
}

func (p *pkg) add(file *ast.File) {
	imports := make(map[string]string)
	for _, i := range file.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if dir, ours := strings.CutPrefix(path, "mailmux/"); err == nil && ours {
			imports[filepath.Base(dir)] = dir
		}
	}
	for _, d := range file.Decls {
		group, ok := d.(*ast.GenDecl)
		if !ok || group.Tok != token.TYPE {
			continue
		}
		for _, spec := range group.Specs {
			t := spec.(*ast.TypeSpec)
			doc := t.Doc
			if doc == nil {
				doc = group.Doc
			}
			p.types[t.Name.Name] = &declared{pkg: p, name: t.Name.Name, doc: doc.Text(), expr: t.Type, imports: imports}
		}
	}
}

// find gives the type that an expression names; nil if it is not one of this module.
func (s *source) find(expr ast.Expr, in *declared) (*declared, error) {
	switch e := expr.(type) {
	case *ast.Ident:
		return in.pkg.types[e.Name], nil
	case *ast.SelectorExpr:
		name, ok := e.X.(*ast.Ident)
		if !ok || in.imports[name.Name] == "" {
			return nil, nil
		}
		p, err := s.load(in.imports[name.Name])
		if err != nil {
			return nil, err
		}
		return p.types[e.Sel.Name], nil
	}
	return nil, nil
}

// keys lists the fields of a struct that have a yaml tag. Those of inlined structs are among them, except those of the
// struct named skip.
func (s *source) keys(d *declared, skip string) ([]key, error) {
	fields, ok := d.expr.(*ast.StructType)
	if !ok {
		return nil, fmt.Errorf("%s.%s is no struct", d.pkg.dir, d.name)
	}
	var list []key
	for _, f := range fields.Fields.List {
		name, options := yamlTag(f)
		switch {
		case options == "inline":
			inner, err := s.find(f.Type, d)
			if err != nil || inner == nil {
				return nil, fmt.Errorf("%s.%s: find an inlined struct: %w", d.pkg.dir, d.name, err)
			}
			if inner.name == skip {
				continue
			}
			more, err := s.keys(inner, skip)
			if err != nil {
				return nil, err
			}
			list = append(list, more...)
		case name != "" && name != "-":
			if f.Doc.Text() == "" {
				return nil, fmt.Errorf("%s.%s: the key %s has no comment", d.pkg.dir, d.name, name)
			}
			list = append(list, key{name: name, field: f.Names[0].Name, doc: f.Doc.Text(), typ: f.Type, in: d})
		}
	}
	return list, nil
}

func yamlTag(f *ast.Field) (name, options string) {
	if f.Tag == nil {
		return "", ""
	}
	text, err := strconv.Unquote(f.Tag.Value)
	if err != nil {
		return "", ""
	}
	name, options, _ = strings.Cut(reflect.StructTag(text).Get("yaml"), ",")
	return name, options
}

// inlines says whether a struct takes the keys of another one over.
func inlines(d *declared, name string) bool {
	fields, ok := d.expr.(*ast.StructType)
	return ok && slices.ContainsFunc(fields.Fields.List, func(f *ast.Field) bool {
		_, options := yamlTag(f)
		id, isIdent := f.Type.(*ast.Ident)
		return options == "inline" && isIdent && id.Name == name
	})
}
