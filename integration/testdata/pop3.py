"""Logs in with poplib over every kind of TLS and reads the first message.

Usage: pop3.py HOST PORT POP3S_PORT CA USER PASSWORD
"""
import poplib
import ssl
import sys

host, port, tls_port, ca, user, password = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.check_hostname = False  # the address is the name here; the chain is verified


def work(box, what):
    box.user(user)
    box.pass_(password)
    count, _ = box.stat()
    assert count >= 1
    _, lines, _ = box.retr(1)
    assert any(line.startswith(b"Subject: welcome to ") for line in lines), lines
    assert len(box.uidl()[1]) == count
    box.quit()
    print("ok", what)


work(poplib.POP3(host, int(port)), "plain")
box = poplib.POP3(host, int(port))
box.stls(context)
work(box, "starttls")
work(poplib.POP3_SSL(host, int(tls_port), context=context), "implicit")

box = poplib.POP3_SSL(host, int(tls_port), context=context)
box.user(user)
try:
    box.pass_("wrong")
except poplib.error_proto as e:
    assert "[AUTH]" in str(e), e
    print("ok refused")
else:
    sys.exit("a wrong password is taken")
