package daemon

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testimage"
)

// victim is a host with a policy that permits a little, and with something to
// lose.
type victim struct {
	t      *testing.T
	dir    string
	c      *client.Client
	secret string // a file of the host

}

func newVictim(t *testing.T, policy string) *victim {
	t.Helper()
	dir := shortDir(t)
	v := &victim{t: t, dir: dir, secret: filepath.Join(dir, "host", "secret")}
	for _, sub := range []string{"host", "srv"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(v.secret, []byte("sesame"), 0o600); err != nil {
		t.Fatal(err)
	}
	v.c, _ = daemonAt(t, dir, strings.ReplaceAll(policy, "DIR", dir))
	return v
}

// refuses starts a task and wants it refused, for a reason that has a word, and
// the host as it was.
func (v *victim) refuses(spec client.TaskSpec, want string) {
	v.t.Helper()
	before := v.hostMounts()
	spec.ID, spec.Owner = "bad", "nomad"
	if _, err := v.c.Start(v.t.Context(), spec); err == nil {
		v.t.Errorf("it started; want it refused for %q", want)
		if err := v.c.Destroy(v.t.Context(), "bad", true); err != nil {
			v.t.Fatal(err)
		}
	} else if !strings.Contains(err.Error(), want) {
		v.t.Errorf("refused for %v; want %q", err, want)
	}
	nothingLeft(v.t, v.dir)
	if after := v.hostMounts(); !slices.Equal(before, after) {
		v.t.Errorf("the host's mounts have changed:\n%v\n%v", before, after)
	}
	if b, err := os.ReadFile(v.secret); err != nil || string(b) != "sesame" {
		v.t.Errorf("the host's file is %q: %v", b, err)
	}
}

// hostMounts leaves out what other tests mount at the same time.
func (v *victim) hostMounts() []mount.Info {
	v.t.Helper()
	list, err := mount.List()
	if err != nil {
		v.t.Fatal(err)
	}
	return slices.DeleteFunc(list, func(i mount.Info) bool {
		return task.Within(os.TempDir(), i.Target) &&
			!task.Within(v.dir, i.Target)
	})
}

// image writes one and returns its path.
func (v *victim) image(spec testimage.Spec) string {
	v.t.Helper()
	if spec.Name == "" {
		spec.Name, spec.Cmd = "prog", []string{"inside"}
	}
	path, err := testimage.Write(v.t.Context(), v.t.TempDir(), spec)
	if err != nil {
		v.t.Fatal(err)
	}
	return path
}

func asks(requires string) string { return `{"schemaVersion":1,"requires":` + requires + `}` }

const little = `permit {
  devfs  = ["path 'bpf*' unhide mode 600"]
  allow  = ["chflags"]
  jail   = { enforce_statfs = "1..2", "children.max" = "<=5" }
  mounts = ["tmpfs:/tmp:size<=64MiB", "nullfs:DIR/srv:ro", "tmpfs:/data:size<=64MiB"]
  ports  = ["1024-65535/tcp"]
}
deny {
  devfs = ["path mem unhide", "path kmem unhide"]
}
deny {
  users = ["root"]
  from  = ["job"]
}
`

func TestHostileImages(t *testing.T) {
	v := newVictim(t, little)
	for name, c := range map[string]struct{ requires, want string }{
		"a rule over two lines":        {`{"devfs":["path bpf0 unhide\npath mem unhide"]}`, "devfs"},
		"a rule with tabs and returns": {`{"devfs":["path\tmem\r\nunhide"]}`, "devfs"},
		"a rule with a no-break space": {`{"devfs":["path bpf0\u00a0unhide"]}`, "devfs"},
		"a rule with a NUL":            {`{"devfs":["path bpf0\u0000mem unhide"]}`, "devfs"},
		"an include":                   {`{"devfs":["include 4"]}`, "include"},
		"an include after a path":      {`{"devfs":["path bpf0 unhide include 1"]}`, "include"},
		"a rule with a number":         {`{"devfs":["add 1 path mem unhide"]}`, "devfs"},
		"two paths":                    {`{"devfs":["path bpf0 path mem unhide"]}`, "twice"},
		"no path":                      {`{"devfs":["unhide"]}`, "denied"},
		"a wider path":                 {`{"devfs":["path 'b*' unhide"]}`, "no permit"},
		"a set that has the denied":    {`{"devfs":["path '[k-m]em' unhide"]}`, "denied"},
		"an escape of the denied":      {`{"devfs":["path 'm\\em' unhide"]}`, "denied"},
		"the denied by its whole path": {`{"devfs":["path /dev/mem unhide"]}`, "denied"},
		"a look-alike":                 {`{"devfs":["path bрf0 unhide"]}`, "character"},
		"a wider mode":                 {`{"devfs":["path bpf0 unhide mode 666"]}`, "no permit"},
		"a mode with more bits":        {`{"devfs":["path bpf0 unhide mode 4600"]}`, "mode"},
		"a mode in another base":       {`{"devfs":["path bpf0 unhide mode 0x180"]}`, "mode"},
		"a negative user":              {`{"devfs":["path bpf0 unhide user -1"]}`, "user"},
		"a path out of /dev":           {`{"devfs":["path ../etc unhide"]}`, "relative"},
		"a quotation":                  {`{"devfs":["path 'bpf0' unhide' mode 666"]}`, "devfs"},
		"very many rules": {`{"devfs":["path bpf0 unhide"` + strings.Repeat(`,"path bpf1 unhide"`,
			1500) + `]}`, "max_rules"},
		"very many settings":             {manySettings(3000), "at most 2000 are allowed"},
		"hard patterns":                  {`{"devfs":["path '` + strings.Repeat("*[a-y]", 30) + `' unhide"]}`, "d"},
		"a look-alike of a permission":   {`{"allow":["chflags\u0430"]}`, "allow"},
		"an upper-case permission":       {`{"allow":["Chflags"]}`, "allow.Chflags"},
		"a permission by its whole name": {`{"allow":["allow.mount"]}`, "allow"},
		"a permission as a parameter":    {`{"jail":{"allow.mount":"true"}}`, "allow.mount"},
		"a negated parameter":            {`{"jail":{"nopersist":"true"}}`, "nopersist"},
		"the jail's own description":     {`{"jail":{"meta.freejail":"x"}}`, "meta.freejail"},
		"the ruleset as a parameter":     {`{"jail":{"devfs_ruleset":"0"}}`, "devfs_ruleset"},
		"a value with a line break":      {`{"jail":{"enforce_statfs":"1\nallow.mount=true"}}`, "control"},
		"a number with a plus":           {`{"jail":{"children.max":"+5"}}`, "decimal"},
		"a number of base 16":            {`{"jail":{"children.max":"0x5"}}`, "decimal"},
		"a number with blanks":           {`{"jail":{"children.max":" 5"}}`, "blanks"},
		"a number of other digits":       {`{"jail":{"children.max":"٥"}}`, "ASCII"},
		"a number too large":             {`{"jail":{"children.max":"99999999999999999999"}}`, "no permit"},
		"a number over the limit":        {`{"jail":{"children.max":"6"}}`, "no permit"},
		"less than permitted":            {`{"jail":{"enforce_statfs":"0"}}`, "no permit"},
		"a field given twice":            {`{"allow":["chflags"],"allow":["mount"]}`, "twice"},
		"a field that nobody knows":      {`{"privileged":true}`, "unknown field"},
		"a field in upper case":          {`{"Allow":["mount"]}`, "unknown field"},
		"another source by an option": {
			`{"mounts":[{"type":"tmpfs","target":"/tmp","options":["size=1m","from=/"]}]}`, "from"},
		"another file system by one": {
			`{"mounts":[{"type":"tmpfs","target":"/tmp","options":["size=1m","fstype=nullfs","target=/"]}]}`, "fstype"},
		"an option within an option": {
			`{"mounts":[{"type":"tmpfs","target":"/tmp","options":["size=1m,from=/"]}]}`, "from"},
		"another place by an option": {`{"mounts":[{"type":"tmpfs","target":"/tmp","options":["fspath=/etc"]}]}`,
			"fspath"},
		"a ruleset by an option": {`{"mounts":[{"type":"tmpfs","target":"/tmp","options":["ruleset=0"]}]}`,
			"ruleset"},
		"a union by an option": {`{"mounts":[{"type":"tmpfs","target":"/tmp","options":["union"]}]}`,
			"union"},
		"a size that wraps": {
			`{"mounts":[{"type":"tmpfs","target":"/tmp","options":["size=18446744073709551617"]}]}`, "size"},
		"a size of none": {`{"mounts":[{"type":"tmpfs","target":"/tmp","options":["size=0"]}]}`,
			"size"},
		"two sizes": {
			`{"mounts":[{"type":"tmpfs","target":"/tmp","options":["size=1m","size=900g"]}]}`, "twice"},
		"no size where one is due": {`{"mounts":[{"type":"tmpfs","target":"/tmp"}]}`, "no permit"},
		"a mode of set-uid": {
			`{"mounts":[{"type":"tmpfs","target":"/tmp","options":["size=1m","mode=4777"]}]}`, "mode"},
		"set-uid programs": {
			`{"mounts":[{"type":"tmpfs","target":"/tmp","options":["size=1m","suid"]}]}`, "no permit"},
		"a host's directory by an image":  {`{"mounts":[{"type":"nullfs","target":"/tmp"}]}`, "nullfs"},
		"a devfs of its own":              {`{"mounts":[{"type":"devfs","target":"/tmp"}]}`, "devfs"},
		"a mount on the root":             {`{"mounts":[{"type":"tmpfs","target":"/"}]}`, "target"},
		"a mount above the root":          {`{"mounts":[{"type":"tmpfs","target":"/tmp/../../etc"}]}`, "clean"},
		"shared memory of the host":       {`{"sysvipc":{"shm":"inherit"}}`, "no permit"},
		"a network of its own, unoffered": {`{"vnet":true}`, "vnet"},
	} {
		t.Run(name, func(t *testing.T) {
			w := *v
			w.t = t
			path, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "prog", Cmd: []string{"inside"},
				Manifest: asks(c.requires)})
			if err == nil {
				w.refuses(client.TaskSpec{Image: path}, c.want)
			} else if !strings.Contains(err.Error(), c.want) { // by the same reader as an import's
				t.Errorf("no image for %v; want %q", err, c.want)
			}
		})
	}
}

func manySettings(n int) string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprintf("kern.x%d", i)] = "1"
	}
	b, err := json.Marshal(map[string]any{"sysctl": m})
	if err != nil {
		panic(err) // a map of strings can be written
	}
	return string(b)
}

func TestHostileJobs(t *testing.T) {
	v := newVictim(t, little)
	plain := v.image(testimage.Spec{})
	inner := filepath.Join(v.dir, "srv", "link")
	if err := os.Symlink(filepath.Join(v.dir, "host"), inner); err != nil {
		t.Fatal(err)
	}
	vol := func(source, target, options string) client.TaskSpec {
		return client.TaskSpec{Image: plain, Volumes: []client.Mount{{Source: source, Target: target, Options: options,
			ReadOnly: true}}}
	}
	wants := func(w client.Wants) client.TaskSpec { return client.TaskSpec{Image: plain, Wants: w} }
	srv := filepath.Join(v.dir, "srv")
	for name, c := range map[string]struct {
		spec client.TaskSpec
		want string
	}{
		"/ as a volume":               {vol("/", "/mnt", ""), "no permit"},
		"/ by another way":            {vol(srv+"/../../../../../..", "/mnt", ""), "no permit"},
		"/ through /proc":             {vol("/proc/self/root", "/mnt", ""), ""},
		"a link to the host's":        {vol(inner, "/mnt", ""), "no permit"},
		"beside what is permitted":    {vol(filepath.Join(v.dir, "host"), "/mnt", ""), "no permit"},
		"a volume over the root":      {vol(srv, "/", ""), "below /"},
		"a volume over the root, too": {vol(srv, "/x/..", ""), "below /"},
		"writable": {client.TaskSpec{Image: plain,
			Volumes: []client.Mount{{Source: srv, Target: "/mnt"}}}, "no permit"},
		"options of others": {vol(srv, "/mnt", "from=/"), "from"},
		"set-uid programs":  {vol(srv, "/mnt", "suid"), "no permit"},
		"another type": {client.TaskSpec{Image: plain,
			Volumes: []client.Mount{{Type: "devfs", Target: "/mnt"}}}, "devfs"},
		"a look-alike of a type": {client.TaskSpec{Image: plain,
			Volumes: []client.Mount{{Type: "tmpfѕ", Target: "/tmp"}}}, "tmpf"},
		"tmpfs for nullfs": {client.TaskSpec{Image: plain, Volumes: []client.Mount{{Type: "tmpfs",
			Source: "/", Target: "/tmp", Options: "size=1m,fstype=nullfs"}}}, "tmpfs /tmp: "},
		"a rule over two lines": {wants(client.Wants{Devfs: []string{"path bpf0 unhide\npath mem unhide"}}),
			"devfs"},
		"a denied device":           {wants(client.Wants{Devfs: []string{"path 'm?m' unhide"}}), "denied"},
		"a permission's look-alike": {wants(client.Wants{Allow: []string{"chflagѕ"}}), "not a valid parameter name"},
		"a permission with a value": {wants(client.Wants{Allow: []string{"chflags=1 allow.mount"}}),
			"not a valid parameter name"},
		"a parameter given twice": {client.TaskSpec{Image: v.image(testimage.Spec{Manifest: asks(
			`{"jail":{"enforce_statfs":"2"}}`)}), Wants: client.Wants{Jail: map[string]string{"enforce_statfs": "0"}}},
			"enforce_statfs=0"},
		"a parameter's other name": {wants(client.Wants{Jail: map[string]string{"noallow.mount": "false"}}),
			"noallow.mount"},
		"a value with a NUL": {wants(client.Wants{Jail: map[string]string{"enforce_statfs": "1\x00"}}),
			"ASCII"},
		"IPC that there is not": {wants(client.Wants{SysVIPC: map[string]string{"shm ": "new"}}),
			"not one of shm"},
		"a sysctl by a path": {wants(client.Wants{Sysctl: map[string]string{"kern/../../../etc/passwd": "x"}}),
			"not a valid name"},
		"very many permissions": {wants(client.Wants{Allow: slices.Repeat([]string{"chflags"}, 3000)}),
			"at most 2000 are allowed"},
		"root":               {client.TaskSpec{Image: plain, User: "root"}, "denied"},
		"root by its number": {client.TaskSpec{Image: plain, User: "0:0"}, "denied"},
		"root by zeros":      {client.TaskSpec{Image: plain, User: "000"}, "denied"},
		"root by another name": {client.TaskSpec{Image: v.image(testimage.Spec{Name: "toor", Cmd: []string{"inside"},
			Files: map[string]string{"/etc/passwd": "toor:*:0:0:x:/:/bin/sh\n", "/etc/group": "wheel:*:0:\n"}}),
			User: "toor"}, "denied"},
		"a root over NFS": {client.TaskSpec{Image: plain, Storage: "nfs"}, "NFS"},
		"labels of another tool": {
			client.TaskSpec{Image: v.image(testimage.Spec{Name: "labels", Cmd: []string{"inside"},
				Labels: map[string]string{"org.freebsd.jail.allow.raw_sockets": "true"}})}, "allow.raw_sockets"},
		"unknown labels of another tool": {
			client.TaskSpec{Image: v.image(testimage.Spec{Name: "labels", Cmd: []string{"inside"},
				Labels: map[string]string{"org.freebsd.jail.path": "/"}})}, "org.freebsd.jail.path"},
		"a link where a volume goes": {
			client.TaskSpec{Image: v.image(testimage.Spec{Name: "link", Cmd: []string{"inside"},
				Links: map[string]string{"/data": filepath.Join(v.dir, "host")}}),
				Volumes: []client.Mount{{Type: "tmpfs", Target: "/data", Options: "size=1m"}}}, "link"},
	} {
		t.Run(name, func(t *testing.T) {
			w := *v
			w.t = t
			w.refuses(c.spec, c.want)
		})
	}
}

// What was approved is one digest: neither another image under its name nor
// another content under its digest gets it.
func TestApprovalIsForOneContent(t *testing.T) {
	v := newVictim(t, "")
	ctx := t.Context()
	in := func(manifest, name string) *client.ImageInfo {
		i, err := v.c.Import(ctx, client.ImportRequest{Path: v.image(testimage.Spec{Manifest: manifest}), Name: name},
			nil)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	first := in(asks(`{"allow":["raw_sockets"]}`), "tool")
	in(asks(`{"allow":["raw_sockets"]}`), "kept")
	v.refuses(client.TaskSpec{Image: "tool"}, "freejail policy approve tool@"+first.Digest)
	a, err := v.c.Approve(ctx, client.ApproveRequest{Image: "tool@" + first.Digest, Why: "a test"})
	if err != nil || !strings.Contains(a.By, "uid 0") || a.At.IsZero() {
		t.Fatalf("%+v %v", a, err)
	}
	if d, err := v.c.CheckPolicy(ctx, client.TaskSpec{Image: "tool"}); err != nil || !d.Allowed {
		t.Fatalf("approved, but %+v %v", d, err)
	}
	// The tag moves between the check and the start.
	second := in(`{"schemaVersion":1,"summary":"another","requires":{"allow":["raw_sockets"]}}`, "tool")
	if second.Digest == first.Digest {
		t.Fatal("the images are one")
	}
	v.refuses(client.TaskSpec{Image: "tool"}, "no permit covers it")
	// The content changes under the digest that was approved.
	blobs := filepath.Join(v.dir, "state", "images", "blobs", "sha256")
	entries, err := os.ReadDir(blobs)
	if err != nil {
		t.Fatal(err)
	}
	forged := 0
	for _, e := range entries {
		path := filepath.Join(blobs, e.Name())
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if more := strings.ReplaceAll(string(b), `[\"raw_sockets\"]`, `[\"mount\",\"raw_sockets\"]`); more != string(
			b) && !strings.Contains(more, "another") {
			if err := os.Chmod(path, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(more), 0o600); err != nil {
				t.Fatal(err)
			}
			forged++
		}
	}
	if forged != 1 {
		t.Fatalf("%d configurations were forged", forged)
	}
	v.refuses(client.TaskSpec{Image: first.Digest}, "digest mismatch")
}

// Nothing in a job's words approves anything.
func TestJobCannotApprove(t *testing.T) {
	v := newVictim(t, "")
	spec := client.TaskSpec{Image: v.image(testimage.Spec{Manifest: asks(`{"allow":["raw_sockets"]}`)})}
	labels := map[string]string{"approved": "true", "approve": "*", "by": "root", "signers": "release",
		"namespace": "default"}
	spec.Labels = maps.Clone(labels)
	spec.Env = maps.Clone(labels)
	v.refuses(spec, "no permit")
	if l, err := v.c.Approvals(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("approvals: %+v %v", l, err)
	}
}

// Where an approval has expired, or a permit is gone from the file, a new
// start is refused: without a restart of the daemon.
func TestPolicyFollowsItsFile(t *testing.T) {
	v := newVictim(t, "permit {\n  allow = [\"raw_sockets\"]\n}\n")
	if _, err := v.c.Import(t.Context(), client.ImportRequest{
		Path: v.image(testimage.Spec{Manifest: asks(`{"allow":["raw_sockets"]}`)}), Name: "tool"}, nil); err != nil {
		t.Fatal(err)
	}
	allowed := func(want bool) {
		t.Helper()
		d, err := v.c.CheckPolicy(t.Context(), client.TaskSpec{Image: "tool"})
		if err != nil || d.Allowed != want {
			t.Errorf("allowed is %+v, %v; want %v", d, err, want)
		}
	}
	conf := filepath.Join(v.dir, "freejail.hcl")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(conf, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	allowed(true)
	write(string(text) + "permit {\n  alow = []\n}\n")
	allowed(true)
	i, err := v.c.Info(t.Context())
	if err != nil || !strings.Contains(i.PolicyError, "alow") || !strings.Contains(i.PolicyError, "stays in force") {
		t.Errorf("info: %+v %v", i, err)
	}
	write(strings.ReplaceAll(string(text), "permit {", "deny {"))
	allowed(false)
	if i, err := v.c.Info(t.Context()); err != nil || i.PolicyError != "" {
		t.Errorf("info: %+v %v", i, err)
	}
	write(string(text))
	allowed(true)
}
