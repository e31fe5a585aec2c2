package wire

import (
	"bytes"
	"strings"
)

// verbWords is in how many words at the front of a line a verb is looked for: behind a tag, and where somebody got the
// order wrong.
const verbWords = 3

// Redact shows a line up to one of the verbs that have a secret behind them, in any case.
func Redact(line []byte, verbs ...string) []byte {
	end := 0
	for range verbWords {
		start := end + len(line[end:]) - len(bytes.TrimLeft(line[end:], " \t"))
		length := bytes.IndexAny(line[start:], " \t")
		if length < 0 {
			length = len(line) - start
		}
		end = start + length
		for _, verb := range verbs {
			if strings.EqualFold(string(line[start:end]), verb) && end < len(line) {
				return append(bytes.Clone(line[:end]), " [redacted]"...)
			}
		}
	}
	return line
}
