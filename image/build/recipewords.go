package build

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/freejail/freejail/image"
)

// limitOf are the limits of rctl(8) that a job has too, with what is to be written
// there.
var limitOf = map[string]string{
	"memoryuse": "memory = 1024", "vmemoryuse": "memory = 1024", "pcpu": "cpu = 500", "cpu": "cores = 1",
}

func (p *planner) limits(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	name := list[0]
	if name == "add" && len(list) > 1 {
		name = list[1]
	}
	how := limitOf[name]
	if how == "" {
		how = "cpu = 500, memory = 1024"
	}
	return fmt.Errorf("limits are not an image's: set them in the job, as resources { %s }, and remove this line", how)
}

// atHome are the mounts that every task has.
var atHome = map[string]string{"devfs": "/dev"}

// mountOptions are what may stand beside ro and rw in fstab(5): a volume has its
// own of them, which the host decides.
var mountOptions = []string{"late", "noauto", "noatime", "nosuid", "noexec", "nosymfollow", "nocover", "nocache",
	"rq", "sw", "xx"}

// fstab is MOUNT as in fstab(5). What Bastille mounts of the host is a volume
// here, for jobs to fill.
func (p *planner) fstab(in Instruction, list []string) error {
	if len(list) == 2 {
		list = append(slices.Clip(list), "nullfs", "ro")
	}
	if len(list) < 3 {
		return fmt.Errorf("want `/host/path jail/path nullfs ro 0 0`, or `%s`", verbs["MOUNT"].usage)
	}
	if list[2] == "ro" || list[2] == "rw" {
		return fmt.Errorf("%q is not a file system: want `%s %s nullfs %[1]s 0 0`", list[2], list[0], list[1])
	}
	target, kind, flags := path.Join("/", unspaced(list[1])), list[2], []string(nil)
	if len(list) > 3 {
		flags = strings.Split(list[3], ",")
	}
	if at := atHome[kind]; at != "" {
		if target != at {
			p.warn(in, "each task has a %s on %s, and none elsewhere, so %s is left out", kind, at, target)
		}
		return nil
	}
	if kind != "nullfs" && kind != "zfs" {
		return p.fileSystem(target, kind, flags)
	}
	return p.hostPath(in, unspaced(list[0]), target, flags)
}

// unspaced reads what fstab(5) writes for a blank.
func unspaced(s string) string { return strings.ReplaceAll(s, `\040`, " ") }

func (p *planner) fileSystem(target, kind string, flags []string) error {
	m := image.MountRequest{Type: kind, Target: target}
	for _, f := range flags {
		if f != "" && f != "rw" {
			m.Options = append(m.Options, f)
		}
	}
	p.manifest.Requires.Mounts = replace(p.manifest.Requires.Mounts, m,
		func(o image.MountRequest) bool { return o.Target == m.Target })
	return nil
}

func (p *planner) hostPath(in Instruction, source, target string, flags []string) error {
	for _, f := range flags {
		switch {
		case f == "" || f == "ro" || f == "rw":
		case slices.Contains(mountOptions, f):
			p.warn(in, "a volume has the options that its job gives it, so %s is left out", f)
		default:
			return fmt.Errorf("the option %q is not for a volume: there are ro and rw", f)
		}
	}
	v := image.Volume{Name: volumeName(path.Base(target)), Path: target, ReadOnly: slices.Contains(flags, "ro"),
		Description: source + " of the host, in its recipe"}
	taken := func(o image.Volume) bool { return o.Name == v.Name && o.Path != v.Path }
	if slices.ContainsFunc(p.manifest.Volumes, taken) {
		v.Name = volumeName(target)
	}
	p.addVolume(v)
	return nil
}

var noName = regexp.MustCompile(`[^a-z0-9_-]+`)

func volumeName(p string) string {
	name := strings.Trim(noName.ReplaceAllString(strings.ToLower(p), "-"), "-")
	if name == "" || name[0] < 'a' || name[0] > 'z' {
		name = "v" + name
	}
	return name[:min(len(name), 63)]
}

// rdr declares the ports of the jail: which ones of the host lead to them is the
// job's.
func (p *planner) rdr(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	if len(list) == 1 && slices.Contains([]string{"clear", "reset", "list"}, list[0]) {
		p.warn(in, "%s is about the host's rules, so it is left out", list[0])
		return nil
	}
	list, left, err := rdrOptions(list)
	if err != nil {
		return err
	}
	if len(list) < 3 || list[0] != "tcp" && list[0] != "udp" || len(list) > 3 && list[3] != "log" {
		return errUsage
	}
	if len(list) > 3 {
		left = append(left, strings.Join(list[3:], " "))
	}
	if len(left) > 0 {
		p.warn(in, "who may reach a port, and what is logged, is the host's to decide, so this is left out: %s",
			strings.Join(left, " "))
	}
	first, last, err := portRange(list[1], list[2])
	for n := first; err == nil && n <= last && n < first+maxRequests; n++ {
		p.addPort(image.Port{Name: list[0] + "-" + strconv.Itoa(n), Port: n, Protocol: list[0]})
	}
	return err
}

var rdrFlags = []string{"-i", "--interface", "-s", "--source", "-d", "--destination", "-t", "--type"}

// rdrOptions takes what stands before the protocol: options, or in the older form
// the kind of addresses, the interface, the source and the destination.
func rdrOptions(list []string) (rest, left []string, err error) {
	for len(list) > 0 && strings.HasPrefix(list[0], "-") {
		if !slices.Contains(rdrFlags, list[0]) || len(list) < 2 {
			return nil, nil, errUsage
		}
		left, list = append(left, list[:2]...), list[2:]
	}
	if len(list) > 6 && slices.Contains([]string{"dual", "ipv4", "ipv6"}, list[0]) {
		left, list = append(left, list[:4]...), list[4:]
	}
	return list, left, nil
}

// portRange reads 8000-8010 or pf's 8000:8010; pf's `8000:*` has as many ports as
// the host's range.
func portRange(host, jail string) (first, last int, err error) {
	hostFirst, hostLast, err := ports(host)
	if err != nil {
		return 0, 0, err
	}
	if begin, open := strings.CutSuffix(jail, ":*"); open {
		first, _, err = ports(begin)
		last = first + hostLast - hostFirst
	} else {
		first, last, err = ports(jail)
	}
	if err == nil && (last > 65535 || first != last && last-first != hostLast-hostFirst) {
		err = fmt.Errorf("%s and %s have different numbers of ports", host, jail)
	}
	return first, last, err
}

func ports(text string) (first, last int, err error) {
	begin, end, isRange := strings.Cut(strings.Replace(text, ":", "-", 1), "-")
	first, err1 := strconv.Atoi(begin)
	last, err2 := first, error(nil)
	if isRange {
		last, err2 = strconv.Atoi(end)
	}
	if errors.Join(err1, err2) != nil || first < 1 || last > 65535 || last < first {
		return 0, 0, fmt.Errorf("%q is not a valid port or range of ports (for example 80 or 8000-8010)", text)
	}
	return first, last, nil
}

// tags are all that the file names, in its order.
func (p *planner) tags(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	have := strings.FieldsFunc(p.config.Config.Labels["tags"], func(r rune) bool { return r == ',' })
	for tag := range strings.SplitSeq(strings.Join(list, ","), ",") {
		if tag != "" && !slices.Contains(have, tag) {
			have = append(have, tag)
		}
	}
	p.setLabel("tags", strings.Join(have, ","))
	return nil
}
