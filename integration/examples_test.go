package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"mailmux/integration/stage"
)

// installed are files below the directory of the configuration that an example's file names.
var installed = regexp.MustCompile(`/etc/mailmux/[A-Za-z0-9._-]+`)

// Every configuration in the examples is taken by mailmux check without a word, once the certificates and secrets that
// it names are there.
func TestExamples(t *testing.T) {
	t.Parallel()
	mailmux := builtProgram(t, "mailmux")
	var files []string
	for _, pattern := range []string{"../examples/*/*.yaml", "../examples/*/*.yml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 8 {
		t.Fatalf("only %d configurations in the examples: %q", len(files), files)
	}
	for _, file := range files {
		t.Run(strings.TrimPrefix(file, "../examples/"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			config := filepath.Join(dir, "mailmux.yaml")
			text := install(t, dir, string(b))
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := run(t, "", mailmux, "check", "-config", config)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(strings.ToLower(out), "warning") {
				t.Errorf("an example is warned about:\n%s", out)
			}
		})
	}
}

// install puts the files that a configuration names into dir, and returns the configuration that names them there.
func install(t testing.TB, dir, text string) string {
	t.Helper()
	ca, err := stage.NewAuthority(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range installed.FindAllString(text, -1) {
		name := filepath.Base(path)
		target := filepath.Join(dir, name)
		if _, err := os.Stat(target); err == nil {
			continue
		}
		base, isCert := strings.CutSuffix(name, ".pem")
		switch {
		case isCert:
			pair, err := ca.Issue(base)
			if err != nil {
				t.Fatal(err)
			}
			for from, to := range map[string]string{pair.Cert: base + ".pem", pair.Key: base + ".key"} {
				if err := os.Rename(from, filepath.Join(dir, to)); err != nil {
					t.Fatal(err)
				}
			}
		case strings.HasSuffix(name, ".key"):
		default:
			if err := os.WriteFile(target, []byte("secret\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return strings.ReplaceAll(text, "/etc/mailmux/", dir+"/")
}

// Every folder of the examples says what it is for.
func TestExamplesAreExplained(t *testing.T) {
	entries, err := os.ReadDir("../examples")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		b, err := os.ReadFile(filepath.Join("../examples", e.Name(), "README.md"))
		if err != nil {
			t.Error(err)
			continue
		}
		if !strings.HasPrefix(string(b), "# ") {
			t.Errorf("the README of %s has no title", e.Name())
		}
	}
}
