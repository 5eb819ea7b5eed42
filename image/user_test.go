package image

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func rootWith(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if to, ok := strings.CutPrefix(text, "->"); ok {
			if err := os.Symlink(to, p); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const passwd = "# comment\nroot:*:0:0:Charlie " +
	"&:/root:/bin/sh\nwww:*:80:80:Web:/nonexistent:/usr/sbin/nologin\n80x:*:5:5::/x:/x\n" +
	"1001:*:7:7::/seven:/x\nbroken\nminus:*:4294967295:1::/:/x\ngroupless:*:9:x::/:/x\n"
const group = "wheel:*:0:root\nwww:*:80:\nstaff:*:20:root,www\nweb:*:8080:www\nminus:*:4294967295:www\nfew\n"

func TestResolveUser(t *testing.T) {
	root := rootWith(t, map[string]string{"etc/passwd": passwd, "etc/group": group})
	for spec, want := range map[string]Creds{
		"":          {Name: "root", Home: "/root", Shell: "/bin/sh", Groups: []uint32{20, 0}},
		"root":      {Name: "root", Home: "/root", Shell: "/bin/sh", Groups: []uint32{0, 20}},
		"www":       {Name: "www", Home: "/nonexistent", Shell: "/usr/sbin/nologin", UID: 80, GID: 80, Groups: []uint32{20, 8080}},
		"80":        {Name: "www", Home: "/nonexistent", Shell: "/usr/sbin/nologin", UID: 80, GID: 80, Groups: []uint32{20, 8080}},
		"www:staff": {Name: "www", Home: "/nonexistent", Shell: "/usr/sbin/nologin", UID: 80, GID: 20},
		"www:20":    {Name: "www", Home: "/nonexistent", Shell: "/usr/sbin/nologin", UID: 80, GID: 20},
		"www:12345": {Name: "www", Home: "/nonexistent", Shell: "/usr/sbin/nologin", UID: 80, GID: 12345},
		"1001":      {Name: "1001", Home: "/seven", Shell: "/x", UID: 7, GID: 7}, // a name goes first
		"4242":      {UID: 4242},
		"4242:":     {UID: 4242},
		"www:":      {Name: "www", Home: "/nonexistent", Shell: "/usr/sbin/nologin", UID: 80, GID: 80, Groups: []uint32{20, 8080}},
		":www":      {Name: "root", Home: "/root", Shell: "/bin/sh", GID: 80},
		":":         {Name: "root", Home: "/root", Shell: "/bin/sh", Groups: []uint32{0, 20}},
		"4242:web":  {UID: 4242, GID: 8080},
	} {
		got, err := ResolveUser(root, spec)
		got.names = nil
		if spec == "" {
			want.Groups = []uint32{0, 20}
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q gives %+v, %v; want %+v", spec, got, err, want)
		}
	}
	for spec, want := range map[string]string{"nobody": `no user "nobody"`, "www:nogroup": `no group "nogroup"`,
		"-1": "no user", "4294967295": "not a valid user or group ID",
		"4294967296": "no user", "minus": `user "minus"`, "groupless": `user "groupless"`, "www:4294967295": "no group",
		"www:minus": "no group", "broken": "no user"} {
		got, err := ResolveUser(root, spec)
		if err == nil {
			t.Errorf("%q is taken as %+v", spec, got)
			continue
		}
		wantError(t, err, want)
	}
}

func TestUserNames(t *testing.T) {
	root := rootWith(t, map[string]string{"etc/passwd": passwd + "http:*:80:80::/:/x\nw:*:080:1::/:/x\n" +
		strings.Repeat("most:*:64:64::/:/x\n", 64) + strings.Repeat("many:*:6:6::/:/x\n", 1000)})
	for user, want := range map[string][]string{"80": {"www", "http", "w"}, "http": {"www", "http", "w"}, "81": nil} {
		c, err := ResolveUser(root, user)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Names(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %q, %v", user, got, err)
		}
	}
	c, err := ResolveUser(root, "many")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Names(); err == nil || !strings.Contains(err.Error(), "more than 64 names") {
		t.Errorf("very many names: %v", err)
	}
	if n := len(c.names); n != 65 {
		t.Errorf("%d of very many names are kept", n)
	}
	if c, err = ResolveUser(root, "64"); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Names(); err != nil || len(got) != 64 {
		t.Errorf("of 64 names there are %d, %v", len(got), err)
	}
}

func TestResolveUserWithoutFiles(t *testing.T) {
	root := t.TempDir()
	for spec, want := range map[string]Creds{"": {}, "0:0": {}, "5:6": {UID: 5, GID: 6}} {
		if got, err := ResolveUser(root, spec); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q gives %+v, %v", spec, got, err)
		}
	}
	_, err := ResolveUser(root, "www")
	wantError(t, err, "no user")
}

// What a jail has made of its own files must neither show the host's nor make
// us wait.
func TestResolveUserInAHostileRoot(t *testing.T) {
	host := rootWith(t, map[string]string{"passwd": "evil:*:666:666::/:/x\n"})
	inside := map[string]string{"real/passwd": passwd, "real/group": group}
	for name, c := range map[string]struct{ link, want string }{
		"relative":                             {"../real/passwd", ""},
		"absolute":                             {"/real/passwd", ""},
		"many":                                 {"../real/../etc/../real/passwd", ""},
		"host's":                               {filepath.Join(host, "passwd"), "no user"}, // not there in this root
		"upwards":                              {"../../../../../../../../../.." + host + "/passwd", "no user"},
		"to a directory":                       {"../real", "not a regular file"},
		"to itself":                            {"passwd", "too many symbolic links"},
		"to a file that should be a directory": {"../real/passwd/", "not a directory"},
		"to a file in itself":                  {"../real/passwd/.", "not a directory"},
		"to what is over":                      {"..", "etc/passwd"},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"etc/passwd": "->" + c.link}
			for k, v := range inside {
				files[k] = v
			}
			got, err := ResolveUser(rootWith(t, files), "www")
			if c.want != "" {
				wantError(t, err, c.want)
			} else if err != nil || got.UID != 80 {
				t.Errorf("got %+v, %v", got, err)
			}
			if got, err := ResolveUser(rootWith(t, files), "evil"); err == nil {
				t.Errorf("the host's file is read: %+v", got)
			}
		})
	}
	root := rootWith(t, map[string]string{"etc/group": ""})
	if err := syscall.Mkfifo(filepath.Join(root, "etc/passwd"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := ResolveUser(root, "www")
	wantError(t, err, "not a regular file")
	_, err = ResolveUser(rootWith(t, map[string]string{"etc/passwd": strings.Repeat("x", maxPasswd+1)}), "www")
	wantError(t, err, "limit")
}

// The way to passwd is short, and what lies there is opened without waiting.
func TestWaysToPasswd(t *testing.T) {
	files := map[string]string{"etc/a/b": "", "etc/p0": passwd, "etc/passwd": "->p35"}
	for i := 1; i <= 35; i++ {
		files[fmt.Sprintf("etc/p%d", i)] = "->" + strings.Repeat("a/../", 150) + fmt.Sprintf("p%d", i-1)
	}
	_, err := ResolveUser(rootWith(t, files), "www")
	wantError(t, err, "steps")

	root := rootWith(t, map[string]string{"etc/passwd": passwd})
	if err := syscall.Mkfifo(filepath.Join(root, "etc/group"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, spec := range []string{"www", "www:web"} {
		_, err = ResolveUser(root, spec)
		wantError(t, err, "etc/group", "not a regular file")
	}
	needRoot(t)
	root = rootWith(t, map[string]string{"etc/group": ""})
	// Linux's /dev/zero
	if err := unix.Mknod(filepath.Join(root, "etc/passwd"), unix.S_IFCHR|0o600, 0x105); err != nil {
		t.Skip("no devices can be made here: ", err)
	}
	_, err = ResolveUser(root, "www")
	wantError(t, err, "not a regular file")
}

func TestVeryManyGroups(t *testing.T) {
	var group strings.Builder
	for i := range maxGroups + 1 {
		fmt.Fprintf(&group, "g%d:*:%d:www\n", i, i)
	}
	root := rootWith(t, map[string]string{"etc/passwd": passwd, "etc/group": group.String()})
	_, err := ResolveUser(root, "www")
	wantError(t, err, "more than 1023 groups")
	if _, err := ResolveUser(root, "www:g1"); err != nil {
		t.Error(err)
	}
}
