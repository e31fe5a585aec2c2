// Command configref writes the reference of the configuration and of the metrics, examples/REFERENCE.md.
//
//	go run ./tools/configref
//
// The configuration is read from the source: a struct of package conf is a section, a field with a yaml tag is a key, and
// its comment is what the reference says of it. So a key cannot be without a word, and the word is where the code is. The
// metrics are asked of the registry that the frontend uses. A test fails when the file is not what the source says.
package main
