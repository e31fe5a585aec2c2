package pop3

import (
	"testing"

	"mailmux/proxy/prototest"
)

func TestScripts(t *testing.T) { prototest.Run(t, New(), "pop3", "testdata/*.txt") }
