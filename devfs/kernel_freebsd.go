package devfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawRule is struct devfs_rule of sys/fs/devfs/devfs.h.
type rawRule struct {
	magic    uint32
	id       uint32 // ruleset << 16 | number
	icond    int32
	dswflags int32
	pattern  [maxPattern]byte
	iacts    int32
	bacts    int32
	uid, gid uint32
	mode     uint16
	incset   uint16
}

// Values of sys/fs/devfs/devfs.h and sys/sys/conf.h.
const (
	ruleMagic = 0xdb0a087a

	condDevswFlags = 0x001
	condPath       = 0x002

	actBits    = 0x001
	actUID     = 0x002
	actGID     = 0x004
	actMode    = 0x008
	bactHide   = 0x001
	bactUnhide = 0x002

	devDisk = 0x0002
	devTape = 0x0001
	devTTY  = 0x0004
	devMem  = 0x0008
)

var typeFlags = map[string]int32{"disk": devDisk, "tape": devTape, "tty": devTTY, "mem": devMem}

// ioctl numbers: _IOWR('D', n, struct devfs_rule) and the like.
func ioc(dir, n, size uintptr) uintptr { return dir | size<<16 | 'D'<<8 | n }

const (
	iocOut = 0x40000000
	iocIn  = 0x80000000
)

var (
	ruleSize   = unsafe.Sizeof(rawRule{})
	ioctlRAdd  = ioc(iocIn|iocOut, 0, ruleSize)
	ioctlRDel  = ioc(iocIn, 1, 4)
	ioctlRNext = ioc(iocIn|iocOut, 4, ruleSize)
	ioctlSNext = ioc(iocIn|iocOut, 12, 2)
)

type kernel struct{ dev *os.File }

// OpenKernel returns the rulesets of this host's kernel.
func OpenKernel() (Kernel, error) {
	dev, err := os.Open("/dev")
	if err != nil {
		return nil, fmt.Errorf("devfs: %w", err)
	}
	return kernel{dev}, nil
}

func (k kernel) ioctl(req uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, k.dev.Fd(), req, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// Sets walks the rulesets in the order of their numbers.
func (k kernel) Sets() ([]uint16, error) {
	var out []uint16
	var id uint16
	for {
		err := k.ioctl(ioctlSNext, unsafe.Pointer(&id))
		if errors.Is(err, unix.ENOENT) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("devfs: list rulesets: %w", err)
		}
		out = append(out, id)
	}
}

// Rules walks a set's rules in the order of their numbers.
func (k kernel) Rules(set uint16) ([]Rule, error) {
	raws, err := k.raw(set)
	if err != nil {
		return nil, err
	}
	var out []Rule
	for _, raw := range raws {
		out = append(out, raw.rule())
	}
	return out, nil
}

func (k kernel) raw(set uint16) ([]rawRule, error) {
	var out []rawRule
	raw := rawRule{magic: ruleMagic, id: uint32(set) << 16}
	for {
		err := k.ioctl(ioctlRNext, unsafe.Pointer(&raw))
		if errors.Is(err, unix.ENOENT) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("devfs: read ruleset %d: %w", set, err)
		}
		out = append(out, raw)
	}
}

// Add claims a rule number: the kernel refuses one that is taken.
func (k kernel) Add(set, number uint16, r Rule) error {
	raw := encode(set, number, r)
	err := k.ioctl(ioctlRAdd, unsafe.Pointer(&raw))
	if errors.Is(err, unix.EEXIST) {
		return ErrTaken
	}
	return err
}

// Delete removes a set's rules from the last to the first, so that the hide in
// the first place outlives the others.
func (k kernel) Delete(set uint16) error {
	raws, err := k.raw(set)
	if err != nil {
		return err
	}
	for _, raw := range slices.Backward(raws) {
		id := raw.id
		if err := k.ioctl(ioctlRDel, unsafe.Pointer(&id)); err != nil {
			return fmt.Errorf("devfs: delete rule %d of ruleset %d: %w", id&0xffff, set, err)
		}
	}
	return nil
}

func encode(set, number uint16, r Rule) rawRule {
	raw := rawRule{magic: ruleMagic, id: uint32(set)<<16 | uint32(number)}
	if r.Path != "" {
		raw.icond |= condPath
		copy(raw.pattern[:maxPattern-1], r.Path)
	}
	if r.Type != "" {
		raw.icond |= condDevswFlags
		raw.dswflags = typeFlags[r.Type]
	}
	if r.Hide || r.Unhide {
		raw.iacts |= actBits
		raw.bacts = bactUnhide
		if r.Hide {
			raw.bacts = bactHide
		}
	}
	if r.User != nil {
		raw.iacts |= actUID
		raw.uid = *r.User
	}
	if r.Group != nil {
		raw.iacts |= actGID
		raw.gid = *r.Group
	}
	if r.Mode != nil {
		raw.iacts |= actMode
		raw.mode = uint16(*r.Mode)
	}
	return raw
}

func (raw rawRule) rule() Rule {
	var r Rule
	if raw.icond&condPath != 0 {
		p, _, _ := bytes.Cut(raw.pattern[:], []byte{0})
		r.Path = string(p)
	}
	if raw.icond&condDevswFlags != 0 {
		for name, f := range typeFlags {
			if raw.dswflags&f != 0 {
				r.Type = name
			}
		}
	}
	if raw.iacts&actBits != 0 {
		r.Hide, r.Unhide = raw.bacts&bactHide != 0, raw.bacts&bactUnhide != 0
	}
	if raw.iacts&actUID != 0 {
		r.User = &raw.uid
	}
	if raw.iacts&actGID != 0 {
		r.Group = &raw.gid
	}
	if raw.iacts&actMode != 0 {
		m := uint32(raw.mode)
		r.Mode = &m
	}
	return r
}
