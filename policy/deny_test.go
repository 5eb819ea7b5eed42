package policy

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/freejail/freejail/devfs"
)

// denials are, for a kind, lines of a deny and requests, with all forms that
// they have, and what overlaps, told in another way than by comparing patterns:
// both are written out as the single things that they are about.
type denials struct {
	attr     string // of a block, with %s for the line
	permit   string // of all that the requests ask for
	denies   []string
	requests []Request
	of       func(deny string) []string     // the things that a deny is about
	asked    func(request Request) []string // the things that a request has some of
}

func product(format string, lists ...[]string) []string {
	out := []string{format}
	for _, list := range lists {
		var next []string
		for _, before := range out {
			for _, word := range list {
				next = append(next, strings.Replace(before, "%", word, 1))
			}
		}
		out = next
	}
	return out
}

func requests(kind Kind, name string, values ...string) []Request {
	var out []Request
	for _, v := range values {
		out = append(out, req(kind, name, v))
	}
	return out
}

// places are directories, of which each has a file of its own.
var places = []string{"/", "/srv", "/srv/secret", "/srv/secret/deep", "/srv/secrets", "/srv/other", "/data"}

func filesBelow(dir string) []string {
	var out []string
	for _, p := range places {
		if dir = path.Clean(dir); p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/") {
			out = append(out, p)
		}
	}
	return out
}

// spellings are ways of writing directories.
func spellings() []string {
	out := slices.Clone(places[1:])
	for _, p := range places[1:] {
		out = append(out, p+"/", "/"+p, p+"/.", p+"/x/..", "/.."+p, strings.ReplaceAll(p, "/", "//"), "/srv/.."+p)
	}
	return append(out, "/", "//", "/..")
}

func nullfsDenials() denials {
	d := denials{attr: `mounts = [%q]`, permit: `mounts = ["nullfs:/:suid"]`, denies: product("nullfs:%%", places,
		[]string{"", ":ro", ":rw", ":suid", ":ro,suid", ":rw,suid"})}
	for _, v := range product("nullfs:%:%", spellings(), []string{"ro", "rw", "ro,suid", "rw,suid"}) {
		d.requests = append(d.requests, requests("mount", "/mnt", v)...)
	}
	d.of = func(deny string) []string { return filesBelow(strings.Split(deny, ":")[1]) }
	d.asked = func(r Request) []string { return filesBelow(strings.Split(valueOf(r), ":")[1]) }
	return d
}

func tmpfsDenials() denials {
	d := denials{attr: `mounts = [%q]`, permit: `mounts = ["tmpfs:/:suid", "procfs"]`,
		denies: append(product("tmpfs:%%", places, []string{"", ":ro", ":rw", ":suid"}), "tmpfs", "procfs",
			"procfs:/srv")}
	for _, target := range spellings() {
		d.requests = append(d.requests, requests("mount", target, "tmpfs", "tmpfs,size=1", "tmpfs,suid",
			"tmpfs,size=4096,suid", "procfs")...)
	}
	named := func(fstype string, files []string) (out []string) {
		for _, f := range files {
			out = append(out, fstype+" on "+f)
		}
		return out
	}
	d.of = func(deny string) []string {
		parts := strings.Split(deny+":/", ":")
		return named(parts[0], filesBelow(parts[1]))
	}
	d.asked = func(r Request) []string {
		fstype, _, _ := strings.Cut(valueOf(r), ",")
		return named(fstype, filesBelow(nameOf(r)))
	}
	return d
}

func portDenials() denials {
	numbers := []string{"1", "79", "80", "81", "1024", "65535"}
	var ranges []string
	for i, lo := range numbers {
		ranges = append(ranges, lo)
		for _, hi := range numbers[i:] {
			ranges = append(ranges, lo+"-"+hi)
		}
	}
	d := denials{attr: `ports = [%q]`, permit: `ports = ["1-65535"]`,
		denies:   product("%%", ranges, []string{"", "/tcp", "/udp"}),
		requests: requests("port", "p", product("%%", ranges, []string{"/tcp", "/udp"})...)}
	all := func(text string) (out []string) {
		ports, proto, _ := strings.Cut(text, "/")
		lo, hi, ranged := strings.Cut(ports, "-")
		if !ranged {
			hi = lo
		}
		for _, n := range []int{1, 2, 79, 80, 81, 82, 99, 100, 1024, 1025, 65535} { // between these nothing begins or ends
			first, err1 := strconv.Atoi(lo)
			last, err2 := strconv.Atoi(hi)
			for _, p := range []string{"tcp", "udp"} {
				if err1 == nil && err2 == nil && first <= n && n <= last && (proto == "" || proto == p) {
					out = append(out, fmt.Sprint(n, p))
				}
			}
		}
		return out
	}
	d.of, d.asked = all, func(r Request) []string { return all(valueOf(r)) }
	return d
}

func devfsDenials() denials {
	globs := []string{"mem", "m*", "*", "?em", "[k-m]em", "[!k]em", "kmem", "'k[m]em'", "*/*", "dri/0", "dri/*",
		"'m\\em'", "/dev/mem", "da0", "da?"}
	for i, g := range globs {
		globs[i] = "path '" + strings.Trim(g, "'") + "'"
	}
	acts := []string{"unhide", "mode 600", "mode 006", "unhide mode 660", "user 5", "group 0", "unhide user 0 group 5",
		"hide mode 777", "type disk unhide", "type mem mode 4"}
	d := denials{attr: `devfs = [%q]`,
		permit: `devfs = ["unhide user 5 mode 777", "unhide user 0 group 5 mode 777", "group 0", "mode 777"]`,
		denies: append(product("% %", globs, acts), acts...)}
	for _, text := range d.denies {
		d.requests = append(d.requests, req("devfs", text, text))
	}
	names := []string{"mem", "kmem", "m", "xem", "lem", "da0", "da1", "dri/0", "dri/1", "dri"}
	d.of = func(text string) (out []string) {
		r, err := devfs.ParseRule(text)
		if err != nil {
			panic(text)
		}
		for _, n := range names {
			for _, typ := range append([]string{""}, devfs.Types...) {
				one := devfs.Rule{Path: r.Path, Type: r.Type, Unhide: true}
				if devfs.Visible([]devfs.Rule{{Hide: true}, one}, devfs.Node{Path: n, Type: typ}) {
					out = append(out, n+" "+typ)
				}
			}
		}
		return out
	}
	d.asked = func(r Request) []string { return d.of(valueOf(r)) }
	return d
}

// dotted are names of permissions and of parameters.
var dotted = []string{"mount", "mount.tmpfs", "mount.zfs", "mounts", "raw_sockets", "set_hostname", "children.max",
	"children", "ip4", "ip4.addr"}

// related are the names that a glob takes, and those above and below them.
func related(glob, under string) (out []string) {
	above := []string{"mount", "ip4", "children"} // a kernel may have more below them
	if under != "" {
		above = above[:1]
	}
	known := append(slices.Clone(dotted), product("%.%", above, []string{"zfs", "t"})...)
	for _, n := range dotted {
		if slices.ContainsFunc(known, func(o string) bool {
			ok, err := path.Match(glob, under+o)
			return err == nil && ok && (o == n || strings.HasPrefix(o, n+".") || strings.HasPrefix(n, o+"."))
		}) {
			out = append(out, n)
		}
	}
	return out
}

var nameGlobs = []string{"*", "mount", "mount.*", "mount.?mpfs", "m*", "*.zfs", "mount.tmpfs", "[^x]ount",
	"raw_sockets", "children.max", "ip4.*", "ip4", `mount\.zfs`, "*t"}

func allowDenials() denials {
	d := denials{attr: `allow = [%q]`, permit: `allow = ["*"]`, denies: append(slices.Clone(nameGlobs), "allow.mount",
		"allow.*.zfs")}
	for _, n := range dotted {
		d.requests = append(d.requests, requests("allow", "allow."+n, "true")...)
	}
	d.of = func(deny string) []string { return related("allow."+strings.TrimPrefix(deny, "allow."), "allow.") }
	d.asked = func(r Request) []string { return []string{strings.TrimPrefix(nameOf(r), "allow.")} }
	return d
}

// jailDenials have bounds too: a value is denied with all that give more.
func jailDenials(kind Kind) denials {
	values := []string{"*", "5", "inherit", "<=2", ">=3", "2..4", "1*"}
	d := denials{attr: string(kind) + ` = { %s }`, permit: string(kind) + ` = { "*" = "*" }`,
		denies: product(`"%" = "%"`, nameGlobs, values)}
	for i := range d.denies {
		d.denies[i] = strings.ReplaceAll(d.denies[i], `\`, `\\`)
	}
	d.denies = append(d.denies, product(`"%" = "%"`, []string{"securelevel", "enforce_statfs"}, values)...)
	names := append(slices.Clone(dotted), "securelevel", "enforce_statfs")
	if kind == "jail" {
		names = append(names, "mount.nozfs")
	}
	for _, n := range names {
		d.requests = append(d.requests, requests(kind, n, "-1", "0", "2", "3", "5", "99", "99999999999999999999",
			"inherit", "1,5")...)
	}
	d.of = func(deny string) (out []string) {
		parts := strings.Split(deny, `"`)
		glob, value := strings.ReplaceAll(parts[1], `\\`, `\`), parts[3]
		names := related(glob, "")
		if glob == "*" || glob == "securelevel" || glob == "enforce_statfs" {
			names = append(names, map[bool][]string{true: {"securelevel", "enforce_statfs"},
				false: {glob}}[glob == "*"]...)
		}
		for _, n := range names {
			exact, _ := path.Match(glob, n)
			for _, v := range []string{"-1", "0", "2", "3", "5", "99"} {
				if !exact || deniedNumber(kind, n, value, v) {
					out = append(out, n+"="+v)
				}
			}
			out = append(out, n+"=99999999999999999999", n+"=inherit", n+"=1,5")
		}
		return out
	}
	d.asked = func(r Request) []string {
		if nameOf(r) == "mount.nozfs" { // with false it is mount.zfs; its bounds are nobody's guess
			return []string{"mount.zfs=inherit"}
		}
		return []string{nameOf(r) + "=" + valueOf(r)}
	}
	return d
}

// deniedNumber tells by trying all small numbers whether one that the deny names
// is given by the one that is asked for.
func deniedNumber(kind Kind, name, deny, asked string) bool {
	if strings.Trim(deny, "<>=.0123456789") != "" || strings.Trim(deny, "0123456789") == "" {
		return true // no bound: in every form
	}
	n, _ := strconv.Atoi(asked)
	for m := -100; m <= 100; m++ {
		in := map[string]bool{"<=2": m <= 2, ">=3": m >= 3, "2..4": m >= 2 && m <= 4}[deny]
		gives := map[string]bool{"children.max": m <= n, "securelevel": m >= n, "enforce_statfs": m >= n}
		more, known := gives[name]
		if kind == "sysctl" || !known && deny != "2..4" {
			more = m == n
		} else if !known {
			more = true // nobody knows
		}
		if in && more {
			return true
		}
	}
	return false
}

func words(kind Kind, attr, permit string, denies []string, reqs []Request, same [][]string) denials {
	class := func(s string) []string {
		for i, list := range same {
			if slices.Contains(list, s) {
				return []string{fmt.Sprint(i)}
			}
		}
		return []string{s}
	}
	return denials{attr: attr, permit: permit, denies: denies, requests: reqs,
		of: class, asked: func(r Request) []string { return class(valueOf(r)) }}
}

func ipcDenials() denials {
	d := denials{attr: `sysvipc = [%q]`, permit: `sysvipc = ["shm", "msg", "sem"]`,
		denies: product("%%", []string{"shm", "msg", "sem"}, []string{"", "=new", "=inherit"})}
	for _, n := range []string{"shm", "msg", "sem"} {
		d.requests = append(d.requests, requests("sysvipc", n, "new", "inherit")...)
	}
	d.of = func(deny string) []string { return []string{deny[:3]} }
	d.asked = func(r Request) []string { return []string{nameOf(r)} }
	return d
}

func serviceDenials() denials {
	names, tags := []string{"web", "Web", "webs", "we*", "vault", "*", "[vw]*", "*b"},
		[]string{"", ":v1", ":V1,v2", ":v*", ":*", `:a\,b`, ":*/*"}
	d := denials{attr: `services = [%q]`, permit: `services = ["*:*"]`, denies: product("%%", names, tags)}
	all := [][]string{nil, {"v1"}, {"V2", "x"}, {"a,b"}, {"a", "b"}, {"x/y"}, {"v1", "x/v1", "a,b"}}
	for _, n := range []string{"web", "WEB", "webs", "vault", "other"} {
		for _, list := range all {
			d.requests = append(d.requests, service(n, list, ""))
		}
	}
	// A thing is a name, or a tag of any name.
	d.of = func(deny string) (out []string) {
		name, tag, tagged := strings.Cut(strings.ToLower(deny), ":")
		if name == "*" && tagged {
			byTag := map[string][]string{"v1": {"v1"}, "v1,v2": {"v1", "v2"}, "v*": {"v1", "v2"},
				"*": {"v1", "v2", "x", "a,b", "a", "b", "x/y", "x/v1"}, `a\,b`: {"a,b"}, "*/*": {"x/y", "x/v1"}}
			return product("tag %", byTag[tag])
		}
		for _, n := range []string{"web", "webs", "vault", "other"} {
			if ok, err := path.Match(name, n); ok && err == nil {
				out = append(out, "name "+n)
			}
		}
		return out
	}
	d.asked = func(r Request) []string {
		for _, list := range all {
			if valueOf(service(nameOf(r), list, "")) == valueOf(r) {
				return append(product("tag %", strings.Split(strings.ToLower(strings.Join(list, "\n")), "\n")), "name "+
					strings.ToLower(nameOf(r)))
			}
		}
		return nil
	}
	return d
}

// atAddresses are those of a deny or of a request, as single ones.
func atAddresses(text string) (out []string) {
	for _, one := range []string{"192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.3.0", "2001:db8::", "2001:db8::1", "::1"} {
		a := netip.MustParseAddr(one)
		p, err := netip.ParsePrefix(text)
		first, last, ranged := strings.Cut(text, "-")
		switch {
		case text == one, err == nil && p.Contains(a), text == "0.0.0.0" && a.Is4(), text == "*", text == "[::]",
			text == "["+one+"]":
			out = append(out, one)
		case ranged && netip.MustParseAddr(first).Is4() == a.Is4() && // of IPv6 the range has one group
			first <= one && one <= last:
			out = append(out, one)
		}
	}
	return out
}

func addressDenials() denials {
	return denials{attr: `addresses = [%q]`, permit: `addresses = ["0.0.0.0/0", "::/0"]`,
		denies: []string{"192.0.2.0/24", "192.0.2.0/31", "192.0.2.1", "192.0.2.1-192.0.2.2", "192.0.2.1-192.0.3.0",
			"2001:db8::/32", "2001:db8::1-2001:db8::2", "::1", "::/0", "0.0.0.0/0", "192.0.2.2/32"},
		requests: requests("address", "", "192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.3.0", "2001:db8::",
			"2001:db8::1", "::1"),
		of:    atAddresses,
		asked: func(r Request) []string { return atAddresses(valueOf(r)) }}
}

func publishDenials() denials {
	at := []string{"*:%", "0.0.0.0:%", "[::]:%", "192.0.2.1:%", "192.0.2.2:%", "[2001:db8::1]:%", "[::1]:%"}
	var denies, asked []string
	for _, a := range at {
		denies = append(denies, product(a, []string{"80", "80/tcp", "1-99/udp", "81-65535"})...)
		asked = append(asked, product(a, []string{"80/tcp", "80/udp", "79-81/tcp", "99-100/udp"})...)
	}
	ports := portDenials()
	places := func(text string) (out []string) {
		i := strings.LastIndex(text, ":")
		for _, port := range ports.of(text[i+1:]) {
			out = append(out, product("% %", atAddresses(text[:i]), []string{port})...)
		}
		return out
	}
	return denials{attr: `publish = [%q]`, permit: `publish = ["*:1-65535"]`, denies: denies,
		requests: requests("publish", "", asked...), of: places,
		asked: func(r Request) []string { return places(valueOf(r)) }}
}

// allDenials has every kind that a deny can be about.
func allDenials() map[Kind][]denials {
	yes := func(kind Kind, value string) []denials {
		return []denials{words(kind, string(kind)+" = %s", string(kind)+" = true", []string{"true"},
			requests(kind, "", value), [][]string{{"true", value}})}
	}
	all := map[Kind][]denials{
		"mount": {nullfsDenials(), tmpfsDenials()}, "port": {portDenials()}, "devfs": {devfsDenials()},
		"allow": {allowDenials()},
		"jail":  {jailDenials("jail")}, "sysctl": {jailDenials("sysctl")}, "sysvipc": {ipcDenials()},
		"user": {words("user", `users = [%q]`, "", []string{"root", "0", "www", "80", "r??t", "r*t", "[0]"},
			requests("user", "", "root", "0", "00", "", "root:wheel", "0:0", ":5", "www", "www:www", "80", "080",
				"80:1"),
			[][]string{{"root", "0", "00", "", "root:wheel", "0:0", ":5", "r??t", "r*t", "[0]"}, {"www", "www:www"},
				{"80", "080", "80:1"}})},
		"module": {words("module", `modules = [%q]`, `modules = ["*"]`, []string{"procfs", "procfs.ko", "proc*",
			"tmpfs"}, requests("module", "", "procfs", "procfs.ko", "linprocfs", "tmpfs", "tmpfs.ko"),
			[][]string{{"procfs", "procfs.ko", "proc*", "linprocfs"}, {"tmpfs", "tmpfs.ko"}}),
			words("module", `modules = [%q]`, `modules = ["*"]`, []string{"pseudofs", "linux_*"}, requests("module", "",
				"linprocfs", "linsysfs", "tmpfs"), [][]string{{"pseudofs", "linprocfs", "linsysfs", "linux_*"}})},
		"service": {serviceDenials()}, "nfs": yes("nfs", "root"), "vnet": yes("vnet", "true"),
		"linux": yes("linux", "true"), "address": {addressDenials()}, "publish": {publishDenials()},
		"trace": {words("trace", `traces = [%q]`, `traces = ["*"]`, []string{"ann", "a*", "root"},
			requests("trace", "", "ann", "bob", "root"), [][]string{{"ann", "a*"}, {"root"}})},
		"network": {words("network", `networks = [%q]`, `networks = ["*"]`, []string{"dmz", "d*", "host"},
			requests("network", "", "dmz", "lan", "host"), [][]string{{"dmz", "d*"}, {"host"}})},
	}
	return all
}

// TestDenyIsOfEveryForm tries every deny of the table with every request, beside
// permits and approvals of everything.
func TestDenyIsOfEveryForm(t *testing.T) {
	all := allDenials()
	for _, kind := range Kinds() {
		if all[kind] == nil && kind != "signature" { // of which there are no denies
			t.Errorf("there are no denials of %s", kind)
		}
		for i, d := range all[kind] {
			t.Run(fmt.Sprintf("%s %d", kind, i), d.try)
		}
	}
}

func (d denials) try(t *testing.T) {
	s := Subject{Image: "acme/web:1", Repository: "acme/web", Digest: digestA, Namespace: "prod", Job: "shop"}
	for i := range d.requests {
		d.requests[i].Source = []Source{FromImage, FromJob}[i%2]
	}
	approvals := []Approval{{Digest: digestA, Requests: d.requests}}
	if free := mustParse(t, "permit {\n"+d.permit+"\n}").Decide(s, d.requests, nil); !free.Allowed {
		for _, r := range free.Results {
			if !r.Allowed && !strings.Contains(valueOf(r.Request), "hide mode") { // the same as the mode alone
				t.Errorf("without a deny: %s: %s", r.Request, r.Reason)
			}
		}
	}
	refused, passed := 0, 0
	for _, deny := range d.denies {
		p := mustParse(t, "permit {\n"+d.permit+"\n}\ndeny {\n"+fmt.Sprintf(d.attr, deny)+"\n}")
		about := map[string]bool{}
		for _, thing := range d.of(deny) {
			about[thing] = true
		}
		for _, res := range p.Decide(s, d.requests, approvals).Results {
			hit := slices.ContainsFunc(d.asked(res.Request), func(thing string) bool { return about[thing] })
			switch {
			case hit && (res.Allowed || !res.Denied):
				t.Errorf("deny %s lets through: %s: %s", deny, res.Request, res.Reason)
			case !hit && res.Denied:
				t.Errorf("deny %s is not about: %s: %s", deny, res.Request, res.Reason)
			}
			if hit {
				refused++
			} else {
				passed++
			}
		}
	}
	t.Logf("%d denies, %d requests: %d pairs overlap, %d do not", len(d.denies), len(d.requests), refused, passed)
}
