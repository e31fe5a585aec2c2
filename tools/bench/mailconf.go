package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"strconv"
)

// The configurations of the servers that take messages in. Postfix asks the directory for the recipient at RCPT, as
// mailmux does, and for the transport; it has no limits on concurrency or rate that its defaults would set, and no
// delay when its queue grows. Both log each delivery.

const mailConf = `hostname: mail.example.com
directory: {servers: [$LDAP], bind_dn: "$BINDDN", bind_password_file: $SECRET, base: "$BASE", cache: {ttl: 1h}}
hosts:
  "$BACK1": {members: ["$BACK1"], check: {mode: off}}
  "$BACK2": {members: ["$BACK2"], check: {mode: off}}
backend: {ports: {lmtp: 10026}}
domains: {default: example.com}
listeners:
  - {service: smtp, address: "$IP:10025"}
delivery: {idle_connections: 50}
$SPOOL
limits: {per_address: 100000, exempt: [127.0.0.0/8]}
admin: {address: "unix:$DIR/admin.sock", state: "off"}
log: {level: info}
`

const postfixMain = `compatibility_level = 3.6
config_directory = $DIR/conf
queue_directory = $DIR/queue
data_directory = $DIR/data
maillog_file = $DIR/mail.log
maillog_file_prefixes = $DIR
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = post.example.com
mydestination =
mynetworks =
local_transport = error:no local mail here
default_transport = error:example.com only
relay_domains = example.com
transport_maps = proxy:ldap:$DIR/conf/transport.cf
relay_recipient_maps = proxy:ldap:$DIR/conf/recipient.cf
disable_dns_lookups = yes
smtp_host_lookup = native
alias_maps =
alias_database =
in_flow_delay = 0
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
lmtp_destination_concurrency_limit = 50
initial_destination_concurrency = 50
default_process_limit = 200
smtpd_recipient_restrictions = reject_unauth_destination
smtpd_relay_restrictions = reject_unauth_destination
`

const postfixMap = `server_host = $LDAP
version = 3
bind = yes
bind_dn = $BINDDN
bind_pw = $PASSWORD
search_base = $BASE
query_filter = (mail=%s)
result_attribute = hostServer
`

const postfixMaster = `$IP:10025 inet n - n - - smtpd
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
showq     unix n - n - - showq
error     unix - - n - - error
retry     unix - - n - - error
lmtp      unix - - n - - lmtp
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
`

// preparePostfix makes an instance of its own: nothing here touches the machine's.
func (p *mailPeer) preparePostfix(w *world) error {
	postfix, err := find("postfix")
	if err != nil {
		return err
	}
	owner, err := osuser.Lookup("postfix")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return err
	}
	for _, sub := range []string{"conf", "queue", "data"} {
		if err := os.MkdirAll(filepath.Join(p.dir, sub), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chown(filepath.Join(p.dir, "data"), uid, -1); err != nil {
		return err
	}
	as := &peer{dir: p.dir, host: p.host}
	// To queue, it is told to try no deliveries at all; mailmux finds out that the sinks are away, and tries now and then.
	p.before = func(test string) error {
		text := postfixMain
		if test == "queue" {
			text += "defer_transports = lmtp\n"
		}
		_, err := as.file("conf/main.cf", expand(text, w, as, nil))
		return err
	}
	if err := p.before("deliver"); err != nil {
		return err
	}
	for name, text := range map[string]string{"master.cf": postfixMaster, "recipient.cf": postfixMap,
		"transport.cf": postfixMap + "result_format = lmtp:inet:[%s]:" + portSink + "\n"} {
		if _, err := as.file("conf/"+name, expand(text, w, as, nil)); err != nil {
			return err
		}
	}
	conf := filepath.Join(p.dir, "conf")
	p.argv = []string{"/usr/lib/postfix/sbin/master", "-c", conf, "-d"}
	p.clean = func() error {
		queue := filepath.Join(p.dir, "queue")
		if err := errors.Join(os.RemoveAll(queue), os.Mkdir(queue, 0o755)); err != nil {
			return err
		}
		// It makes the folders of the queue itself, with the owners they need.
		if out, err := exec.Command(postfix, "-c", conf, "check").CombinedOutput(); err != nil {
			return fmt.Errorf("postfix check: %w\n%s", err, out)
		}
		return nil
	}
	return p.clean()
}
