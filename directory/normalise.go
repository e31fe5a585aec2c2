package directory

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The longest names (RFC 5321 section 4.5.3.1). A login name may be longer than an address: it is 64 and 255 octets and
// the sign between them.
const (
	maxLocal   = 64
	maxDomain  = 255
	maxAddress = 254
	maxLogin   = 320
)

// Login normalises what a mail program gave as its login name. The domain of a name without one is that of the TLS
// server name, else that of the local address connected to, else Default; either of the first two may be absent (the
// zero Addr, ""). "user%domain" is user@domain. The error wraps ErrBadName.
func (d *Domains) Login(login string, local netip.Addr, serverName string) (Name, error) {
	if len(login) > maxLogin {
		return Name{}, badName("longer than %d bytes", maxLogin)
	}
	name, err := d.normalise(login, loginText, func() string { return d.domainOf(local, serverName) })
	if err != nil {
		return Name{}, err
	}
	if name.length() > maxLogin {
		return Name{}, badName("longer than %d bytes", maxLogin)
	}
	return name, nil
}

// Recipient normalises the address of a message's recipient: what stood between < and > in RCPT TO. It differs from
// Login in that the detail is cut off, and in that characters which RFC 5321 wants quoted are refused outside quotes.
// The error wraps ErrBadName.
func (d *Domains) Recipient(address string, local netip.Addr) (Name, error) {
	if len(address) > maxAddress {
		return Name{}, badName("longer than %d bytes", maxAddress)
	}
	name, err := d.normalise(address, recipientText, func() string { return d.domainOf(local, "") })
	if err != nil {
		return Name{}, err
	}
	if len(name.Local) > maxLocal {
		return Name{}, badName("local part longer than %d bytes", maxLocal)
	}
	if delimiters := d.delimiters(); delimiters != "" {
		// A delimiter in front is part of the name: there would be no account left without it.
		if i := strings.IndexAny(name.Local, delimiters); i > 0 {
			name.Local, name.Detail = name.Local[:i], name.Local[i+1:]
		}
	}
	if name.length() > maxAddress {
		return Name{}, badName("longer than %d bytes", maxAddress)
	}
	return name, nil
}

// normalise does what logins and recipients have in common. It allocates nothing for a name that is already normal.
func (d *Domains) normalise(s string, plain func(byte) bool, implied func() string) (Name, error) {
	local, domain, found, err := split(s, plain)
	if err != nil {
		return Name{}, err
	}
	if local == "" {
		return Name{}, badName("nothing before the domain")
	}
	if !d.KeepCase {
		local = lower(local)
	}
	if !found {
		domain = implied()
		if domain == "" {
			return Name{Local: local}, nil
		}
	}
	domain, err = d.domain(domain)
	if err != nil {
		return Name{}, err
	}
	return Name{Local: local, Domain: domain}, nil
}

// domain normalises a domain: lower case, no trailing dot, alias resolved. An address literal (RFC 5321 section 4.1.3)
// is the domain to which that address is dedicated.
func (d *Domains) domain(domain string) (string, error) {
	if literal, ok := strings.CutPrefix(domain, "["); ok {
		addr, err := parseLiteral(literal)
		if err != nil {
			return "", badName("not an address literal")
		}
		domain = d.Addresses[addr]
		if domain == "" {
			return "", badName("no domain has the address %s", addr)
		}
	}
	domain = lower(strings.TrimSuffix(domain, "."))
	if err := checkDomain(domain); err != nil {
		return "", err
	}
	if meant, ok := d.Aliases[domain]; ok {
		return meant, nil
	}
	return domain, nil
}

func parseLiteral(literal string) (netip.Addr, error) {
	text, ok := strings.CutSuffix(literal, "]")
	if !ok {
		return netip.Addr{}, errors.New("no closing bracket")
	}
	if len(text) > 5 && strings.EqualFold(text[:5], "IPv6:") {
		text = text[5:]
	}
	addr, err := netip.ParseAddr(text)
	return addr.Unmap(), err
}

// domainOf is the domain of a name that came without one.
func (d *Domains) domainOf(local netip.Addr, serverName string) string {
	if serverName != "" && len(d.ServerNames) > 0 {
		if domain, ok := d.ServerNames[lower(strings.TrimSuffix(serverName, "."))]; ok {
			return domain
		}
	}
	if local.IsValid() && len(d.Addresses) > 0 {
		if domain, ok := d.Addresses[local.Unmap().WithZone("")]; ok {
			return domain
		}
	}
	return d.Default
}

func (d *Domains) delimiters() string {
	switch d.Delimiter {
	case "":
		return "+"
	case "none":
		return ""
	}
	return d.Delimiter
}

// split finds the local part's content and the domain.
func split(s string, plain func(byte) bool) (local, domain string, found bool, err error) {
	if strings.HasPrefix(s, `"`) {
		content, rest, err := unquote(s)
		if err != nil || rest == "" {
			return content, "", false, err
		}
		if rest[0] != '@' {
			return "", "", false, badName("text behind the closing quote")
		}
		return content, rest[1:], true, nil
	}
	at := strings.IndexByte(s, '@')
	if at < 0 {
		at = strings.LastIndexByte(s, '%')
	}
	local = s
	if at >= 0 {
		local, domain, found = s[:at], s[at+1:], true
	}
	return local, domain, found, checkLocal(local, plain)
}

// unquote reads a quoted-string of RFC 5321 section 4.1.2 and gives what follows it.
func unquote(s string) (content, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			return b.String(), s[i+1:], checkLocal(b.String(), func(byte) bool { return true })
		case c == '\\' && i+1 < len(s):
			i++
			c = s[i]
		}
		b.WriteByte(c)
	}
	return "", "", badName("no closing quote")
}

// checkLocal refuses what can be no part of a name: control characters, invisible ones, bytes that are not UTF-8, and
// the ASCII characters that plain does not know. Characters of other scripts have to be visible: a directory compares
// without the invisible ones (RFC 4518 section 2.2), so two names that differ only there would be one account.
func checkLocal(local string, plain func(byte) bool) error {
	for i, r := range local {
		switch {
		case r < 0x20 || r == 0x7f:
			return badName("control character at byte %d", i)
		case r < utf8.RuneSelf && !plain(byte(r)):
			return badName("character %q at byte %d has to be quoted", r, i)
		case r == utf8.RuneError, r >= utf8.RuneSelf && !unicode.IsPrint(r):
			return badName("unusable character at byte %d", i)
		}
	}
	return nil
}

// checkDomain wants labels of letters, digits, hyphens and underscores, in any script.
func checkDomain(domain string) error {
	if domain == "" || len(domain) > maxDomain {
		return badName("domain empty or longer than %d bytes", maxDomain)
	}
	previous := '.'
	for i, r := range domain {
		switch {
		case r == '.' && previous == '.':
			return badName("empty label in the domain")
		case r == '.', r == '-', r == '_', 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		case r < utf8.RuneSelf, r == utf8.RuneError, !unicode.IsPrint(r):
			return badName("unusable character at byte %d of the domain", i)
		}
		previous = r
	}
	if previous == '.' {
		return badName("empty label in the domain")
	}
	return nil
}

// atext is RFC 5321's atom text; bytes of other scripts are part of it since RFC 6531 section 3.3.
func atext(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c >= utf8.RuneSelf:
		return true
	}
	return strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

func recipientText(c byte) bool { return atext(c) || c == '.' }

// loginText is wider than an address: a login name without a domain need not be one ("DOMAIN\user"). Spaces stay out:
// a directory ignores them at the ends, so "ann " would be a second name for ann.
func loginText(c byte) bool { return c > ' ' && c != '"' && c != '@' && c != '<' && c != '>' }

// lower is strings.ToLower except that no character of another script turns into an ASCII letter (KELVIN SIGN would
// become k): such a name belongs to somebody else.
func lower(s string) string {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' || c >= utf8.RuneSelf {
			return strings.Map(lowerRune, s)
		}
	}
	return s
}

func lowerRune(r rune) rune {
	l := unicode.ToLower(r)
	if l < utf8.RuneSelf && r >= utf8.RuneSelf {
		return r
	}
	return l
}

// length is len(n.String()) without making the string.
func (n Name) length() int {
	length := len(n.Local)
	if n.needsQuotes() {
		length += 2 + strings.Count(n.Local, `"`) + strings.Count(n.Local, `\`)
	}
	if n.Domain != "" {
		length += 1 + len(n.Domain)
	}
	return length
}

func badName(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrBadName}, args...)...)
}

// Validate joins all faults of the configuration.
func (d *Domains) Validate() error {
	var faults []error
	check := func(key, domain string) {
		if domain != lower(strings.TrimSuffix(domain, ".")) {
			faults = append(faults, fmt.Errorf("%s: write %q in lower case without a trailing dot", key, domain))
		} else if err := checkDomain(domain); err != nil {
			faults = append(faults, fmt.Errorf("%s: %q is not a domain name: %s", key, domain, strings.TrimPrefix(err.Error(), ErrBadName.Error()+": ")))
		}
	}
	if d.Default != "" {
		check("default", d.Default)
	}
	for _, addr := range slices.SortedFunc(maps.Keys(d.Addresses), netip.Addr.Compare) {
		key := "addresses." + addr.String()
		check(key, d.Addresses[addr])
		if plain := addr.Unmap().WithZone(""); plain != addr {
			faults = append(faults, fmt.Errorf("%s: write this address as %s", key, plain))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.ServerNames)) {
		check("server_names."+name, name)
		check("server_names."+name, d.ServerNames[name])
	}
	for _, alias := range slices.Sorted(maps.Keys(d.Aliases)) {
		key, meant := "aliases."+alias, d.Aliases[alias]
		check(key, alias)
		check(key, meant)
		if _, ok := d.Aliases[meant]; ok {
			faults = append(faults, fmt.Errorf("%s: %s is an alias itself: name the domain it stands for", key, meant))
		}
	}
	if d.Delimiter != "none" && strings.ContainsFunc(d.Delimiter, func(r rune) bool {
		return r >= utf8.RuneSelf || !atext(byte(r)) && r != '.' || unicode.IsLetter(r) || unicode.IsDigit(r)
	}) {
		faults = append(faults, fmt.Errorf(`delimiter: %q is neither "none" nor made of signs such as "+"`, d.Delimiter))
	}
	return errors.Join(faults...)
}
