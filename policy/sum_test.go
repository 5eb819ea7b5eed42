package policy

import (
	"fmt"
	"strings"
	"testing"
)

// A line's size is for all that it permits to a task, not for each.
func TestSizesAreSums(t *testing.T) {
	tmpfs := func(target, more string) Request { return req("mount", target, "tmpfs"+more) }
	var many []Request
	for i := range 200 {
		many = append(many, tmpfs(fmt.Sprintf("/tmp/%d", i), ",size=1073741824"))
	}
	sized := `permit { mounts = ["tmpfs:/tmp:size<=1GiB"] }`
	for name, c := range map[string]struct {
		policy string
		asked  []Request
		want   bool
	}{
		"200 of 1 GiB each": {sized, many, false},
		"one of them":       {sized, many[:1], true},
		"two of them":       {sized, many[:2], false},
		"halves": {sized, []Request{tmpfs("/tmp/a", ",size=536870912"),
			tmpfs("/tmp/b", ",size=536870912")}, true},
		"halves, and a byte": {sized, []Request{tmpfs("/tmp/a", ",size=536870912"),
			tmpfs("/tmp/b", ",size=536870912"), tmpfs("/tmp/c", ",size=1")}, false},
		"the same twice": {sized, []Request{many[0], many[0]}, false},
		"of image and job": {sized, []Request{many[0], req("mount", "/tmp/x", "tmpfs,size=1", FromJob)},
			false},
		"without a size": {sized, []Request{tmpfs("/tmp/a", "")}, false},
		"a sum over the largest number": {sized, []Request{tmpfs("/tmp/a", ",size=9223372036854775807"),
			tmpfs("/tmp/b", ",size=9223372036854775807")}, false},
		"such a sum within a bound": {`permit { mounts = ["tmpfs:/tmp:size<=8191PiB"] }`, []Request{
			tmpfs("/tmp/a", ",size=9000000000000000000"), tmpfs("/tmp/b", ",size=9000000000000000000")}, false},
		"elsewhere by a line of its own": {sized + "\npermit { mounts = [\"tmpfs:/var/tmp:size<=1GiB\"] }",
			[]Request{many[0], tmpfs("/var/tmp", ",size=1073741824")}, true},
		"a larger one by a line below": {sized + "\npermit { mounts = [\"tmpfs:/tmp/big:size<=8GiB\"] }",
			[]Request{many[0], tmpfs("/tmp/big", ",size=8589934592")}, true},
		"by another line without a bound": {sized + "\npermit { mounts = [\"tmpfs:/tmp\"] }", many, true},
	} {
		d := mustParse(t, c.policy).Decide(Subject{}, c.asked, nil)
		if d.Allowed != c.want {
			t.Errorf("%s: allowed is %v: %+v", name, d.Allowed, d.Results[0])
		}
	}
	d := mustParse(t, sized).Decide(Subject{}, many, nil)
	if r := d.Results[7].Reason; r != "host.hcl:1 permits a task 1GiB of memory together, and it asks for 200GiB there" {
		t.Errorf("the reason is %q", r)
	}
}

// A deny of a directory is about the directory, by whatever path.
func TestDenyOfADirectoryByAnotherPath(t *testing.T) {
	p := mustParse(t, "permit {\n mounts = [\"nullfs:/\"]\n}\ndeny {\n mounts = "+
		"[\"nullfs:/link/secret:ro\"]\n}\ndeny {\n images = [\"other\"]\n mounts = [\"nullfs:/data/free\"]\n}")
	p.OnHost(func(path string) []string { // /link leads to /data, /again is the same file system
		path = strings.NewReplacer("/link", "/data", "/again", "/data").Replace(path)
		ids := []string{path}
		for path != "/" {
			path = path[:max(1, strings.LastIndexByte(path, '/'))]
			ids = append(ids, path)
		}
		return ids
	})
	for source, denied := range map[string]bool{"/data/secret": true, "/data/secret/x": true, "/again/secret/x": true,
		"/data": true, "/": true, "/link": true,
		"/data/secrets": false, "/data/other": false, "/srv": false, "/data/free": false, "/again": true} {
		d := p.Decide(Subject{Image: "web"}, requests("mount", "/mnt", "nullfs:"+source+":rw"), nil)
		if d.Results[0].Denied != denied {
			t.Errorf("%s: %+v", source, d.Results[0])
		}
	}
}
