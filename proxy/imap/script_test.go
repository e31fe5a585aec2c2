package imap

import (
	"testing"

	"mailmux/proxy/prototest"
)

func TestScripts(t *testing.T) { prototest.Run(t, New(), "imap", "testdata/*.txt") }
