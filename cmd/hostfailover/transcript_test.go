package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// Each transcript is what an operator types and sees: lines that begin with "$ " are commands, the rest is what must
// come out. Four commands are the test's own: "write FILE" takes the lines up to "." as the file's content, "show FILE"
// prints one, "typing TEXT" answers the question of the next command, which believes itself on a terminal, "columns N"
// has the following ones write on a terminal that is so wide.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			file, err := filepath.Abs(file)
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(text) {
				t.Errorf("the transcript differs (go test -update writes it anew):\n%s", diff(string(text), got))
			}
		})
	}
}

// play runs the commands of a transcript in a directory of their own and gives the transcript as it should be.
func play(t *testing.T, text string) string {
	dir := t.TempDir()
	t.Chdir(dir)
	var out strings.Builder
	lines := strings.Split(text, "\n")
	typing, width := "", 0
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		command, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			if remark(lines[i:]) {
				out.WriteString(line + "\n")
			}
			continue
		}
		out.WriteString(line + "\n")
		words := split(command)
		switch words[0] {
		case "write":
			var content []string
			for i++; lines[i] != "."; i++ {
				content = append(content, lines[i])
			}
			writeFile(t, words[1], strings.Join(content, "\n")+"\n")
			out.WriteString(strings.Join(content, "\n") + "\n.\n")
		case "show":
			content, err := os.ReadFile(words[1])
			if err != nil {
				t.Fatal(err)
			}
			out.WriteString(steady(string(content), dir))
		case "typing":
			typing = strings.Join(words[1:], " ") + "\n"
		case "columns":
			width, _ = strconv.Atoi(words[1])
		case "hostfailover":
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), words[1:], console{in: strings.NewReader(typing), out: &stdout, err: &stderr, terminal: typing != "", width: width})
			typing = ""
			out.WriteString(steady(stderr.String(), dir) + steady(stdout.String(), dir) + fmt.Sprintf("exit %d\n", code))
		default:
			t.Fatalf("line %d: %q is no command of a transcript", i+1, words[0])
		}
	}
	return out.String()
}

// remark says whether the first line belongs to the transcript and not to the output: blank lines and lines that begin
// with #, when nothing else is between them and the next command.
func remark(lines []string) bool {
	for _, line := range lines {
		switch {
		case strings.HasPrefix(line, "$ "):
			return true
		case line != "" && !strings.HasPrefix(line, "#"):
			return false
		}
	}
	return false
}

func writeFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// split cuts at spaces, except within double quotes.
func split(command string) []string {
	var words []string
	for _, m := range regexp.MustCompile(`"([^"]*)"|\S+`).FindAllStringSubmatch(command, -1) {
		if strings.HasPrefix(m[0], `"`) {
			words = append(words, m[1])
		} else {
			words = append(words, m[0])
		}
	}
	return words
}

// steady replaces what differs from run to run.
func steady(text, dir string) string {
	for _, r := range []struct{ pattern, with string }{
		{regexp.QuoteMeta(dir), "DIR"},
		{`\d+\.\d s, \d+/s`, "S s, R/s"},
		{`\d{8}T\d{6}Z`, "TIME"},
		{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`, "TIME"},
		{`"run":"\w{10}"`, `"run":"ID"`},
		{`run \w{10} `, "run ID "},
		{`"(seconds|rate)":[0-9.e+-]+`, `"$1":N`},
		{`TIME-\d+\.journal`, "TIME-PID.journal"},
		{`\r\x1b\[K`, ""},
		{`127\.0\.0\.1:\d{5}`, "127.0.0.1:PORT"},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.with)
	}
	return text
}

func diff(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		a, b := "(end)", "(end)"
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			return fmt.Sprintf("line %d\nwant %s\ngot  %s", i+1, a, b)
		}
	}
	return ""
}
