package claims

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// keys makes the names of the keys; it is claims.prefix.
type keys string

func (k keys) frontends() string            { return string(k) + "f/" }
func (k keys) frontend(lease string) string { return string(k) + "f/" + lease }
func (k keys) claim(account string) string  { return string(k) + "a/" + account }
func (k keys) holders(account string) string {
	return string(k) + "h/" + account + "/"
}
func (k keys) move(account string) string { return string(k) + "m/" + account }
func (k keys) moves() string              { return string(k) + "m/" }
func (k keys) verdict() string            { return string(k) + "v" }
func (k keys) wishes() string             { return string(k) + "w" }
func (k keys) election() string           { return string(k) + "c" }

// maxAccount bounds the readable part of an account's key.
const maxAccount = 128

// nameOfKey turns what proxy.ClaimKey says of an account into a part of a key's name: the login name, for people, and a
// digest of the whole.
func nameOfKey(account string) string {
	login, _, _ := strings.Cut(account, "\x00")
	sum := sha256.Sum256([]byte(account))
	text := url.PathEscape(login)
	if len(text) > maxAccount {
		text = text[:maxAccount]
	}
	return text + "~" + hex.EncodeToString(sum[:8])
}

// maxValue bounds what is parsed of one key.
const maxValue = 1 << 20

// claimValue is what a/ holds.
type claimValue struct {
	Member string    `json:"member"` // host/member
	Since  time.Time `json:"since"`
}

// moveValue is what m/ holds.
type moveValue struct {
	From  string    `json:"from,omitempty"` // the member to be left; "" is any but To
	To    string    `json:"to,omitempty"`   // where to; "" is for the next login to choose
	By    string    `json:"by"`             // who asked
	Since time.Time `json:"since"`
}

// frontendValue is what f/ holds.
type frontendValue struct {
	Name     string    `json:"name"`
	Since    time.Time `json:"since"`
	Epoch    int64     `json:"epoch"`
	Down     []string  `json:"down,omitempty"`
	Accounts int       `json:"accounts"`
}

// verdict is what v holds.
type verdict struct {
	Epoch int64                `json:"epoch"`
	Down  map[string]time.Time `json:"down,omitempty"` // by host/member, since when
}

// encode makes a value.
func encode(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // none of ours can fail
	}
	return string(text)
}

// decode reads a value that anybody may have written. Its error says nothing of the value, which goes into logs.
func decode(text []byte, into any) error {
	if len(text) > maxValue {
		return errors.New("the value is too long")
	}
	if err := json.Unmarshal(text, into); err != nil {
		return errors.New("the value is none of ours")
	}
	return nil
}

// splitMember takes host/member apart.
func splitMember(name string) (host, member string, err error) {
	host, member, ok := strings.Cut(name, "/")
	if !ok || host == "" || member == "" || len(name) > 512 {
		return "", "", fmt.Errorf("%.64q is no host/member", name)
	}
	return host, member, nil
}
