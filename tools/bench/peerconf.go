package main

// The peers' configurations. Words with a dollar sign are filled in. Logging is off or errors only for all.

const mailmuxConf = `hostname: mail.example.com
directory: {servers: [$LDAP], bind_dn: "$BINDDN", bind_password_file: $SECRET, base: "$BASE", cache: {ttl: 1h}}
hosts:
  "$BACK1": {members: ["$BACK1"]}
  "$BACK2": {members: ["$BACK2"]}
backend: {ports: {imap: 10143, pop3: 10110, submission: 10587, lmtp: 10024}}
domains: {default: example.com}
tls: {certificates: [{cert: $ECDSA.pem, key: $ECDSA.key}, {cert: $RSA.pem, key: $RSA.key}]}
listeners:
  - {service: imap, address: "$IP:10143", allow_plaintext: true}
  - {service: imap, address: "$IP:10993", tls: implicit}
  - {service: imap, address: "$IP:11993", tls: implicit}
  - {service: pop3, address: "$IP:10110", allow_plaintext: true}
  - {service: submission, address: "$IP:10587", allow_plaintext: true}
  - {service: lmtp, address: "$IP:10024"}
limits: {per_address: 100000, per_account: 100000}
admin: {address: "unix:$DIR/admin.sock", state: "off"}
log: {level: error}
`

const nginxConf = `load_module modules/ngx_mail_module.so;
user root;
daemon off;
pid $DIR/nginx.pid;
error_log $DIR/error.log error;
worker_processes 2;
events { worker_connections 10000; }
mail {
	auth_http $IP:18080/auth;
	proxy_buffer $BUFFER;
	timeout 1h;
	proxy_timeout 1h;
	ssl_certificate $ECDSA.pem;
	ssl_certificate_key $ECDSA.key;
	ssl_protocols TLSv1.2 TLSv1.3;
	imap_capabilities IMAP4rev1 LITERAL+ SASL-IR;
	imap_auth plain;
	pop3_auth plain;
	smtp_auth plain login;
	smtp_client_buffer 16k;
	proxy_smtp_auth on;
	xclient off;
	server_name mail.example.com;
	server { listen $IP:10143; protocol imap; starttls on; }
	server { listen $IP:10993 ssl; protocol imap; }
	server { listen $IP:11993 ssl; protocol imap; ssl_certificate $RSA.pem; ssl_certificate_key $RSA.key; }
	server { listen $IP:10110; protocol pop3; }
	server { listen $IP:10587; protocol smtp; }
}
`

const dovecotConf = `protocols = imap pop3 submission
base_dir = $DIR/run
state_dir = $DIR/state
instance_name = bench
log_path = $DIR/dovecot-errors.log
listen = $IP
ssl = yes
ssl_cert = <$ECDSA.pem
ssl_key = <$ECDSA.key
ssl_min_protocol = TLSv1.2
local_name rsa.example.com {
  ssl_cert = <$RSA.pem
  ssl_key = <$RSA.key
}
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_cache_size = 64M
auth_cache_ttl = 1 hour
auth_verbose = no
mail_location = maildir:/nonexistent
first_valid_uid = 1
default_client_limit = 20000
passdb {
  driver = ldap
  args = $DIR/ldap.conf
}
userdb {
  driver = static
  args = uid=65534 gid=65534 home=/nonexistent
}
service imap-login {
  service_count = 0
  process_min_avail = 2
  process_limit = 2
  client_limit = 10000
  vsz_limit = 2G
  inet_listener imap {
    port = 10143
  }
  inet_listener imaps {
    port = 10993
    ssl = yes
  }
  inet_listener imaps-rsa {
    port = 11993
    ssl = yes
  }
}
service pop3-login {
  service_count = 0
  process_min_avail = 2
  process_limit = 2
  client_limit = 10000
  inet_listener pop3 {
    port = 10110
  }
  inet_listener pop3s {
    port = 0
  }
}
service submission-login {
  service_count = 0
  process_min_avail = 2
  process_limit = 2
  client_limit = 10000
  inet_listener submission {
    port = 10587
  }
  inet_listener submissions {
    port = 0
  }
}
service auth {
  client_limit = 45000
}
service anvil {
  client_limit = 20000
}
`

const dovecotLDAP = `uris = $LDAP
dn = $BINDDN
dnpass = $PASSWORD
base = $BASE
scope = subtree
pass_filter = (mail=%u)
pass_attrs = mail=user, hostServer=host, =proxy=y, =nopassword=y, =port=%{if;%s;eq;imap;10143;%{if;%s;eq;pop3;10110;10587}}
`

const haproxyConf = `global
  nbthread 2
  maxconn 9500
  maxpipes 64
defaults
  mode tcp
  timeout client 1h
  timeout server 1h
  timeout connect 5s
  option splice-response
frontend imap
  bind $IP:10143
  default_backend imap
frontend imaps
  bind $IP:10993 ssl crt $ECDSA.both prefer-client-ciphers
  default_backend imap
frontend rsa
  bind $IP:11993 ssl crt $RSA.both prefer-client-ciphers
  default_backend imap
frontend pop3
  bind $IP:10110
  default_backend pop3
frontend submission
  bind $IP:10587
  default_backend submission
frontend lmtp
  bind $IP:10024
  default_backend lmtp
backend imap
  server s $BACK1:10143
backend pop3
  server s $BACK1:10110
backend submission
  server s $BACK1:10587
backend lmtp
  server s $BACK1:10024
`
