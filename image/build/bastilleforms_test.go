package build

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// forms are what public Bastillefiles write, with what Bastille 1.x executes for a
// jail named J, word by word, and what is planned here. Where Bastille fails, or its
// host decides, the second column says so.
var forms = []struct{ form, bastille, ours string }{
	// lines and words
	{"PKG nginx  php84", "pkg -y J install|nginx|php84", "pkg|install|-y|nginx|php84"},
	{"pkg nginx", "the same: any case", "pkg|install|-y|nginx"},
	{"Pkg nginx \t ", "trailing blanks are nothing", "pkg|install|-y|nginx"},
	{"PKG\tnginx vim", "loses nginx: a tab ends no word there", "pkg|install|-y|nginx|vim"},
	{"  PKG nginx", "installs PKG and nginx: it counts the blanks", "pkg|install|-y|nginx"},
	{"# a\n\n \t\n   # b\nPKG a", "comments and blank lines are nothing", "pkg|install|-y|a"},
	{"PKG a \\\n  b \\\n  c", "install|a|b|c", "pkg|install|-y|a|b|c"},
	{"#PKG a \\\n b\nPKG c", "the comment goes on: install|c", "pkg|install|-y|c"},
	{"PKG a \\\n\nPKG c", "an empty line ends it: install|a, install|c", "pkg|install|-y|a; pkg|install|-y|c"},
	{"PKG a \\\n# x\nPKG c", "install|a, install|c", "pkg|install|-y|a; pkg|install|-y|c"},
	{"PKG a \\\n# x \\\nb", "the comment goes on: install|a", "pkg|install|-y|a"},
	{"PKG a \\", "the end of the file ends it", "pkg|install|-y|a"},
	{"PKG a \\ \n b", "a blank after the backslash: fails at b", "pkg|install|-y|a|b"},
	{"PKG a\r\nPKG b\r\n", "the CR is a part of the name: fails", "pkg|install|-y|a; pkg|install|-y|b"},
	{"PKG a # it's b", "install|a", "pkg|install|-y|a"},
	{"PKG a; # b", "install|a", "pkg|install|-y|a"},
	{"PKG \"a b\" c", "install|a b|c", "pkg|install|-y|a b|c"},
	{"PKG -r mine a", "install|-r|mine|a", "pkg|install|-y|-r|mine|a"},
	{"HPKG vim", "installs by the host's pkg(8)", "pkg|install|-y|vim"},
	{"FROB a", "bastille frob J a, which fails", "error: unknown instruction"},
	{"PKG a | b", "a pipe of the host's shell", "error: none evaluates this line"},

	// arguments
	{"ARG A=b c\nPKG ${A}", "install|b|c", "pkg|install|-y|b|c"},
	{"ARG A=\"b c\"\nPKG ${A}", "the value is split again: install|b|c", "pkg|install|-y|b|c"},
	{"ARG A=\"b c\"\nPKG \"${A}\"", "install|b c", "pkg|install|-y|b c"},
	{"ARG A=b\nARG A=c\nPKG ${A}", "the first one stays: install|b", "pkg|install|-y|b"},
	{"ARG A\nPKG x${A}y", "warns; install|xy", "pkg|install|-y|xy; warning"},
	{"ARG A=\nCMD echo ${A}", "warns; the jail's shell reads ${A}", "sh: echo ${A}; warning"},
	{"ARG php-version=84\nPKG php${php-version}", "install|php84", "pkg|install|-y|php84"},
	{"ARG a.b=1\nCMD ${a.b}", "sh -c 1", "sh: 1"},
	{"ARG B=${A}\nARG A=1\nCMD echo ${B}", "B is the host's A, which is empty", "error: A is not an argument"},
	{"ARG A=1\nARG B=${A}2\nCMD echo ${B}", "sh -c 'echo 12'", "sh: echo 12"},
	{"ARG A='x y'\nSYSRC a=\"${A}\"", "sysrc J a=x y", "sysrc|a=x y"},
	{"ARG A=1 # note\nCMD echo ${A}", "sh -c 'echo 1'", "sh: echo 1"},
	{"ARG A=\"a&b/c\"\nCMD echo ${A}", "sh -c 'echo a&b/c'", "sh: echo a&b/c"},
	{"ARG A=$(id)\nPKG ${A}", "executes id on the host", "error: none evaluates this line"},
	{"ARG A=\"$(id)\"\nCMD ${A}", "executes id on the host", "error: none evaluates this line"},
	{"ARG A='$(id)'\nCMD echo ${A}", "sh -c 'echo $(id)': the jail's id", "sh: echo $(id)"},
	{"SYSRC a=\"`id`\"", "executes id on the host", "error: none evaluates this line"},
	{"ARG A\nPKG a${A:-b} ${A-c} d${NONE:-e}", "the host's shell has defaults: ab|de", "pkg|install|-y|ab|de; warning"},
	{"ARG A=x\nPKG $A", "the host's $A, not the argument", "pkg|install|-y|x"},
	{"ARG+ A\nCMD ${A}", "fails: no value for a mandatory argument", "error: A must have a value"},
	{"ARG+ A=1\nCMD ${A}", "sh -c 1", "sh: 1"},
	{"arg a=1\nCMD ${A}${a}", "names have their case: sh -c '${A}1'", "sh: ${A}1"},
	{"ARG A_B=1\nARG A=2\nCMD ${A_B} ${A}", "sh -c '1 2'", "sh: 1 2"},
	{"ARG GIVEN=1\nCMD ${GIVEN}", "--arg GIVEN=2 goes before: sh -c 2", "sh: 2"},

	{"ARG GIVEN=1\nCMD ${JAIL_NAME}${GIVEN}", "the jail's own name goes before", "sh: n2"},
	{"ARG JAIL_IP=10.0.0.1\nCMD ${JAIL_IP}", "the jail's own address goes before", "sh: 10.0.0.1"},

	// CMD
	{"CMD echo a | tr a b && echo \"c d\" > /x; ls", "all of it is the jail's shell's",
		"sh: echo a | tr a b && echo \"c d\" > /x; ls"},
	{"CMD echo 'it''s' \"$HOME\" ${X} $(id)", "as it is, by sh -c", "sh: echo 'it''s' \"$HOME\" ${X} $(id)"},
	{"CMD sh -c 'echo \"a b\"'", "as it is, by sh -c", "sh: sh -c 'echo \"a b\"'"},
	{"CMD echo a # b", "the comment is the shell's", "sh: echo a # b"},
	{"CMD [ -f /x ] || touch /x", "as it is, by sh -c", "sh: [ -f /x ] || touch /x"},
	{"CMD a \\\n && b", "sh -c 'a  && b'", "sh: a  && b"},
	{"CMD echo \"\\$A\" \\", "sh -c 'echo \"\\$A\"'", "sh: echo \"\\$A\""},
	{"CMD echo ${JAIL_NAME}", "the jail's name", "error: give --build-arg JAIL_NAME=VALUE"},

	// services and rc.conf
	{"SYSRC a=\"b c\" d=e", "sysrc J a=b c|d=e", "sysrc|a=b c|d=e"},
	{"SYSRC a+=\"x\" b-=y", "sysrc J a+=x|b-=y", "sysrc|a+=x|b-=y"},
	{"SYSRC -f /etc/periodic.conf x=NO", "sysrc J -f|/etc/periodic.conf|x=NO", "sysrc|-f|/etc/periodic.conf|x=NO"},
	{"SYSRC -x a", "sysrc J -x|a", "sysrc|-x|a"},
	{"SYSRC a='-g \"x y\"'", "sysrc J a=-g \"x y\"", "sysrc|a=-g \"x y\""},
	{"SYSRC a=${NONE}", "the host's NONE, which is empty", "error: NONE is not an argument"},
	{"SERVICE nginx enable", "service J nginx enable", "service|nginx|enable"},
	{"SERVICE nginx start", "starts it", "warning"},
	{"SERVICE nginx", "service J nginx, which fails", "error: write SERVICE"},
	{"SERVICE a start\nCMD x", "it runs while x does", "[service|a|start; sh: x; service|a|stop]"},
	{"SERVICE a onestart\nSERVICE b restart # now\nCMD x", "both run while x does",
		"[service|a|onestart; service|b|restart; sh: x; service|b|stop; service|a|onestop]"},
	{"SERVICE a start\nCMD x\nSERVICE a stop\nCMD y", "it does not run while y does",
		"[service|a|start; sh: x; service|a|stop]; sh: y"},
	{"SERVICE a start\nCMD x\nSYSRC b=c\nCMD y\nSERVICE a restart", "it runs all the time",
		"[service|a|start; sh: x; sysrc|b=c; sh: y; service|a|stop]; warning"},
	{"SERVICE a start\nCMD x\nCP f /\nCMD y", "it runs all the time",
		"[service|a|start; sh: x; service|a|stop]; cp f /; [service|a|start; sh: y; service|a|stop]"},
	{"SERVICE a start\nCMD x\nRDR tcp 80 80\nSERVICE a status\nCMD y", "it runs all the time",
		"[service|a|start; sh: x; service|a|status; sh: y; service|a|stop]; port tcp-80"},
	{"SERVICE a reload\nCMD x", "fails where it does not run", "sh: x; warning"},

	// files
	{"CP usr /", "cp -a usr into the jail's /", "cp usr /"},
	{"CP usr/ /", "what is in usr", "cp usr/ /"},
	{"CP \"a b\" /x", "one file with a blank in its name", "cp a b /x"},
	{"COPY a etc/b", "paths of the jail are relative to its /", "cp a /etc/b"},
	{"CP -q a b", "takes -q for the file: fails", "cp a /b"},
	{"CP a b c", "fails: there are two paths", "cp a /c/; cp b /c/"},
	{"CP /etc/hosts etc", "the host's file", "error: a file of the host"},
	{"CP /etc/resolv.conf etc", "the host's file", "warning"},
	{"OVERLAY usr", "cp -a usr /", "cp usr /"},
	{"OVERLAY usr etc", "fails: there are two paths", "cp usr /; cp etc /"},
	{"ARG A=1\nARG B\nRENDER /etc/x", "replaces ${A} in it, and not ${B}", "render /etc/x A=1; warning"},
	{"RENDER usr/local", "all files below it, without .git", "render /usr/local"},
	{"LINE_IN_FILE \"a b\" etc/x", "adds the line `a b` if the file has it not", "line a b /etc/x"},
	{"lineinfile a /etc/x", "the same", "line a /etc/x"},
	{"LIF 'a' /etc/x", "the same", "line a /etc/x"},

	// mounts
	{"MOUNT /a b nullfs ro 0 0", "mounts the host's /a", "volume b /b ro"},
	{"FSTAB /a  b   nullfs rw 0 0", "mounts the host's /a", "volume b /b"},
	{"MOUNT /a b", "nullfs, ro", "volume b /b ro"},
	{"MOUNT \"/a b\" \"c d\"", "blanks in paths", "volume c-d /c d ro"},
	{"MOUNT /a\\ b \"c\\040d\" nullfs rw 0 0", "blanks in paths", "volume c-d /c d"},
	{"MOUNT tank/a data zfs rw 0 0", "a dataset of the host", "volume data /data"},
	{"MOUNT tmpfs tmp tmpfs rw,size=1g 0 0", "a tmpfs", "mount tmpfs /tmp size=1g"},
	{"MOUNT proc /proc procfs rw 0 0", "a procfs", "mount procfs /proc"},
	{"MOUNT fdesc dev/fd fdescfs rw,linrdlnk 0 0", "an fdescfs", "mount fdescfs /dev/fd linrdlnk"},
	{"MOUNT linprocfs proc linprocfs rw 0 0", "a linprocfs", "mount linprocfs /proc"},
	{"MOUNT devfs dev devfs rw 0 0", "fails: it is there already", ""},
	{"MOUNT devfs root/dev devfs rw 0 0", "fails in 1.x", "warning"},
	{"MOUNT /a b nullfs ro,noatime 0 0", "mounts it so", "volume b /b ro; warning"},
	{"MOUNT /a b rw nullfs 0 0", "fails: not a type", "error: want `/a b nullfs rw 0 0`"},
	{"MOUNT server:/a b nfs rw 0 0", "fails: not a type", "error: an image can ask for tmpfs"},

	// other templates
	{"INCLUDE other/nginx-php --arg PORT=8080 --arg NAME=x", "the other's CMD with both",
		"sh: echo 8080 x ${OUTER}"},
	{"ARG OUTER=o\nARG PORT=1\nINCLUDE other/nginx-php --arg NAME=\"a b\"\nCMD echo ${PORT}",
		"each file has its own arguments", "sh: echo 80 a b ${OUTER}; sh: echo 1"},
	{"template other/nginx-php", "warns of NAME", "sh: echo 80 ${NAME} ${OUTER}; warning"},
	{"ARG T=other/nginx-php\nINCLUDE ${T} --arg NAME=x # y", "the path may have arguments", "sh: echo 80 x ${OUTER}"},
	{"INCLUDE other/nginx-php --arg PORT= --arg NAME=x", "an empty one goes before the default, with a warning",
		"sh: echo ${PORT} x ${OUTER}; warning"},
	{"INCLUDE none/x", "fails: not found", "error: no such template"},
	{"INCLUDE other/loop", "never ends", "error: more than 16 deep"},
	{"INCLUDE other/nginx-php PORT=1", "passes the word over", "error: write INCLUDE"},

	// the jail
	{"TAGS a b", "tags J add a,b", "tags a,b"},
	{"TAG b\nTAGS a,b", "each once", "tags b,a"},
	{"RDR tcp 8080 80", "a rule of pf on the host", "port tcp-80"},
	{"RDR udp 53 53 # dns", "a rule of pf on the host", "port udp-53"},
	{"RDR -i em0 tcp 8000-8002 8000-8002", "fails in 1.x: options come first there",
		"port tcp-8000; port tcp-8001; port tcp-8002; warning"},
	{"RDR tcp 8000:8001 9000:*", "a range of pf", "port tcp-9000; port tcp-9001"},
	{"RDR dual em0 any any tcp 80 8080", "the older form", "port tcp-8080; warning"},
	{"RDR tcp 80 80 log '(' all ')'", "logged by pf", "port tcp-80; warning"},
	{"RDR clear", "removes the rules", "warning"},
	{"RDR tcp 80 0", "pf refuses it", "error: not a valid port"},
	{"RDR tcp 80-90 80-81", "pf refuses it", "error: different numbers of ports"},
	{"CONFIG set allow.mlock=1;  # x", "config J set allow.mlock=1", "allow mlock"},
	{"CONFIG set allow.raw_sockets;", "allow.raw_sockets", "allow raw_sockets"},
	{"CONFIG add allow.mlock 1\nCONFIG set allow.nomlock", "both lines are in jail.conf, the last counts", ""},
	{"CONFIG set allow.mlock\nCONFIG remove allow.mlock", "removes the line", ""},
	{"CONFIG set sysvshm new", "sysvshm = new", "shm new"},
	{"CONFIG set mount.procfs;", "mount.procfs", "mount procfs /proc"},
	{"CONFIG set enforce_statfs=1", "enforce_statfs = 1", "jail enforce_statfs=1"},
	{"CONFIG set ip4.addr \"em0|10.0.0.1\"", "its address", "warning"},
	{"CONFIG set boot on", "starts with the host", "warning"},
	{"CONFIG set mount.devfs", "mount.devfs", "warning"},
	{"CONFIG set exec.start=/bin/x", "its program", "error: an image has one program"},
	{"CONFIG get ip4.addr", "prints it", "warning"},
	{"LIMITS memoryuse 1G", "a rule of rctl(8)", "error: resources { memory = 1024 }"},
	{"LIMITS cpu 2", "cpuset(1)", "error: resources { cores = 1 }"},
	{"RESTART", "restarts the jail", ""},
	{"UMOUNT /x", "unmounts it", "error: acts on the host"},
	{"ZFS set a=b", "zfs(8) on the host", "error: acts on the host"},
}

func TestFormsOfBastillefiles(t *testing.T) {
	if len(forms) < 60 {
		t.Errorf("%d forms", len(forms))
	}
	for _, f := range forms {
		got := planned1(t, f.form)
		want, isError := strings.CutPrefix(f.ours, "error: ")
		if isError && strings.HasPrefix(got, "error: B:") && strings.Contains(got, want) || got == f.ours {
			continue
		}
		t.Errorf("%q\nBastille: %s\n     got: %s\n    want: %s", f.form, f.bastille, got, f.ours)
	}
}

var templates = files{"other/nginx-php": "ARG PORT=80\nARG NAME\nCMD echo ${PORT} ${NAME} ${OUTER}\n",
	"other/loop": "INCLUDE other/loop"}

// planned1 is the plan of a Bastillefile as text.
func planned1(t *testing.T, text string) string {
	file, err := ParseBastille("B", strings.NewReader(text))
	if err != nil {
		return "error: " + err.Error()
	}
	file.Instructions = append([]Instruction{{Verb: "FROM", Line: 1, Text: "scratch"}}, file.Instructions...)
	p := &planner{file: file, given: map[string]string{"GIVEN": "2", "JAIL_NAME": "n"},
		base: func(string, ocispec.Platform) (*image.Image, error) { return nil, errors.New("none") },
		follow: func(in Instruction, name string) (*File, error) {
			text, ok := templates[name]
			switch {
			case !ok:
				return nil, errors.New("no such template")
			case in.depth == maxIncludes:
				return nil, errors.New("more than 16 deep")
			}
			f, err := ParseBastille(path.Join(name, "B"), strings.NewReader(text))
			for i := range f.Instructions {
				f.Instructions[i].depth = in.depth + 1
			}
			return f, err
		}}
	if strings.Contains(text, "${GIVEN}") {
		err = p.plan(t.Context())
	} else {
		p.given = nil
		err = p.plan(t.Context())
	}
	if err != nil {
		return "error: B: " + err.Error()
	}
	var out []string
	for _, s := range p.planned {
		if s.step != nil {
			out = append(out, stepText(s.step))
		}
	}
	out = append(out, manifestText(p)...)
	if len(p.warnings) > 0 {
		out = append(out, "warning")
	}
	return strings.Join(out, "; ")
}

func stepText(s step) string {
	switch s := s.(type) {
	case *servedStep:
		var out []string
		for _, c := range s.commands {
			out = append(out, stepText(c.runStep))
		}
		for _, up := range slices.Backward(s.up) {
			out = append(out, stepText(up.with("stop")))
		}
		return "[" + strings.Join(out, "; ") + "]"
	case *runStep:
		if s.argv[0] == "/bin/sh" {
			return "sh: " + s.argv[2]
		}
		return strings.Join(s.argv, "|")
	case *copyStep:
		text := "cp " + s.sources[0]
		if !s.whole {
			text += "/"
		}
		return text + " " + s.dest
	case *renderStep:
		text := "render " + strings.Join(s.files, " ")
		for _, v := range s.values {
			text += " " + v[0] + "=" + v[1]
		}
		return text
	case *lineStep:
		return "line " + s.line + " " + s.file
	}
	return fmt.Sprintf("%T", s)
}

func manifestText(p *planner) (out []string) {
	m := p.manifest
	for _, port := range m.Ports {
		out = append(out, "port "+port.Name)
	}
	for _, v := range m.Volumes {
		text := "volume " + v.Name + " " + v.Path
		if v.ReadOnly {
			text += " ro"
		}
		out = append(out, text)
	}
	for _, r := range m.Requires.Mounts {
		out = append(out, strings.Join(append([]string{"mount", r.Type, r.Target}, r.Options...), " "))
	}
	for _, a := range m.Requires.Allow {
		out = append(out, "allow "+a)
	}
	if shm := m.Requires.SysVIPC.Shm; shm != "" {
		out = append(out, "shm "+shm)
	}
	for _, k := range slices.Sorted(maps.Keys(m.Requires.Jail)) {
		out = append(out, "jail "+k+"="+m.Requires.Jail[k])
	}
	if tags := p.config.Config.Labels["tags"]; tags != "" {
		out = append(out, "tags "+tags)
	}
	return out
}
