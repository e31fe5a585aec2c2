package integration

import (
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
	"directory":            {},
	"directory/slapdtest":  {},
	"failover":             {"directory"},
	"proxy/wire":           {},
	"proxy/splice":         {},
	"proxy/smtpwire":       {"proxy/wire"},
	"proxy/envelope":       {"directory", "proxy/wire", "proxy/smtpwire"},
	"proxy/xclient":        {"proxy", "proxy/smtpwire"},
	"proxy/auth":           {"proxy/wire"},
	"proxy/backend":        {"directory", "proxy/wire", "proxy/splice"},
	"proxy":                {"directory", "proxy/wire", "proxy/auth", "proxy/backend", "proxy/splice"},
	"proxy/imap":           {"directory", "proxy", "proxy/wire", "proxy/auth", "proxy/backend"},
	"proxy/pop3":           {"directory", "proxy", "proxy/wire", "proxy/auth", "proxy/backend"},
	"proxy/submission":     {"directory", "proxy", "proxy/wire", "proxy/auth", "proxy/backend", "proxy/smtpwire", "proxy/xclient"},
	"proxy/sieve":          {"directory", "proxy", "proxy/wire", "proxy/auth", "proxy/backend"},
	"proxy/incoming":       {"directory", "proxy", "proxy/wire", "proxy/smtpwire", "proxy/xclient", "proxy/envelope", "proxy/deliver"},
	"proxy/smtp":           {"proxy", "proxy/backend", "proxy/smtpwire", "proxy/envelope", "proxy/deliver", "proxy/incoming", "proxy/spool"},
	"proxy/lmtp":           {"proxy/smtpwire", "proxy/envelope", "proxy/deliver", "proxy/incoming"},
	"proxy/deliver":        {"directory", "proxy", "proxy/wire", "proxy/splice", "proxy/backend", "proxy/smtpwire", "proxy/xclient", "proxy/envelope", "proxy/spool"},
	"proxy/spool":          {"directory", "proxy", "proxy/wire", "proxy/backend", "proxy/smtpwire", "proxy/envelope"},
	"proxy/claims":         {"proxy", "proxy/backend", "proxy/splice"},
	"proxy/admin":          {"directory", "proxy", "proxy/backend", "proxy/spool"},
	"proxy/prototest":      {"directory", "proxy", "proxy/wire", "proxy/auth", "proxy/backend"},
	"cmd/internal/conf":    {"directory", "proxy", "proxy/backend", "proxy/admin", "proxy/auth", "proxy/claims", "proxy/deliver", "proxy/spool"},
	"cmd/mailmux":          {"directory", "proxy", "proxy/", "cmd/internal/"},
	"cmd/hostfailover":     {"directory", "failover", "proxy", "proxy/", "cmd/internal/"},
	"cmd/internal/":        {"directory", "failover", "proxy", "proxy/", "cmd/internal/"},
	"tools/":               {"directory", "failover", "proxy", "proxy/", "tools/", "cmd/internal/"},
	"integration/":         {"tools/certs/", "integration/"},
	"integration":          {"tools/certs/", "integration/"},
	"tools/certs/":         {"tools/certs/"},
	"examples/":            {},
	"tools/embedded/ldapd": {},
}

// doors are the only packages that may import a dependency, by the prefix of its path.
var doors = map[string][]string{
	"github.com/go-ldap/":            {"directory"},
	"github.com/patrickmn/go-cache":  {"directory"},
	"gopkg.in/yaml.v3":               {"cmd/internal/conf"},
	"github.com/emersion/go-smtp":    {"proxy/deliver", "proxy/smtp", "proxy/lmtp", "proxy/spool", "tools/"},
	"github.com/emersion/go-sasl":    {"proxy/auth", "proxy/deliver", "proxy/smtp", "proxy/lmtp", "proxy/spool", "tools/"},
	"github.com/emersion/go-imap":    {"tools/"},
	"github.com/pires/go-proxyproto": {"proxy", "proxy/backend"},
	"github.com/prometheus/":         {"proxy/admin", "proxy", "cmd/mailmux"},
	"github.com/coreos/go-systemd":   {"cmd/mailmux", "proxy"},
	"github.com/go-asn1-ber/":        {"directory", "tools/embedded/"},
	"go.etcd.io/":                    {"proxy/claims"},
	"google.golang.org/grpc":         {"proxy/claims"},
	"mailmux/integration":            {"integration", "integration/"},
}

// The rules of the layout hold: imports run one way, protocol packages do not know each other, and each dependency comes
// in by one door. Tests are held to the doors only where they are no tests of the dependency's other side.
func TestLayout(t *testing.T) {
	root := ".."
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "testdata" || entry.Name() == "bin") {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		return checkImports(t, filepath.ToSlash(rel), path)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkImports(t *testing.T, pkg, path string) error {
	t.Helper()
	allowed, known := rule(pkg)
	if !known {
		t.Errorf("%s: the layout knows no package %s; say in layers what it may import", path, pkg)
		return nil
	}
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		return err
	}
	for _, spec := range file.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		for prefix, who := range doors {
			if strings.HasPrefix(name, prefix) && !matches(who, pkg) {
				t.Errorf("%s imports %s, which only %s may", path, name, strings.Join(who, ", "))
			}
		}
		if own, ours := strings.CutPrefix(name, module); ours && own != pkg && !matches(allowed, own) {
			t.Errorf("%s: %s may import %q of ours, not %s", path, pkg, allowed, own)
		}
	}
	return nil
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

// Every package says in a doc.go, or in the file of its name, what it is for.
func TestPackageDocs(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !entry.IsDir() {
			return nil
		}
		if entry.Name() == ".git" || entry.Name() == "testdata" {
			return filepath.SkipDir
		}
		files, err := filepath.Glob(filepath.Join(path, "*.go"))
		if err != nil {
			return err
		}
		documented := true
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				return err
			}
			documented = false
			if parsed.Doc != nil {
				return nil
			}
		}
		if !documented {
			t.Errorf("%s has no package comment", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Every shell script begins so that its first failure is its end.
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
