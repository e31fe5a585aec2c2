package spool

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Config says where the queue is, and how patient it is. Without a directory there is no queue. What is absent has its
// default, and is never unlimited.
type Config struct {
	// Dir is the spool's directory, on a local file system, for one frontend alone. Absent: there is no queue, and
	// temporary failures go back to the sender.
	Dir string `yaml:"dir"`
	// MaxSize is how much all messages may take together, such as 500MiB; 100GiB when absent. Above it new mail is
	// refused for the time being.
	MaxSize Size `yaml:"max_size"`
	// MinFree is how much of the file system stays free; 256MiB when absent. Below it new mail is refused for the time
	// being.
	MinFree Size `yaml:"min_free"`
	// MaxAge is how long a message is tried before it goes back to its sender; 120h when absent.
	MaxAge time.Duration `yaml:"max_age"`
	// DelayWarning is after what time the sender is told that a message still waits; 4h when absent.
	DelayWarning time.Duration `yaml:"delay_warning"`
	// FirstRetry is the pause before the first retry; 5s when absent. The pauses grow with the age of the message.
	FirstRetry time.Duration `yaml:"first_retry"`
	// MaxRetry is the longest pause between two attempts; 30m when absent.
	MaxRetry time.Duration `yaml:"max_retry"`
	// Concurrency is how many messages are handed to one member at once; 10 when absent.
	Concurrency int `yaml:"concurrency"`
	// Postmaster is the sender that notifications show; MAILER-DAEMON at the frontend's host name when absent.
	Postmaster string `yaml:"postmaster"`
}

// WithDefaults fills in what is absent.
func (c Config) WithDefaults() Config {
	c.MaxSize = cmp.Or(c.MaxSize, 100<<30)
	c.MinFree = cmp.Or(c.MinFree, 256<<20)
	c.MaxAge = cmp.Or(c.MaxAge, 120*time.Hour)
	c.DelayWarning = cmp.Or(c.DelayWarning, 4*time.Hour)
	c.FirstRetry = cmp.Or(c.FirstRetry, 5*time.Second)
	c.MaxRetry = cmp.Or(c.MaxRetry, 30*time.Minute)
	c.Concurrency = cmp.Or(c.Concurrency, 10)
	return c
}

// Enabled says whether there is a queue at all.
func (c *Config) Enabled() bool { return c.Dir != "" }

// Validate joins all faults; each begins with the key. It touches no disk.
func (c *Config) Validate() error {
	with := c.WithDefaults()
	var faults []error
	if with.Dir != "" && !filepath.IsAbs(with.Dir) {
		faults = append(faults, fmt.Errorf("dir: %q is not an absolute path, such as /var/spool/mailmux", with.Dir))
	}
	for _, s := range []struct {
		key  string
		size Size
	}{{"max_size", with.MaxSize}, {"min_free", with.MinFree}} {
		if s.size < 0 {
			faults = append(faults, fmt.Errorf("%s: must be positive, got %d", s.key, s.size))
		}
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"max_age", with.MaxAge}, {"delay_warning", with.DelayWarning}, {"first_retry", with.FirstRetry}, {"max_retry", with.MaxRetry}} {
		if d.value <= 0 {
			faults = append(faults, fmt.Errorf("%s: must be positive, got %s", d.key, d.value))
		}
	}
	if with.MaxRetry < with.FirstRetry {
		faults = append(faults, fmt.Errorf("max_retry: %s is shorter than first_retry, %s", with.MaxRetry, with.FirstRetry))
	}
	if with.Concurrency < 1 || with.Concurrency > 1000 {
		faults = append(faults, fmt.Errorf("concurrency: must be from 1 to 1000, got %d", with.Concurrency))
	}
	if p := with.Postmaster; p != "" && (!strings.Contains(p, "@") || strings.ContainsAny(p, "<>\r\n \"")) {
		faults = append(faults, fmt.Errorf("postmaster: %q is not a plain address, such as postmaster@example.com", p))
	}
	return errors.Join(faults...)
}

// Size is a number of bytes. In the configuration it is a number, or one with a unit: KiB, MiB, GiB, TiB, or KB, MB, GB,
// TB for powers of ten.
type Size int64

var units = []struct {
	name  string
	bytes int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
}

// UnmarshalYAML reads a size as it stands in a configuration.
func (s *Size) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if err := unmarshal(&text); err != nil {
		return err
	}
	number, factor := text, int64(1)
	for _, u := range units {
		if n, ok := strings.CutSuffix(text, u.name); ok {
			number, factor = strings.TrimSpace(n), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n > (1<<62)/factor || n < -(1<<62)/factor {
		return fmt.Errorf("%q is not a size, such as 500MiB or 10GiB", text)
	}
	*s = Size(n * factor)
	return nil
}

// String is the size in the largest unit that it is a whole number of.
func (s Size) String() string {
	for i := 3; i >= 0; i-- {
		if u := units[i]; s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
