package build

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// MaxSecret bounds one secret.
const MaxSecret = 512 << 10

// Secret is what a RUN may read and nothing keeps: it is in no layer, no
// history, no key of the cache and no log.
type Secret []byte

// String keeps the value out of messages.
func (Secret) String() string { return "(secret)" }

// GoString is String.
func (s Secret) GoString() string { return s.String() }

// SecretFile is a secret that a command finds as a file while it runs.
type SecretFile struct {
	Target   string // absolute path in the root
	Value    Secret
	Mode     uint32
	UID, GID int
}

// secretMount is a RUN --mount=type=secret. Its value is looked up when the
// command runs.
type secretMount struct {
	ID, Target string
	Mode       uint32
	UID, GID   int
}

// parameterName is what follows allow. in jail(8).
var parameterName = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$`)

var secretID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

func (p *planner) readMount(text string) (m secretMount, needed bool, err error) {
	m.Mode = 0o400
	for word := range strings.SplitSeq(text, ",") {
		key, value, has := strings.Cut(word, "=")
		if !has && key != "required" || has && value == "" {
			return m, false, fmt.Errorf("%q has no value", key)
		}
		switch key {
		case "type":
		case "id":
			m.ID = value
		case "target", "dst", "destination":
			m.Target = path.Clean(p.inWorkdir(value))
		case "required":
			if needed = !has; has {
				needed, err = strconv.ParseBool(value)
			}
		case "mode":
			var n uint64
			n, err = strconv.ParseUint(value, 8, 9)
			m.Mode = uint32(n)
		case "uid":
			m.UID, err = number(value)
		case "gid":
			m.GID, err = number(value)
		default:
			return m, false, fmt.Errorf("unknown option %q: there are type, id, target, required, mode, uid and gid",
				key)
		}
		if err != nil {
			return m, false, fmt.Errorf("%s: invalid value %q", key, value)
		}
	}
	if m.ID == "" && m.Target != "" {
		m.ID = path.Base(m.Target)
	}
	if !secretID.MatchString(m.ID) {
		return m, false, errors.New("it needs id=NAME, of letters, digits and _ . -")
	}
	if m.Target == "" {
		m.Target = "/run/secrets/" + m.ID
	}
	if m.Target == "/" || strings.ContainsRune(m.Target, 0) {
		return m, false, errors.New("the target is not a file path")
	}
	return m, needed, nil
}

func number(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 31)
	return int(n), err
}

// masker keeps secrets out of what a command says. It holds back the end of
// what it has until it knows that no secret begins there.
type masker struct {
	w       io.Writer
	secrets [][]byte
	held    []byte
}

const masked = "(secret)"

// newMasker looks for the secrets, and for each of their lines, longest first.
// Those of fewer than 4 bytes would hide what is none.
func newMasker(w io.Writer, list []SecretFile) *masker {
	m := &masker{w: w}
	for _, s := range list {
		whole := bytes.TrimSpace(s.Value)
		for _, text := range append([][]byte{whole}, bytes.Split(whole, []byte("\n"))...) {
			if text = bytes.TrimSpace(text); len(text) >= 4 {
				m.secrets = append(m.secrets, text)
			}
		}
	}
	slices.SortFunc(m.secrets, func(a, b []byte) int { return len(b) - len(a) })
	return m
}

func (m *masker) Write(p []byte) (int, error) {
	m.held = append(m.held, p...)
	return len(p), m.pass(false)
}

// Flush writes what is held back.
func (m *masker) Flush() error { return m.pass(true) }

func (m *masker) pass(all bool) error {
	var out []byte
	i := 0
scan:
	for i < len(m.held) {
		rest := m.held[i:]
		for _, s := range m.secrets {
			switch {
			case bytes.HasPrefix(rest, s):
				out = append(out, masked...)
				i += len(s)
				continue scan
			case !all && len(rest) < len(s) && bytes.HasPrefix(s, rest):
				break scan
			}
		}
		out = append(out, m.held[i])
		i++
	}
	m.held = append(m.held[:0], m.held[i:]...)
	if len(out) == 0 {
		return nil
	}
	_, err := m.w.Write(out)
	return err
}
