package bsd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Types of sysctls: CTLTYPE_* of sys/sysctl.h.
const (
	ctlInt    = 2
	ctlString = 3
	ctlS64    = 4
	ctlLong   = 7
	ctlS8     = 0xc
	ctlS16    = 0xd
	ctlS32    = 0xe
	ctlMask   = 0xf
)

// The kernel tells of its sysctls by sysctls, {0, n, number of one ...}.
const (
	askName   = 1
	askNext   = 2
	askNumber = 3 // of a name
	askFormat = 4
)

// Sysctl reads a sysctl by its number into old and sets it to value, each where it
// is not empty. It returns how many bytes the kernel has: old may be nil to ask.
func Sysctl(number []int32, old, value []byte) (int, error) {
	n := uintptr(len(old))
	_, _, errno := unix.Syscall6(unix.SYS___SYSCTL, uintptr(unsafe.Pointer(&number[0])), uintptr(len(number)),
		uintptr(unsafe.Pointer(unsafe.SliceData(old))), uintptr(unsafe.Pointer(&n)),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// SysctlNumber is the number of a sysctl by its name.
func SysctlNumber(name string) ([]int32, error) {
	b := make([]byte, 24*4) // CTL_MAXNAME
	n, err := Sysctl([]int32{0, askNumber}, b, []byte(name))
	if err != nil {
		return nil, fmt.Errorf("sysctl %s: %w", name, err)
	}
	return numbers(b[:n]), nil
}

func numbers(b []byte) (out []int32) {
	for ; len(b) >= 4; b = b[4:] {
		out = append(out, int32(binary.NativeEndian.Uint32(b)))
	}
	return out
}

// ask asks the kernel about a sysctl.
func ask(what int32, number []int32) ([]byte, error) {
	b := make([]byte, 1024)
	n, err := Sysctl(append([]int32{0, what}, number...), b, nil)
	return b[:n], err
}

// Format is the type of a sysctl, of CTLTYPE_* of sys/sysctl.h, and its format, as
// "E,jailsys".
type Format struct {
	Type uint32
	Text string
}

func format(number []int32) (Format, error) {
	b, err := ask(askFormat, number)
	if err == nil && len(b) < 4 {
		err = errors.New("unknown type")
	}
	if err != nil {
		return Format{}, err
	}
	return Format{binary.NativeEndian.Uint32(b) & ctlMask, unix.ByteSliceToString(b[4:])}, nil
}

// SysctlsBelow returns the formats of all sysctls below a node, by their names
// without the node's.
func SysctlsBelow(node string) (map[string]Format, error) {
	number, err := SysctlNumber(node)
	if err != nil {
		return nil, err
	}
	out := map[string]Format{}
	for {
		next, err := ask(askNext, number)
		if errors.Is(err, unix.ENOENT) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("sysctl after %s: %w", node, err)
		}
		number = numbers(next)
		b, err := ask(askName, number)
		if err != nil {
			return nil, fmt.Errorf("name of sysctl %v: %w", number, err)
		}
		name, below := strings.CutPrefix(unix.ByteSliceToString(b), node+".")
		if !below {
			return out, nil
		}
		if out[name], err = format(number); err != nil {
			return nil, fmt.Errorf("format of sysctl %s.%s: %w", node, name, err)
		}
	}
}

// SysctlText reads a sysctl that is a string or a number, as sysctl -n prints it.
func SysctlText(name string) (string, error) {
	number, err := SysctlNumber(name)
	if err != nil {
		return "", err
	}
	f, err := format(number)
	if err != nil {
		return "", fmt.Errorf("sysctl %s: %w", name, err)
	}
	b, err := unix.SysctlRaw(name)
	if err != nil {
		return "", fmt.Errorf("sysctl %s: %w", name, err)
	}
	if f.Type == ctlString {
		return unix.ByteSliceToString(b), nil
	}
	bits := 8 * len(b)
	if !slices.Contains([]int{8, 16, 32, 64}, bits) {
		return "", fmt.Errorf("sysctl %s: neither a string nor a number", name)
	}
	u := binary.LittleEndian.Uint64(append(slices.Clone(b), make([]byte, 8)...))
	switch f.Type {
	case ctlInt, ctlS8, ctlS16, ctlS32, ctlS64, ctlLong:
		return strconv.FormatInt(int64(u)<<(64-bits)>>(64-bits), 10), nil // extends the sign
	}
	return strconv.FormatUint(u, 10), nil
}

// SysctlOn reports whether a switch is there and on.
func SysctlOn(name string) bool {
	b, err := unix.SysctlRaw(name)
	return err == nil && len(bytes.Trim(b, "\x00")) > 0
}

// SetSysctl sets a sysctl that is an int.
func SetSysctl(name string, value int) error {
	number, err := SysctlNumber(name)
	if err != nil {
		return err
	}
	if _, err := Sysctl(number, nil, Word(value)); err != nil {
		return fmt.Errorf("sysctl %s=%d: %w", name, value, err)
	}
	return nil
}

// Word is an int as the kernel has it.
func Word(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

// SecureLevel is the host's kern.securelevel: -1 or 0 where flags of files can be
// cleared, and 0 for a kernel without it.
func SecureLevel() int {
	level, err := unix.SysctlUint32("kern.securelevel")
	if err != nil {
		return 0
	}
	return int(int32(level))
}
