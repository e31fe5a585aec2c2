package auth

import (
	"strings"
)

// bearerUser finds the user in the initial response of OAUTHBEARER (RFC 7628 section 3.1):
//
//	gs2-header kvsep *kvpair kvsep     n,a=user@example.com,^Ahost=…^Aport=…^Aauth=Bearer …^A^A
//
// The user may be absent by the RFC, since the token could name it; nothing can be routed by that here.
func bearerUser(message []byte) (string, error) {
	header, rest, ok := strings.Cut(string(message), "\x01")
	if !ok || !strings.HasSuffix(rest, "\x01") {
		return "", ErrMalformed
	}
	authzid, _, err := gs2(header)
	if err != nil {
		return "", err
	}
	if !strings.Contains("\x01"+rest, "\x01auth=") {
		return "", ErrMalformed
	}
	return authzid, nil
}

// xoauth2User finds the user in the initial response of XOAUTH2: user=…^Aauth=Bearer …^A^A
func xoauth2User(message []byte) (string, error) {
	m := string(message)
	if !strings.HasSuffix(m, "\x01\x01") {
		return "", ErrMalformed
	}
	user, auth := "", false
	for pair := range strings.SplitSeq(strings.TrimRight(m, "\x01"), "\x01") {
		key, value, _ := strings.Cut(pair, "=")
		switch strings.ToLower(key) {
		case "user":
			if user != "" {
				return "", ErrMalformed
			}
			user = value
		case "auth":
			auth = true
		}
	}
	if user == "" || !auth {
		return "", ErrMalformed
	}
	return user, nil
}

// scramUser finds the user and the authorization identity in SCRAM's client-first-message (RFC 5802 section 7):
//
//	gs2-header [reserved-mext ","] username "," nonce     n,a=boss,n=ann,r=fyko…
func scramUser(message []byte) (user, authzid string, err error) {
	authzid, bare, err := gs2(string(message))
	if err != nil {
		return "", "", err
	}
	attributes := strings.Split(bare, ",")
	if len(attributes) < 2 || !strings.HasPrefix(attributes[0], "n=") ||
		!strings.HasPrefix(attributes[1], "r=") || len(attributes[1]) == len("r=") {
		return "", "", ErrMalformed // "m=" included: a mandatory extension nobody knows (section 5.1)
	}
	if user, err = saslname(attributes[0][len("n="):]); err != nil {
		return "", "", err
	}
	if authzid == user {
		authzid = ""
	}
	return user, authzid, nil
}

// gs2 reads a gs2-header: gs2-cbind-flag "," [ "a=" saslname ] "," and returns what follows it.
func gs2(s string) (authzid, rest string, err error) {
	flag, s, ok := strings.Cut(s, ",")
	if strings.HasPrefix(flag, "p=") {
		return "", "", ErrChannelBinding
	}
	if !ok || flag != "n" && flag != "y" {
		return "", "", ErrMalformed
	}
	name, rest, ok := strings.Cut(s, ",")
	if !ok || name != "" && !strings.HasPrefix(name, "a=") {
		return "", "", ErrMalformed
	}
	authzid, err = saslname(strings.TrimPrefix(name, "a="))
	return authzid, rest, err
}

// saslname decodes "=2C" and "=3D", the only escapes there are (RFC 5802 section 5.1).
func saslname(s string) (string, error) {
	if !strings.Contains(s, "=") {
		return s, nil
	}
	plain := strings.NewReplacer("=2C", ",", "=3D", "=").Replace(s)
	if strings.Count(s, "=") != strings.Count(s, "=2C")+strings.Count(s, "=3D") {
		return "", ErrMalformed
	}
	return plain, nil
}
