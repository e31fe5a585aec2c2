package integration

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the prefix of our own packages.
const module = "mailmux/"

// layers are our packages, each with the packages of ours that it may import: the imports run one way, from the command
// to the directory. A name with a slash at its end stands for everything below it; the most exact name counts.
var layers = map[string][]string{
	"directory":           {},
	"directory/slapdtest": {},
	"failover":            {"directory"},
	"proxy/wire":          {},
	"proxy/splice":        {},
	"proxy/auth":          {},
	"proxy/smtpwire":      {},
	"proxy/envelope":      {"proxy/smtpwire"},
	"proxy/backend":       {"proxy/wire", "proxy/splice"},
	"proxy":               {"directory", "proxy/wire", "proxy/auth", "proxy/backend", "proxy/splice"},
	"proxy/xclient":       {"proxy", "proxy/smtpwire"},
	"proxy/imap":          {"proxy", "proxy/wire", "proxy/auth", "proxy/backend"},
	"proxy/pop3":          {"proxy", "proxy/wire", "proxy/auth", "proxy/backend"},
	"proxy/submission":    {"proxy", "proxy/wire", "proxy/auth", "proxy/backend", "proxy/smtpwire", "proxy/xclient"},
	"proxy/sieve":         {"proxy", "proxy/wire", "proxy/auth", "proxy/backend"},
	"proxy/spool":         {},
	"proxy/deliver":       {"directory", "proxy", "proxy/wire", "proxy/splice", "proxy/backend", "proxy/smtpwire", "proxy/xclient", "proxy/envelope", "proxy/spool"},
	"proxy/incoming":      {"directory", "proxy", "proxy/wire", "proxy/smtpwire", "proxy/xclient", "proxy/envelope", "proxy/deliver"},
	"proxy/smtp":          {"proxy", "proxy/backend", "proxy/smtpwire", "proxy/envelope", "proxy/deliver", "proxy/incoming", "proxy/spool"},
	"proxy/lmtp":          {"proxy/smtpwire", "proxy/envelope", "proxy/deliver", "proxy/incoming"},
	"proxy/claims":        {"proxy", "proxy/backend", "proxy/splice"},
	"proxy/admin":         {"directory", "proxy", "proxy/backend", "proxy/spool"},
	"proxy/prototest":     {"directory", "proxy", "proxy/wire", "proxy/backend"},
	"cmd/internal/conf":   {"directory", "proxy", "proxy/backend", "proxy/admin", "proxy/claims", "proxy/deliver", "proxy/spool"},
	"cmd/mailmux":         {"directory", "proxy", "proxy/", "cmd/internal/"},
	"cmd/hostfailover":    {"directory", "failover", "proxy/", "cmd/internal/"},
	"tools/":              {"directory", "failover", "proxy", "proxy/", "tools/", "cmd/internal/"},
	"tools/certs/":        {"tools/certs/"},
	"tools/embedded/":     {},
	"integration":         {"tools/certs/", "integration/"},
	"integration/":        {"tools/certs/", "integration/"},
}

// doors are the only packages that may import a dependency, by the prefix of its path. What has no door here is no
// dependency of ours.
var doors = map[string][]string{
	"github.com/coreos/go-systemd/":  {"cmd/mailmux"},
	"github.com/emersion/go-imap/":   {"tools/embedded/"},
	"github.com/emersion/go-sasl":    {"proxy/auth", "proxy/deliver", "tools/embedded/"},
	"github.com/emersion/go-smtp":    {"proxy/deliver", "tools/embedded/"},
	"github.com/go-asn1-ber/":        {"directory", "tools/embedded/"},
	"github.com/go-ldap/":            {"directory"},
	"github.com/patrickmn/go-cache":  {"directory"},
	"github.com/pires/go-proxyproto": {"proxy", "proxy/backend"},
	"github.com/prometheus/":         {"proxy/admin"},
	"go.etcd.io/":                    {"proxy/claims"},
	"go.uber.org/zap":                {"proxy/claims"}, // etcd's logger
	"golang.org/x/crypto/bcrypt":     {"directory"},
	"golang.org/x/sync/":             {"directory", "proxy/spool"},
	"golang.org/x/sys/":              {"cmd/", "directory", "failover", "proxy", "proxy/", "integration/", "tools/"},
	"golang.org/x/term":              {"cmd/hostfailover", "tools/demo"},
	"google.golang.org/grpc":         {"proxy/claims"},
	"gopkg.in/yaml.v3":               {"cmd/internal/conf"},
}

// The rules of the layout hold: imports run one way, protocol packages do not know each other, and each dependency comes
// in by its doors. A rule that nothing uses is a rule too many. Tests may import what they want.
func TestLayout(t *testing.T) {
	used := map[string]bool{}
	eachFile(t, func(pkg, path string) {
		allowed, known := rule(pkg)
		if !known {
			t.Errorf("%s: the layout knows no package %s; say in layers what it may import", path, pkg)
			return
		}
		for _, spec := range parse(t, path, parser.ImportsOnly).Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if own, ours := strings.CutPrefix(name, module); ours {
				if own != pkg && !matches(allowed, own) {
					t.Errorf("%s: %s may import %q of ours, not %s", path, pkg, allowed, own)
				}
				used[pkg+" "+own] = true
				continue
			}
			if domain, _, _ := strings.Cut(name, "/"); strings.Contains(domain, ".") {
				door, found := doorOf(name)
				if !matches(doors[door], pkg) {
					t.Errorf("%s imports %s, which only %q may", path, name, doors[door])
				}
				for _, who := range doors[door] {
					used[door+" "+who] = used[door+" "+who] || found && matches([]string{who}, pkg)
				}
			}
		}
	})
	for pkg, allowed := range layers {
		for _, own := range allowed {
			if !strings.HasSuffix(pkg, "/") && !strings.HasSuffix(own, "/") && !used[pkg+" "+own] {
				t.Errorf("%s may import %s, and does not", pkg, own)
			}
		}
	}
	for door, who := range doors {
		for _, pkg := range who {
			if !used[door+" "+pkg] {
				t.Errorf("%s may import %s, and does not", pkg, door)
			}
		}
	}
}

// doorOf finds the door that a dependency has to come in by.
func doorOf(name string) (string, bool) {
	for prefix := range doors {
		if strings.HasPrefix(name, prefix) {
			return prefix, true
		}
	}
	return "", false
}

// protocols are the packages that own words. Sockets, goroutines and time are the engine's.
var protocols = []string{"proxy/imap", "proxy/pop3", "proxy/submission", "proxy/sieve", "proxy/smtp", "proxy/lmtp", "proxy/incoming",
	"proxy/envelope", "proxy/smtpwire", "proxy/xclient", "proxy/auth"}

// No package has an init function, and a protocol's package has no goroutine, no sleep and no listener.
func TestProtocolsOwnOnlyWords(t *testing.T) {
	eachFile(t, func(pkg, path string) {
		ast.Inspect(parse(t, path, parser.SkipObjectResolution), func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil && n.Name.Name == "init" {
					t.Errorf("%s has a function init", path)
				}
			case *ast.GoStmt:
				if slices.Contains(protocols, pkg) {
					t.Errorf("%s starts a goroutine", path)
				}
			case *ast.SelectorExpr:
				from, _ := n.X.(*ast.Ident)
				if from != nil && slices.Contains(protocols, pkg) && slices.Contains([]string{"time.Sleep", "time.After", "time.AfterFunc",
					"time.NewTimer", "net.Listen", "net.Dial", "net.Dialer", "sync.WaitGroup"}, from.Name+"."+n.Sel.Name) {
					t.Errorf("%s uses %s.%s", path, from.Name, n.Sel.Name)
				}
			}
			return true
		})
	})
}

// eachFile calls f for every file of the program, with the package it belongs to. Tests are left out.
func eachFile(t *testing.T, f func(pkg, path string)) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains([]string{".git", "testdata", "bin", "tmp"}, entry.Name()) {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel("..", filepath.Dir(path))
		if err == nil {
			f(filepath.ToSlash(rel), path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func parse(t *testing.T, path string, mode parser.Mode) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, mode)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// rule finds the most exact rule for a package.
func rule(pkg string) ([]string, bool) {
	if allowed, ok := layers[pkg]; ok {
		return allowed, true
	}
	best := ""
	for name := range layers {
		if strings.HasSuffix(name, "/") && strings.HasPrefix(pkg+"/", name) && len(name) > len(best) {
			best = name
		}
	}
	return layers[best], best != ""
}

func matches(names []string, pkg string) bool {
	return slices.ContainsFunc(names, func(n string) bool {
		return n == pkg || strings.HasSuffix(n, "/") && strings.HasPrefix(pkg+"/", n)
	})
}

// Every package says what it is for: in doc.go, or, where it is small, in main.go or the file of its name.
func TestPackageDocs(t *testing.T) {
	documented := map[string]bool{}
	eachFile(t, func(pkg, path string) {
		file := parse(t, path, parser.PackageClauseOnly|parser.ParseComments)
		if file.Doc == nil {
			documented[pkg] = documented[pkg] || false
			return
		}
		documented[pkg] = true
		if !slices.Contains([]string{"doc.go", "main.go", file.Name.Name + ".go"}, filepath.Base(path)) {
			t.Errorf("%s: the package's comment stands in an unexpected file", path)
		}
	})
	for pkg, is := range documented {
		if !is {
			t.Errorf("%s has no package comment", pkg)
		}
	}
}

// The scripts of .ci begin so that their first failure is their end.
func TestScriptsAreStrict(t *testing.T) {
	for _, name := range []string{"../.ci/run", "../.ci/deps"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), "\nset -euo pipefail\n") {
			t.Errorf("%s lacks set -euo pipefail", name)
		}
	}
}
