package wire

import "bytes"

// Showing is how much of a line with a certain verb a trace may show.
type Showing uint8

const (
	// ShowNothing is for words that are no verb: a line that begins so may be the password that a client sends behind a
	// login which was refused, or in a literal that nobody asked for.
	ShowNothing Showing = iota
	// ShowVerb is for verbs with a secret behind them, and for those whose arguments help nobody to see why a login fails.
	ShowVerb
	// ShowLine is for verbs that have no secret behind them.
	ShowLine
)

// Redact shows of a client's line what its verb allows. The verb is the word behind so many others, in front of a space or a
// tab. A secret has no certain form, so a line whose verb is not known is not shown at all.
func Redact(line []byte, others int, showing func(verb []byte) Showing) []byte {
	end, start := 0, 0
	for range others + 1 {
		start = end + len(line[end:]) - len(bytes.TrimLeft(line[end:], " \t"))
		if end = len(line); start < end {
			if i := bytes.IndexAny(line[start:], " \t"); i >= 0 {
				end = start + i
			}
		}
	}
	show := showing(line[start:end])
	switch {
	case show == ShowNothing && len(line) > 0:
		return []byte("[redacted: not a command]")
	case show == ShowVerb && end < len(line):
		return append(bytes.Clone(line[:end]), " [redacted]"...)
	}
	return line
}
