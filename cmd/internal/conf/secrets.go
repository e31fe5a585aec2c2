package conf

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"
)

// files looks at every file that the configuration names: those who need them read them later, one by one, and an
// operator wants to know of all of them now.
func (l *loader) files() {
	named := make(map[string]string)
	each(reflect.ValueOf(l.cfg).Elem(), "", func(path, name string, v reflect.Value) {
		if isFile(name) && v.String() != "" {
			named[path] = v.String()
			l.file(path, v.String(), isSecret(name))
		}
	})
	for key, cert := range named {
		if section, ok := strings.CutSuffix(key, "tls_cert_file"); ok {
			l.pair(key, section+"tls_key_file", cert, named[section+"tls_key_file"])
		}
	}
	for i, c := range l.cfg.TLS.Certificates {
		l.certificate(fmt.Sprintf("tls.certificates[%d]", i), c.Cert, c.Key)
	}
	if file, ok := strings.CutPrefix(first(l.cfg.Directory.Servers), "ldif:"); ok && file != "" {
		l.file("directory.servers[0]", file, false)
	}
}

// file wants a file that can be read. Secrets must not be readable by everybody: that is a warning, not a fault, because
// the mail of a whole site is not to stop for a mode that somebody changed.
func (l *loader) file(key, path string, secret bool) {
	line := locate(l.root, key)
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		l.fault(line, key, path+" is not a regular file") // and opening a pipe could last for ever
		return
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(path)
	}
	if err != nil {
		l.fault(line, key, readable(path, err))
		return
	}
	defer f.Close()
	switch {
	case info.Size() == 0:
		l.fault(line, key, path+" is empty")
	case secret && info.Mode().Perm()&0o004 != 0:
		l.warn(line, key, fmt.Sprintf("every user of this machine can read %s: chmod o-rwx %s", path, path))
	}
	if info.Size() > 0 {
		l.content(line, key, path, f)
	}
}

// content looks into the files whose form is known. Those who read them later know no line, and stop at the first fault.
func (l *loader) content(line int, key, path string, r io.Reader) {
	authorities, tickets := strings.HasSuffix(key, "ca_file"), strings.HasSuffix(key, "ticket_key_file")
	if !authorities && !tickets {
		return
	}
	const most = 16 << 20
	text, err := io.ReadAll(io.LimitReader(r, most))
	switch {
	case err != nil:
		l.fault(line, key, readable(path, err))
	case authorities && !x509.NewCertPool().AppendCertsFromPEM(text):
		l.fault(line, key, path+" holds no certificate in PEM: name the file with those of the authorities, -----BEGIN CERTIFICATE-----")
	case tickets && !slices.ContainsFunc(bytes.Split(text, []byte("\n")), func(b []byte) bool { return len(bytes.TrimSpace(b)) >= 32 }):
		l.fault(line, key, path+" has no line of at least 32 characters; make one with: openssl rand -hex 32")
	}
}

// pair wants a client certificate that fits its key.
func (l *loader) pair(key, keyOfKey, cert, private string) {
	if private == "" || l.told(key) || l.told(keyOfKey) {
		return
	}
	if _, err := tls.LoadX509KeyPair(cert, private); err != nil {
		l.fault(locate(l.root, key), key, fmt.Sprintf("load %s with %s: %v", cert, private, err))
	}
}

// told says whether there is a fault at a key, or below it.
func (l *loader) told(key string) bool {
	return slices.ContainsFunc(l.faults, func(f Fault) bool { return below(f.Key, key) })
}

// readable says why a file cannot be read, and what helps.
func readable(path string, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path + " does not exist"
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("%s cannot be read by user id %d: change its owner, group or mode", path, os.Geteuid())
	}
	return err.Error()
}

// certificate wants a pair that fits together, and looks at its end.
func (l *loader) certificate(key, cert, private string) {
	if cert == "" || private == "" || l.told(key) {
		return // told already
	}
	line := locate(l.root, key)
	pair, err := tls.LoadX509KeyPair(cert, private)
	if err != nil {
		l.fault(line, key, fmt.Sprintf("load %s with %s: %v", cert, private, err))
		return
	}
	const soon = 14 * 24 * time.Hour
	if begin := pair.Leaf.NotBefore; time.Now().Before(begin) {
		l.warn(line, key, fmt.Sprintf("%s begins on %s: clients refuse it until then; is the clock right?", cert, begin.Format(time.DateOnly)))
	}
	end := pair.Leaf.NotAfter
	switch left := time.Until(end); {
	case left < 0:
		l.warn(line, key, fmt.Sprintf("%s expired on %s: clients refuse it; renew it and reload", cert, end.Format(time.DateOnly)))
	case left < soon:
		l.warn(line, key, fmt.Sprintf("%s expires on %s: renew it and reload", cert, end.Format(time.DateOnly)))
	}
}

// isFile says whether a key names a file, isSecret whether that holds a secret.
func isFile(key string) bool {
	return strings.HasSuffix(key, "_file") || key == "cert" || key == "key"
}

func isSecret(key string) bool {
	return key == "key" || strings.HasSuffix(key, "password_file") || strings.HasSuffix(key, "key_file")
}

// each visits every text of a configuration, with its path and the name of its key, so that it can be changed.
func each(v reflect.Value, path string, visit func(path, name string, v reflect.Value)) {
	switch v.Kind() {
	case reflect.Struct:
		eachField(v, path, visit)
	case reflect.Slice:
		for i := range v.Len() {
			each(v.Index(i), fmt.Sprintf("%s[%d]", path, i), visit)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			item := reflect.New(v.Type().Elem()).Elem()
			item.Set(v.MapIndex(k))
			each(item, join(path, fmt.Sprint(k.Interface())), visit)
			v.SetMapIndex(k, item)
		}
	}
}

func eachField(v reflect.Value, path string, visit func(path, name string, v reflect.Value)) {
	for i := range v.NumField() {
		name, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		value := v.Field(i)
		switch {
		case options == "inline":
			each(value, path, visit)
		case name == "" || name == "-":
		case value.Kind() == reflect.String:
			visit(join(path, name), name, value)
		default:
			each(value, join(path, name), visit)
		}
	}
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
