package spool
const childDir = "X"
func child(string) {}
