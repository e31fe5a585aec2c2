"""Logs in with imaplib over every kind of TLS, stores a message and reads it back.

Usage: imap.py HOST PORT IMAPS_PORT CA USER PASSWORD
"""
import imaplib
import ssl
import sys
import time

host, port, tls_port, ca, user, password = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.check_hostname = False  # the address is the name here; the chain is verified


def work(box, what):
    typ, data = box.select("INBOX")
    assert typ == "OK", data
    subject = "imaplib %s %f" % (what, time.time())
    message = ("Subject: %s\r\n\r\nGood day.\r\n" % subject).encode()
    typ, data = box.append("INBOX", None, None, message)
    assert typ == "OK", data
    typ, data = box.search(None, "SUBJECT", '"%s"' % subject)
    assert typ == "OK" and len(data[0].split()) == 1, data
    typ, data = box.fetch(data[0], "(BODY[])")
    assert typ == "OK" and data[0][1] == message, data
    typ, data = box.status("INBOX", "(MESSAGES)")
    assert typ == "OK", data
    box.logout()
    print("ok", what)


box = imaplib.IMAP4(host, int(port))
box.login(user, password)
work(box, "plain")

box = imaplib.IMAP4(host, int(port))
box.starttls(context)
assert box.authenticate("PLAIN", lambda _: ("\0%s\0%s" % (user, password)).encode())[0] == "OK"
work(box, "starttls")

box = imaplib.IMAP4_SSL(host, int(tls_port), ssl_context=context)
box.login(user, password)
work(box, "implicit")

box = imaplib.IMAP4_SSL(host, int(tls_port), ssl_context=context)
try:
    box.login(user, "wrong")
except imaplib.IMAP4.error as e:
    assert "AUTHENTICATIONFAILED" in str(e), e
    print("ok refused")
else:
    sys.exit("a wrong password is taken")
