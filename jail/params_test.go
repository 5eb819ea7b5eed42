package jail

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

var testTypes = map[string]paramType{
	"persist":           {ctlInt, "B"},
	"allow.raw_sockets": {ctlInt, "B"},
	"allow.mount":       {ctlInt, "B"},
	"securelevel":       {ctlInt, "I"},
	"osrelease":         {ctlString, "A"},
	"host.hostid":       {ctlUlong, "LU"},
	"sysvshm":           {ctlInt, "E,jailsys"},
	"ip4.addr":          {ctlStruct, "S,in_addr,a"},
	"ip6.addr":          {ctlStruct, "S,in6_addr,a"},
	"meta":              {ctlString, "A,keyvalue"},
	"strange":           {0xd, "S,thing"},
}

func TestEncodeParam(t *testing.T) {
	for _, c := range []struct{ name, value, wantName, want string }{
		{"persist", "", "persist", ""},
		{"persist", "true", "persist", ""},
		{"persist", "false", "nopersist", ""},
		{"nopersist", "true", "nopersist", ""},
		{"allow.raw_sockets", "1", "allow.raw_sockets", ""},
		{"allow.raw_sockets", "0", "allow.noraw_sockets", ""},
		{"allow.noraw_sockets", "", "allow.noraw_sockets", ""},
		{"allow.noraw_sockets", "false", "allow.raw_sockets", ""},
		{"allow.mount", "False", "allow.nomount", ""},
		{"securelevel", "-1", "securelevel", "\xff\xff\xff\xff"},
		{"osrelease", "14.1-RELEASE", "osrelease", "14.1-RELEASE\x00"},
		{"host.hostid", "258", "host.hostid", "\x02\x01\x00\x00\x00\x00\x00\x00"},
		{"sysvshm", "new", "sysvshm", "\x01\x00\x00\x00"},
		{"sysvshm", "inherit", "sysvshm", "\x02\x00\x00\x00"},
		{"ip4.addr", "10.0.0.1,10.0.0.2", "ip4.addr", "\x0a\x00\x00\x01\x0a\x00\x00\x02"},
		{"ip4.addr", "-", "ip4.addr", ""},
		{"ip6.addr", "::1", "ip6.addr", strings.Repeat("\x00", 15) + "\x01"},
		{"meta.alloc", "x=y", "meta.alloc", "x=y\x00"},
	} {
		name, value, err := encodeParam(testTypes, c.name, c.value)
		if err != nil || name != c.wantName || string(value) != c.want {
			t.Errorf("%s=%q: %s %q %v", c.name, c.value, name, value, err)
		}
	}
}

func TestEncodeParamRefuses(t *testing.T) {
	for _, c := range [][2]string{{"persist", "maybe"}, {"securelevel", ""}, {"securelevel", "5000000000"},
		{"sysvshm", "true"},
		{"ip4.addr", "::1"}, {"ip6.addr", "10.0.0.1"}, {"ip6.addr", "fe80::1%em0"}, {"ip4.addr", "10.0.0.1,"},
		{"nothing", "1"},
		{"nosecurelevel", "1"}, {"no", ""}, {"strange", "1"}, {"host.hostid", "-1"}, {"securelevel.x",
			"1"}, {"osrelease", "a\x00b"}} {
		if name, value, err := encodeParam(testTypes, c[0], c[1]); err == nil {
			t.Errorf("%s=%q was taken: %s %q", c[0], c[1], name, value)
		}
	}
}

func TestSpecCheck(t *testing.T) {
	good := Spec{Name: "fj-a1_b-c", Root: "/r", Params: map[string]string{"allow.mlock": "true"},
		Limits: Limits{CPUSet: "0-1"}}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", "web", "fj-", "fj-7", "fj-a.b", "fj-a:b", "fj-a/b", "fj-..", "fj-a b",
		"fj-a\x00"} {
		s := good
		s.Name = name
		if s.check() == nil {
			t.Errorf("name %q was taken", name)
		}
	}
	for _, p := range []string{"path", "name", "jid", "persist", "nopersist", "desc", "errmsg", "lastjid"} {
		s := good
		s.Params = map[string]string{p: "1"}
		if s.check() == nil {
			t.Errorf("parameter %s was taken", p)
		}
	}
	s := good
	s.Root = "relative"
	if s.check() == nil {
		t.Error("a relative root was taken")
	}
	s = good
	s.Limits.CPUSet = "3-1"
	if s.check() == nil {
		t.Error("a wrong cpuset was taken")
	}
}

func TestMetaText(t *testing.T) {
	got := metaText(map[string]string{"b": "2", "a": "1", "bad\nkey": "x", "evil": "x\nfreejail=forged",
		"huge": strings.Repeat("x", 5000), "k=": "x"})
	if got != "a=1\nb=2" {
		t.Errorf("%q", got)
	}
}

func TestRctlRules(t *testing.T) {
	got := rctlRules("fj-x", Limits{MemoryBytes: 1 << 20, CPUPercent: 150, MaxProcs: 10, OpenFiles: 20, CPUShares: 7})
	want := []string{"jail:fj-x:memoryuse:sigkill=270532608", "jail:fj-x:shmsize:deny=1048576",
		"jail:fj-x:pcpu:deny=150", "jail:fj-x:maxproc:deny=10"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := rctlRules("fj-x", Limits{}); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func TestCPUMask(t *testing.T) {
	m, err := cpuMask("0-2, 5,9")
	if err != nil || !bytes.Equal(m[:2], []byte{0b100111, 0b10}) || len(m) != maxCPU/8 {
		t.Errorf("%v %v", m[:2], err)
	}
	for _, bad := range []string{",", "a", "1-", "-1", "2-1", "1024", "99999999999"} {
		if _, err := cpuMask(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
