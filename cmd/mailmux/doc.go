// Command mailmux stands in front of mail servers and relays each session to the one that holds the account.
//
//	mailmux serve                      run in the foreground, as systemd wants it
//	mailmux check [-online]            look the configuration over, and the servers it names
//	mailmux lookup NAME                where an account goes, and why
//	mailmux status|who|kick|withdraw|ready|reload
//	                                   ask the running frontend, over its admin socket
//	mailmux queue list|show|retry|…    the messages that wait (queuecommand.go, queuemove.go)
//
// This package is wiring: flags and exit codes (main.go, commands.go), the process with its signals and systemd
// (serve.go, process.go), what a configuration is made into, again at each reload (frontend.go), and what operators see
// of it (operator.go, text.go). What sessions do is in package proxy, the words of the protocols beside it.
//
// It needs no privilege but that of binding ports below 1024, and drops none: systemd's User= with
// AmbientCapabilities=CAP_NET_BIND_SERVICE, or its socket units, never give it more.
package main
