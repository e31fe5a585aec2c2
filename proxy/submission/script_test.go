package submission

import (
	"testing"

	"mailmux/proxy/prototest"
)

// TestScripts plays the conversations of testdata through the engine.
func TestScripts(t *testing.T) {
	prototest.Run(t, New(), "submission", "testdata/*.txt")
}
