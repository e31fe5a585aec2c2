package sieve

import (
	"testing"

	"mailmux/proxy/prototest"
)

func TestScripts(t *testing.T) { prototest.Run(t, New(), "sieve", "testdata/*.txt") }
