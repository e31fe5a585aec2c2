"""Sends a message with smtplib over every kind of TLS, by AUTH PLAIN and AUTH LOGIN.

Usage: submit.py HOST PORT SUBMISSIONS_PORT CA USER PASSWORD TO SUBJECT
"""
import smtplib
import ssl
import sys

host, port, tls_port, ca, user, password, to, subject = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.check_hostname = False  # the address is the name here; the chain is verified


def send(smtp, what):
    smtp.sendmail(user, [to], "From: %s\r\nTo: %s\r\nSubject: %s %s\r\n\r\nGood day.\r\n" % (user, to, subject, what))
    smtp.quit()
    print("ok", what)


smtp = smtplib.SMTP(host, int(port))
smtp.login(user, password)
send(smtp, "plain")

smtp = smtplib.SMTP(host, int(port))
smtp.starttls(context=context)
smtp.login(user, password)
send(smtp, "starttls")

smtp = smtplib.SMTP_SSL(host, int(tls_port), context=context)
smtp.ehlo()
smtp.user, smtp.password = user, password
smtp.auth("LOGIN", smtp.auth_login)
send(smtp, "implicit")

smtp = smtplib.SMTP_SSL(host, int(tls_port), context=context)
try:
    smtp.login(user, "wrong")
except smtplib.SMTPAuthenticationError as e:
    assert e.smtp_code == 535, e
    print("ok refused")
else:
    sys.exit("a wrong password is taken")
