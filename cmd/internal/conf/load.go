package conf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strings"

	"gopkg.in/yaml.v3"
)

// maxSize bounds the file: a thousand hosts of four members each take a tenth of it.
const maxSize = 16 << 20

// Load reads, checks and completes a configuration. Its error is a Faults with everything that is wrong. The Config is
// never nil: what could be read of a faulty file is in it, so that a command can still find the operator's socket.
func Load(path string) (*Config, error) {
	data, err := read(path)
	if err != nil {
		return &Config{Path: path}, Faults{{File: path, Text: err.Error()}}
	}
	return parse(path, data)
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil {
			err = cause // the path is said already
		}
		return nil, fmt.Errorf("open the configuration: %w; name it with -config", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if len(data) > maxSize {
		return nil, fmt.Errorf("larger than %d MiB: is this the configuration?", maxSize>>20)
	}
	return data, nil
}

// loader gathers what is found about one file.
type loader struct {
	path     string
	cfg      *Config
	root     *yaml.Node
	faults   Faults
	warnings Faults
	covered  []string
}

// parse is Load after the reading.
func parse(path string, data []byte) (*Config, error) {
	l := &loader{path: path, cfg: &Config{Path: path}, root: new(yaml.Node)}
	if l.tree(data) {
		l.decode()
		l.cfg.complete()
		l.absolute()
		l.sections()
		l.files()
	}
	l.warnings.sort()
	l.cfg.Warnings = l.warnings
	if len(l.faults) == 0 {
		return l.cfg, nil
	}
	l.faults.sort()
	return l.cfg, l.faults
}

func (l *loader) fault(line int, key, text string) {
	l.faults = append(l.faults, Fault{l.path, line, key, text})
}

func (l *loader) warn(line int, key, text string) {
	l.warnings = append(l.warnings, Fault{l.path, line, key, text})
}

// tree parses the file and says whether there is something to go on with.
func (l *loader) tree(data []byte) bool {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	switch err := decoder.Decode(l.root); {
	case errors.Is(err, io.EOF):
		l.fault(0, "", "the file is empty; README.md has a configuration to begin with")
		return false
	case err != nil:
		l.broken(data, err)
		return false
	}
	if content(l.root) == nil || isNull(content(l.root)) {
		l.fault(0, "", "the file is empty; README.md has a configuration to begin with")
		return false
	}
	var second yaml.Node
	switch err := decoder.Decode(&second); {
	case err == nil:
		l.fault(second.Line, "", "a second document begins here; a configuration is one, remove the line ---")
	case !errors.Is(err, io.EOF):
		l.broken(data, err)
		return false
	}
	return true
}

// broken reports what makes the file no YAML. The line in the package's text is where the block around the fault begins,
// or the one before, or missing. The fault itself is in the last line of the shortest beginning of the file that gives
// the same error.
func (l *loader) broken(data []byte, err error) {
	const most = 1 << 20 // the file is read some twenty times
	if len(data) > most {
		l.syntax(err)
		return
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	n := sort.Search(len(lines), func(i int) bool { return yamlError(bytes.Join(lines[:i], nil)) == err.Error() })
	text := withoutLine(err.Error())
	advice := "see that the indentation is right and special characters are quoted"
	switch {
	case strings.Contains(text, "UTF-8") || strings.Contains(text, "control characters"):
		advice = "save the file as text in UTF-8"
	case strings.Contains(text, "unknown anchor"):
		advice = "an alias has its anchor above it; quote a value that begins with *"
	case n > 0 && bytes.HasPrefix(bytes.TrimLeft(lines[n-1], " "), []byte("\t")):
		advice = "indent with spaces, this line has a tab"
	}
	l.fault(n, "", text+"; "+advice)
}

// yamlError is what the YAML package finds wrong with a file, "" for nothing.
func yamlError(data []byte) string {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var document yaml.Node
		switch err := decoder.Decode(&document); {
		case errors.Is(err, io.EOF):
			return ""
		case err != nil:
			return err.Error()
		}
	}
}

var linePrefix = regexp.MustCompile(`^yaml: (line [0-9]+: )?`)

func withoutLine(text string) string { return linePrefix.ReplaceAllString(text, "") }

// syntax reports an error of the YAML package, which has its line in the text.
func (l *loader) syntax(err error) {
	var kinds *yaml.TypeError
	if errors.As(err, &kinds) {
		for _, text := range kinds.Errors {
			l.yamlText(text)
		}
		return
	}
	l.yamlText(err.Error())
}

func (l *loader) yamlText(text string) {
	text = strings.TrimPrefix(text, "yaml: ")
	line := 0
	if _, err := fmt.Sscanf(text, "line %d:", &line); err == nil {
		_, text, _ = strings.Cut(text, ": ")
	}
	l.fault(line, "", text+"; see that the indentation is right and special characters are quoted")
}

// decode compares the tree with the types, and fills the configuration as far as it goes.
func (l *loader) decode() {
	c := &checker{fault: l.fault, warn: l.warn}
	fits := c.value("", l.root, reflect.TypeFor[Config]())
	l.covered = c.covered
	if !fits {
		return
	}
	if err := l.root.Decode(l.cfg); err != nil {
		l.syntax(err) // too many aliases
	}
	l.cfg.Path, l.cfg.root = l.path, l.root
}

// sections asks the sections for their faults, and finds the lines.
func (l *loader) sections() {
	for _, err := range flatten(l.cfg.Validate()) {
		key, text := split(err.Error())
		if slices.ContainsFunc(l.covered, func(path string) bool { return below(key, path) || below(path, key) }) {
			continue // its cause has been told
		}
		l.fault(locate(l.root, key), key, text)
	}
	for _, advice := range l.cfg.advise() {
		key, text := split(advice)
		l.warn(locate(l.root, key), key, text)
	}
}

// absolute makes paths relative to the file's own directory, wherever the process was started.
func (l *loader) absolute() {
	dir, err := filepath.Abs(filepath.Dir(l.path))
	if err != nil {
		l.fault(0, "", fmt.Sprintf("find the file's directory: %v", err))
		return
	}
	each(reflect.ValueOf(l.cfg).Elem(), "", func(_, name string, v reflect.Value) {
		if path := v.String(); isFile(name) && path != "" && !filepath.IsAbs(path) {
			v.SetString(filepath.Join(dir, path))
		}
	})
	for i, server := range l.cfg.Directory.Servers {
		if file, ok := strings.CutPrefix(server, "ldif:"); ok && file != "" && !filepath.IsAbs(file) {
			l.cfg.Directory.Servers[i] = "ldif:" + filepath.Join(dir, file)
		}
	}
	if state := l.cfg.Admin.State; state != "" && state != "off" && !filepath.IsAbs(state) {
		l.cfg.Admin.State = filepath.Join(dir, state)
	}
	if file, ok := strings.CutPrefix(l.cfg.Admin.Address, "unix:"); ok && file != "" && !filepath.IsAbs(file) {
		l.cfg.Admin.Address = "unix:" + filepath.Join(dir, file)
	}
}
