package image

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestLabelsOfOtherTools(t *testing.T) {
	const jail = "org.freebsd.jail."
	manifest := Requires{Allow: []string{"chflags"}, SysVIPC: SysVIPC{Shm: "new"}}
	for labels, c := range map[string]struct {
		want Requires
		err  string
	}{
		"":                  {manifest, ""},
		"allow.mlock=true":  {Requires{Allow: []string{"chflags", "mlock"}, SysVIPC: SysVIPC{Shm: "new"}}, ""},
		"allow.mlock=1":     {Requires{Allow: []string{"chflags", "mlock"}, SysVIPC: SysVIPC{Shm: "new"}}, ""},
		"allow.mlock=false": {manifest, ""},
		"allow.chflags=1":   {manifest, ""},
		"allow.mount.tmpfs=true": {Requires{Allow: []string{"chflags", "mount.tmpfs"}, SysVIPC: SysVIPC{Shm: "new"}},
			""},
		"sysvmsg=new sysvsem=inherit": {Requires{Allow: []string{"chflags"},
			SysVIPC: SysVIPC{Shm: "new", Msg: "new", Sem: "inherit"}}, ""},
		"sysvshm=new":                  {manifest, ""},
		"sysvmsg=disable":              {manifest, ""},
		"vnet=inherit":                 {manifest, ""},
		"vnet=new":                     {Requires{Allow: manifest.Allow, SysVIPC: manifest.SysVIPC, VNET: true}, ""},
		"vnet=disable":                 {err: `"disable" is neither new nor inherit`},
		"sysvshm=inherit":              {err: `the manifest says "new"`},
		"sysvshm=disable":              {err: `the manifest says "new"`},
		"sysvsem=yes":                  {err: `"yes" is not new, inherit or disable`},
		"allow.chflags=0":              {err: "the manifest asks for it"},
		"allow.mlock=yes":              {err: `"yes" is neither true nor false`},
		"allow.=1":                     {err: "not a valid parameter name"},
		"allow.x/y=1":                  {err: "not a valid parameter name"},
		"ip4.addr=10.0.0.1":            {err: `label "org.freebsd.jail.ip4.addr": not supported`},
		"path=/":                       {err: `label "org.freebsd.jail.path": not supported`},
		"SYSVSHM=new":                  {err: "not supported"},
		"devfs_ruleset=4 allow.x=what": {err: `label "org.freebsd.jail.devfs_ruleset": not supported`},
	} {
		img := &Image{Manifest: &Manifest{Requires: manifest}}
		img.Config.Config.Labels = map[string]string{"org.freebsd.other": "x", "jail": "new"}
		for _, l := range strings.Fields(labels) {
			name, value, _ := strings.Cut(l, "=")
			img.Config.Config.Labels[jail+name] = value
		}
		got, err := img.Privileges()
		if c.err != "" {
			wantError(t, err, c.err)
		} else if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v; want %+v", labels, got, err, c.want)
		}
		if len(img.Manifest.Requires.Allow) != 1 {
			t.Errorf("%s: the manifest is changed: %v", labels, img.Manifest.Requires.Allow)
		}
	}
	img := &Image{Manifest: &Manifest{}}
	img.Config.Config.Labels = map[string]string{"org.freebsd.parentJail": "host"}
	_, err := img.Privileges()
	wantError(t, err, "org.freebsd.parentJail")
}

func TestLabelsAreBounded(t *testing.T) {
	img := &Image{Manifest: &Manifest{}}
	img.Config.Config.Labels = map[string]string{}
	for i := range maxForeign + 1 {
		img.Config.Config.Labels[fmt.Sprintf("org.freebsd.jail.allow.a%d", i)] = "1"
	}
	_, err := img.Privileges()
	wantError(t, err, "1001 labels ask for privileges: at most 1000 are allowed")
}
