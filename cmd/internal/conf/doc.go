// Package conf reads the one configuration file of mailmux, which hostfailover reads, too.
//
// The file is strict YAML: what is not known, given twice or of the wrong kind is a fault, and so is whatever the
// sections themselves object to. A mail operator who edits it at night gets all faults at once, each with its line, its
// key and what to do:
//
//	mailmux.yaml:7: directory.cache.tll: unknown key; did you mean ttl?
//	mailmux.yaml:19: listeners[2].service: "impa" is not one of imap, pop3, submission, sieve
//
// How that is done: the file is read as a tree, which knows the lines. The tree is compared with the types of the
// sections (strict.go), then decoded into them, then each section's own Validate is asked; the keys that its faults
// begin with are looked up in the tree (locate.go). No section knows of YAML, and no other package imports it.
//
// Secrets stand in files of their own. They are looked at here (secrets.go) and read by those who need them. Relative
// paths are relative to the directory of the configuration file, wherever the process was started.
package conf
