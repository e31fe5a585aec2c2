package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := run("."); err != nil {
		fmt.Fprintf(os.Stderr, "configref: %v\n", err)
		os.Exit(1)
	}
}

// target is the file that is written, in the module's directory.
const target = "examples/REFERENCE.md"

// run writes the reference of the module whose directory is root.
func run(root string) error {
	text, err := reference(root)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, target), text, 0o644)
}
