"""People work in their mailboxes while servers die, and keep a ledger of what they were told.

Usage: ledger.py work SECONDS PASSWORD ACCOUNT,... HOST:IMAP:LMTP ...
       ledger.py verify LEDGER PASSWORD HOST:IMAP:LMTP

work has one client for each account at each frontend. Each appends, delivers by LMTP, reads and expunges its own messages
and prints at the end what it knows of every one: "kept" was acknowledged, "gone" was acknowledged to be expunged, and of a
"maybe" the connection was lost before the answer. verify reads every mailbox and compares.
"""
import collections
import hashlib
import imaplib
import json
import random
import smtplib
import socket
import sys
import threading
import time

socket.setdefaulttimeout(60)


def text(name):
    """A message of a few hundred to some thousand bytes, whose content follows from its name."""
    rng = random.Random(name)
    lines = ["%064x" % rng.getrandbits(256) for _ in range(rng.randrange(2, 60))]
    body = "\r\n".join(lines) + "\r\n"
    digest = hashlib.sha256(body.encode()).hexdigest()
    return ("From: ledger@example.com\r\nSubject: %s\r\nX-Digest: %s\r\n\r\n%s" % (name, digest, body)).encode()


def whole(message):
    """The name of a message whose content is what its name says, or None."""
    head, _, body = message.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n") if b": " in line)
    name, digest = fields.get(b"Subject", b"").decode(), fields.get(b"X-Digest", b"").decode()
    return name if name and hashlib.sha256(body).hexdigest() == digest else None


def answers(e):
    """answers are the codes that an LMTP error is made of, none for any other error."""
    if isinstance(e, smtplib.SMTPRecipientsRefused):
        return [code for code, _ in e.recipients.values()]
    return [e.smtp_code] if isinstance(e, smtplib.SMTPResponseException) else []


class Client(threading.Thread):
    def __init__(self, account, password, front, number, until):
        super().__init__()
        self.account, self.password, self.front, self.until = account, password, front, until
        self.prefix = "%s-%d" % (account.split("@")[0], number)
        self.rng = random.Random(self.prefix)
        self.ledger, self.faults = {}, []
        self.counts = collections.Counter()
        self.box, self.serial = None, 0

    def run(self):
        while time.time() < self.until:
            try:
                self.step()
            except (OSError, imaplib.IMAP4.abort, smtplib.SMTPException, EOFError) as e:
                self.counts["lost: " + type(e).__name__] += 1
                if any(code >= 500 for code in answers(e)):
                    self.faults.append("%s: refused for good: %s" % (self.prefix, e))
                self.drop()
            except Exception as e:  # nothing else may happen
                self.faults.append("%s: %s: %s" % (self.prefix, type(e).__name__, e))
                self.drop()
        self.drop()

    def drop(self):
        if self.box:
            try:
                self.box.shutdown()
            except OSError:
                pass
        self.box = None

    def connect(self):
        host, port, _ = self.front.split(":")
        box = imaplib.IMAP4(host, int(port))
        self.box = box
        try:
            box.login(self.account, self.password)
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error as e:
            if "UNAVAILABLE" not in str(e):
                raise
            self.counts["refused"] += 1
            raise OSError(str(e))
        self.counts["logins"] += 1
        typ, data = box.select("INBOX")
        if typ != "OK":
            raise imaplib.IMAP4.abort(str(data))

    def step(self):
        if self.box is None:
            self.connect()
        what = self.rng.random()
        if what < 0.35:
            self.append()
        elif what < 0.55:
            self.deliver()
        elif what < 0.85:
            self.read()
        elif what < 0.95:
            self.expunge()
        else:
            self.box.logout()
            self.box = None
        self.counts["steps"] += 1

    def new(self):
        self.serial += 1
        name = "%s-%d" % (self.prefix, self.serial)
        self.ledger[name] = "maybe"
        return name

    def append(self):
        name = self.new()
        typ, data = self.box.append("INBOX", None, None, text(name))
        if typ != "OK":
            raise imaplib.IMAP4.abort(str(data))
        self.ledger[name] = "kept"

    def deliver(self):
        name = self.new()
        host, _, port = self.front.split(":")
        lmtp = smtplib.LMTP(host, int(port), local_hostname="ledger.example.com")
        try:
            lmtp.sendmail("ledger@example.com", [self.account], text(name))
            self.ledger[name] = "kept"
        finally:
            lmtp.close()

    def find(self, name):
        self.box.noop()  # so that the session knows what was delivered meanwhile
        typ, data = self.box.uid("SEARCH", None, "HEADER", "SUBJECT", '"%s"' % name)
        if typ != "OK":
            raise imaplib.IMAP4.abort(str(data))
        found = []
        for uid in data[0].split():  # the search finds parts of words as well
            typ, parts = self.box.uid("FETCH", uid.decode(), "(BODY.PEEK[])")
            if typ != "OK":
                raise imaplib.IMAP4.abort(str(parts))
            found += [uid for p in parts if isinstance(p, tuple) and whole(p[1]) == name]
        return found

    def kept(self):
        names = [n for n, state in self.ledger.items() if state == "kept"]
        return self.rng.choice(names) if names else None

    def read(self):
        name = self.kept()
        if name is None:
            return
        found = self.find(name)
        if len(found) != 1:
            self.faults.append("%s is there %d times" % (name, len(found)))
            self.ledger[name] = "maybe"

    def expunge(self):
        name = self.kept()
        if name is None:
            return
        uids = self.find(name)
        if len(uids) != 1:
            self.faults.append("%s is there %d times" % (name, len(uids)))
            self.ledger[name] = "maybe"
            return
        self.ledger[name] = "maybe"
        uid = uids[0].decode()
        for command in (("STORE", uid, "+FLAGS", "(\\Deleted)"), ("EXPUNGE", uid)):
            typ, data = self.box.uid(*command)
            if typ != "OK":
                raise imaplib.IMAP4.abort(str(data))
        self.ledger[name] = "gone"


def work(seconds, password, accounts, fronts):
    until = time.time() + float(seconds)
    clients = [Client(a, password, f, n, until) for a in accounts.split(",") for n, f in enumerate(fronts)]
    for c in clients:
        c.start()
    for c in clients:
        c.join()
    ledger, counts, faults = {}, collections.Counter(), []
    for c in clients:
        ledger.setdefault(c.account, {}).update(c.ledger)
        counts.update(c.counts)
        faults += c.faults
    json.dump({"ledger": ledger, "counts": counts, "faults": faults}, sys.stdout)


def verify(path, password, front):
    host, port, _ = front.split(":")
    faults, counts = [], collections.Counter()
    with open(path) as f:
        ledger = json.load(f)["ledger"]
    for account, states in ledger.items():
        box = imaplib.IMAP4(host, int(port))
        box.login(account, password)
        # A lock that a killed server has left is waited for, and taken over in the end: until then SELECT is refused.
        patience = time.time() + 150
        typ, data = box.select("INBOX", readonly=True)
        while typ != "OK" and time.time() < patience:
            time.sleep(1)
            typ, data = box.select("INBOX", readonly=True)
        assert typ == "OK", "%s: %s" % (account, data)
        seen = collections.Counter()
        typ, data = box.uid("FETCH", "1:*", "(BODY.PEEK[])")
        assert typ == "OK", data
        for p in data:
            if not isinstance(p, tuple):
                continue
            name = whole(p[1])
            if name is None and b"Subject: welcome to" not in p[1]:
                faults.append("%s: a message is not whole: %r" % (account, p[1][:200]))
            elif name is not None:
                seen[name] += 1
        box.logout()
        for name, state in states.items():
            counts[state] += 1
            if seen[name] > 1:
                faults.append("%s: %s is there %d times" % (account, name, seen[name]))
            if state == "kept" and seen[name] == 0:
                faults.append("%s: %s is lost" % (account, name))
            if state == "gone" and seen[name]:
                faults.append("%s: %s has come back" % (account, name))
        for name in seen.keys() - states.keys():
            faults.append("%s: nobody has sent %s" % (account, name))
    json.dump({"counts": counts, "faults": faults}, sys.stdout)


if sys.argv[1] == "work":
    work(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
else:
    verify(*sys.argv[2:])
