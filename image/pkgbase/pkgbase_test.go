package pkgbase

import (
	"archive/tar"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// member is one of a package; its text is that of a file, or what a link leads to.
type member struct {
	tar.Header
	text string
}

func file(name, text string) member {
	return member{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o444}, text}
}

// pkg is a package in the making.
type pkg struct {
	name, version, abi string
	deps               []string
	needs, gives       []string
	scripts            map[string]string
	members            []member
	change             func(m map[string]any) // of its manifest
}

func (p pkg) manifest(files bool) map[string]any {
	m := map[string]any{"name": p.name, "version": p.version, "abi": p.abi, "origin": "base/" + p.name, "prefix": "/",
		"vital": true}
	deps := map[string]any{}
	for _, d := range p.deps {
		deps[d] = map[string]any{"version": p.version, "origin": "base/" + d}
	}
	m["deps"] = deps
	m["shlibs_required"], m["shlibs_provided"] = p.needs, p.gives
	if files {
		list := map[string]any{}
		for _, f := range p.members {
			if f.Typeflag == tar.TypeDir {
				continue
			}
			sum := sha256.Sum256([]byte(f.text))
			list[f.Name] = map[string]any{"sum": "1$" + hex.EncodeToString(sum[:]), "uname": "root", "perm": "0444"}
		}
		m["files"] = list
		m["scripts"] = p.scripts
	}
	return m
}

// write writes a package as pkg-create(8) does, and gives its line in a catalogue.
func (p pkg) write(t *testing.T, dir string) string {
	t.Helper()
	full := p.manifest(true)
	if p.change != nil {
		p.change(full)
	}
	list := []member{file("+COMPACT_MANIFEST", asJSON(t, p.manifest(false))), file("+MANIFEST", asJSON(t, full))}
	list = append(list, p.members...)
	name := p.name + "-" + p.version + ".pkg"
	b := archive(t, list)
	check(t, os.WriteFile(filepath.Join(dir, name), b, 0o644))
	line := p.manifest(false)
	sum := sha256.Sum256(b)
	line["repopath"], line["sum"], line["pkgsize"] = name, hex.EncodeToString(sum[:]), len(b)
	return asJSON(t, line)
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	check(t, err)
	return string(b)
}

func archive(t *testing.T, list []member) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	check(t, err)
	w := tar.NewWriter(z)
	for _, m := range list {
		h := m.Header
		h.Format, h.Size = tar.FormatPAX, int64(len(m.text))
		h.ModTime = time.Unix(1e9, 0)
		if h.Uname == "" {
			h.Uname, h.Uid = "root", 65534
		}
		if h.Gname == "" {
			h.Gname, h.Gid = "wheel", 65534
		}
		if h.Typeflag == tar.TypeSymlink || h.Typeflag == tar.TypeLink {
			h.Linkname, h.Size, m.text = m.text, 0, ""
		}
		if h.Typeflag == tar.TypeDir {
			h.Size, m.text = 0, ""
		}
		check(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, m.text)
		check(t, err)
	}
	check(t, errors.Join(w.Close(), z.Close()))
	return b.Bytes()
}

const abi = "FreeBSD:15:amd64"

// base are packages as those of FreeBSD 15 depend on each other.
func base() []pkg {
	return []pkg{
		{name: "FreeBSD-set-minimal-jail", version: "15.0", abi: abi, deps: []string{"FreeBSD-runtime"}},
		{name: "FreeBSD-runtime", version: "15.0", abi: abi, needs: []string{"libc.so.7", "libgone.so.1"},
			scripts: map[string]string{"post-install": "pwd_mkdb", "post-deinstall": "x"},
			members: []member{
				{tar.Header{Name: "/bin/", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
				{tar.Header{Name: "/bin/test", Typeflag: tar.TypeReg, Mode: 0o555}, "prog"},
				{tar.Header{Name: "/bin/[", Typeflag: tar.TypeLink, Mode: 0o555}, "/bin/test"},
				{tar.Header{Name: "/sbin/shutdown", Typeflag: tar.TypeReg, Mode: 0o4550, Gname: "operator"}, "down"},
				{tar.Header{Name: "/tmp link", Typeflag: tar.TypeSymlink, Mode: 0o755}, "bin/test"},
				{tar.Header{Name: "/var/games", Typeflag: tar.TypeDir, Mode: 0o775, Uname: "games", Gname: "games"}, ""},
				{tar.Header{Name: "/lib/libc.so.7", Typeflag: tar.TypeReg, Mode: 0o444, PAXRecords: map[string]string{
					"SCHILY.fflags": "schg"}}, "libc"},
				file("/etc/master.passwd", "# x\nroot::0:0::0:0:Charlie:/root:/bin/sh\ngames:*:7:13::0:0:G:/:/x\n"),
				file("/etc/group", "wheel:*:0:root\noperator:*:5:root\ngames:*:13:\n"),
			}},
		{name: "FreeBSD-clibs", version: "15.0", abi: abi, gives: []string{"libc.so.7"},
			members: []member{{tar.Header{Name: "/bin/", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
				file("/lib/libm.so.5", "libm")}},
		{name: "FreeBSD-clibs-lib32", version: "15.0", abi: abi, gives: []string{"libc.so.7"}},
		{name: "FreeBSD-kernel-generic", version: "15.0", abi: abi},
		{name: "FreeBSD-clang", version: "15.0", abi: abi, members: []member{file("/usr/bin/cc", "cc")}},
	}
}

// key signs catalogues.
type key struct {
	name, kind string
	public     []byte
	sign       func(text []byte) []byte // of the digits of a sum
}

func rsaKey(t *testing.T) key {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	check(t, err)
	return key{"awskms-15", "", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), func(text []byte) []byte {
		sum := sha256.Sum256(text)
		sig, err := rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
		check(t, err)
		return sig
	}}
}

func ecdsaKey(t *testing.T) key {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	check(t, err)
	return key{"ec", "$PKGSIGN:ecdsa$", der, func(text []byte) []byte {
		sum := sha256.Sum256(text)
		sig, err := ecdsa.SignASN1(rand.Reader, k, sum[:])
		check(t, err)
		return sig
	}}
}

// repository writes packages and their catalogue, signed by keys.
func repository(t *testing.T, packages []pkg, keys ...key) string {
	t.Helper()
	dir := t.TempDir()
	var lines []string
	for _, p := range packages {
		lines = append(lines, p.write(t, dir))
	}
	text := strings.Join(lines, "\n") + "\n"
	check(t, os.WriteFile(filepath.Join(dir, catalogueFile), catalogue(t, text, keys...), 0o644))
	return dir
}

func catalogue(t *testing.T, text string, keys ...key) []byte {
	t.Helper()
	sum := sha256.Sum256([]byte(text))
	list := []member{}
	for _, k := range keys {
		sig := k.sign([]byte(hex.EncodeToString(sum[:])))
		list = append(list, file(k.name+".sig", k.kind+string(sig)), file(k.name+".pub", k.kind+string(k.public)))
	}
	return archive(t, append(list, file(catalogueName, text)))
}

// trusting has the fingerprints of keys.
func trusting(t *testing.T, kind string, keys ...key) string {
	t.Helper()
	dir := t.TempDir()
	addTrust(t, dir, kind, keys...)
	return dir
}

func addTrust(t *testing.T, dir, kind string, keys ...key) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Join(dir, kind), 0o755))
	for _, k := range keys {
		text := fmt.Sprintf("function: \"sha256\"\nfingerprint: \"%x\"\n", sha256.Sum256(k.public))
		check(t, os.WriteFile(filepath.Join(dir, kind, k.name), []byte(text), 0o644))
	}
}

// merged gives what is written of a choice.
func merged(t *testing.T, r *Repository, names ...string) (map[string]*tar.Header, *Merged, *Choice, error) {
	t.Helper()
	c, err := r.Choose(names, "amd64")
	if err != nil {
		return nil, nil, nil, err
	}
	var b bytes.Buffer
	done, err := r.Merge(t.Context(), c, &b)
	if err != nil {
		return nil, nil, nil, err
	}
	files := map[string]*tar.Header{}
	for tr := tar.NewReader(&b); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, done, c, nil
		}
		check(t, err)
		files[h.Name] = h
	}
}

func TestRepository(t *testing.T) {
	for name, k := range map[string]key{"rsa": rsaKey(t), "ecdsa": ecdsaKey(t)} {
		r, err := Open(t.Context(), repository(t, base(), k), trusting(t, "trusted", k))
		check(t, err)
		defer r.Close()
		files, done, c, err := merged(t, r, "FreeBSD-set-minimal-jail")
		check(t, err)
		if want := []string{"FreeBSD-clibs-15.0", "FreeBSD-runtime-15.0", "FreeBSD-set-minimal-jail-15.0"}; !r.Signed ||
			!slices.Equal(done.Packages, want) {
			t.Errorf("%s: %q %v", name, done.Packages, r.Signed)
		}
		if want := []string{"FreeBSD-runtime (post-install)"}; !slices.Equal(done.Scripts, want) {
			t.Errorf("scripts %q", done.Scripts)
		}
		if len(c.Missing) != 1 || !strings.Contains(c.Missing[0], "libgone.so.1, which FreeBSD-runtime-15.0 needs") {
			t.Errorf("missing: %q", c.Missing)
		}
		isBase(t, files)
	}
}

func isBase(t *testing.T, files map[string]*tar.Header) {
	t.Helper()
	want := []string{"bin", "bin/[", "bin/test", "etc/group", "etc/master.passwd", "lib/libc.so.7", "lib/libm.so.5",
		"sbin/shutdown", "tmp link", "var/games"}
	if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, want) {
		t.Fatalf("there is %q", got)
	}
	if h := files["sbin/shutdown"]; h.Uid != 0 || h.Gid != 5 || h.Mode != 0o4550 || h.Uname != "" {
		t.Errorf("%+v", h)
	}
	if h := files["var/games"]; h.Uid != 7 || h.Gid != 13 {
		t.Errorf("%+v", h)
	}
	if h := files["bin/["]; h.Typeflag != tar.TypeLink || h.Linkname != "bin/test" {
		t.Errorf("%+v", h)
	}
	if h := files["lib/libc.so.7"]; h.PAXRecords[flagsRecord] != "schg" {
		t.Errorf("%+v", h)
	}
	if h := files["tmp link"]; h.Typeflag != tar.TypeSymlink || h.Linkname != "bin/test" {
		t.Errorf("%+v", h)
	}
}

// Without a catalogue packages are taken as they lie there, the newest of each.
func TestDirectoryAndFiles(t *testing.T) {
	dir := t.TempDir()
	for _, p := range base() {
		p.write(t, dir)
	}
	older := base()[5]
	older.version, older.members = "14.9p10", []member{file("/usr/bin/old", "old")}
	older.write(t, dir)
	r, err := Open(t.Context(), dir, "")
	check(t, err)
	defer r.Close()
	files, _, _, err := merged(t, r, "FreeBSD-set-minimal-jail", "FreeBSD-clang")
	check(t, err)
	if files["usr/bin/cc"] == nil || files["usr/bin/old"] != nil || r.Signed {
		t.Errorf("%v", files)
	}
	if _, err := Open(t.Context(), dir, t.TempDir()); err == nil || !strings.Contains(err.Error(), "no packagesite.pkg") {
		t.Error(err)
	}
	few, err := OpenFiles(t.Context(), []string{filepath.Join(dir, "FreeBSD-runtime-15.0.pkg"),
		filepath.Join(dir, "FreeBSD-set-minimal-jail-15.0.pkg")})
	check(t, err)
	defer few.Close()
	_, done, c, err := merged(t, few)
	check(t, err)
	if len(done.Packages) != 2 || len(c.Missing) != 2 {
		t.Errorf("%q, missing: %q", done.Packages, c.Missing)
	}
	if _, err := Open(t.Context(), t.TempDir(), ""); err == nil {
		t.Error("an empty directory is a repository")
	}
}

func TestChoiceIsRefused(t *testing.T) {
	r, err := Open(t.Context(), repository(t, base()), "")
	check(t, err)
	defer r.Close()
	for names, want := range map[string]string{
		"":                       "the sets are FreeBSD-set-minimal-jail",
		"FreeBSD-runtme":         "did you mean FreeBSD-runtime?",
		"FreeBSD-kernel-generic": "host's kernel",
	} {
		if _, err := r.Choose(strings.FieldsFunc(names, func(c rune) bool { return c == ' ' }), "amd64"); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", names, err)
		}
	}
	if _, err := r.Choose([]string{"FreeBSD-runtime"}, "arm64"); err == nil || !strings.Contains(err.Error(),
		"is for FreeBSD:15:amd64, and the image for arm64") {
		t.Error(err)
	}
}

// What is not signed by a trusted key, or was changed since, is not taken.
func TestSignaturesAreVerified(t *testing.T) {
	good, other := rsaKey(t), ecdsaKey(t)
	dir := repository(t, base(), good)
	revoked := trusting(t, "trusted", good)
	addTrust(t, revoked, "revoked", good)
	refused := func(name, dir, prints, want string) {
		t.Helper()
		if r, err := Open(t.Context(), dir, prints); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v %v", name, r, err)
		}
	}
	refused("another key", dir, trusting(t, "trusted", other), "not signed by a trusted key")
	refused("a revoked key", dir, revoked, "was revoked")
	// Whichever of the two is looked at first.
	for _, bad := range []key{good, other} {
		both := trusting(t, "trusted", good, other)
		addTrust(t, both, "revoked", bad)
		refused("a revoked key beside a trusted one", repository(t, base(), good, other), both, bad.name+" of the catalogue")
	}
	refused("no keys", dir, t.TempDir(), "trusted")
	refused("not signed", repository(t, base()), trusting(t, "trusted", good), "is not signed")

	changed := good
	changed.sign = func([]byte) []byte { return good.sign([]byte("another sum")) }
	refused("changed", repository(t, base(), changed), trusting(t, "trusted", good), "the catalogue was changed")
	mixed := other // the signature of one key under the name of another
	mixed.public = good.public
	refused("another's signature", repository(t, base(), mixed), trusting(t, "trusted", good), "not valid")
	r, err := Open(t.Context(), repository(t, base(), other, good), trusting(t, "trusted", good))
	check(t, err) // one of two is trusted
	check(t, r.Close())
}

// A package that is not the one that the catalogue names is refused, whatever its own manifest says.
func TestPackagesAreVerified(t *testing.T) {
	dir := repository(t, base())
	r, err := Open(t.Context(), dir, "")
	check(t, err)
	defer r.Close()
	evil := base()[1]
	evil.members = append(evil.members, file("/bin/evil", "evil"))
	evil.write(t, dir)
	if _, _, _, err := merged(t, r, "FreeBSD-runtime"); err == nil || !strings.Contains(err.Error(), "fetch it again") {
		t.Error(err)
	}
}

// Packages that do not hold what they say, or lead elsewhere.
func TestHostilePackages(t *testing.T) {
	link := func(kind byte, name, to string) member {
		return member{tar.Header{Name: name, Typeflag: kind, Mode: 0o755}, to}
	}
	for want, p := range map[string]pkg{
		"manifest does not have it": {members: []member{file("/a", "x")}, change: func(m map[string]any) {
			m["files"] = map[string]any{}
		}},
		"of its manifest is missing": {change: func(m map[string]any) {
			m["files"] = map[string]any{"/a": map[string]any{"sum": "-"}}
		}},
		"not that of the package's manifest": {members: []member{file("/a", "x")}, change: func(m map[string]any) {
			m["files"] = map[string]any{"/a": map[string]any{"sum": "1$" + strings.Repeat("0", 64)}}
		}},
		"it leads to": {members: []member{link(tar.TypeSymlink, "/a", "/etc")}, change: func(m map[string]any) {
			m["files"] = map[string]any{"/a": map[string]any{"sum": "-", "symlink_target": "b"}}
		}},
		"is not one of a package":       {members: []member{file("/../etc/x", "x")}},
		`the path "etc/x" is not one`:   {members: []member{file("etc/x", "x")}},
		`the path "/../x" is not one`:   {members: []member{link(tar.TypeLink, "/a", "/../x")}},
		"it is there twice":             {members: []member{file("/a", "x"), file("/a", "x")}},
		`owner "mallory" is not in`:     {members: []member{{tar.Header{Name: "/a", Typeflag: tar.TypeReg, Uname: "mallory"}, ""}}},
		`members of the type '3'`:       {members: []member{link(tar.TypeChar, "/dev/mem", "")}},
		"the package FreeBSD-a has it":  {name: "FreeBSD-x", members: []member{file("/owned", "x")}},
		"and not FreeBSD-evil-1":        {change: func(m map[string]any) { m["name"] = "FreeBSD-other" }},
		"version \"../../1\" of":        {change: func(m map[string]any) { m["version"] = "../../1" }},
		"name \"../evil\" is not":       {change: func(m map[string]any) { m["name"] = "../evil" }},
		"is there twice":                {members: []member{file("+MANIFEST", "{}")}},
		"some programs take it for":     {change: func(m map[string]any) { m["Name"] = "FreeBSD-other" }},
		"FreeBSD-evil-1 is for \"x\"":   {abi: "x"},
		"and the image for amd64":       {abi: "FreeBSD:15:aarch64"},
		"a jail runs on the host's":     {name: "FreeBSD-kernel-x"},
		"has no package \"FreeBSD-no\"": {deps: []string{"FreeBSD-no"}},
	} {
		if p.name == "" {
			p.name = "FreeBSD-evil"
		}
		if p.abi == "" {
			p.abi = abi
		}
		p.version = "1"
		other := pkg{name: "FreeBSD-a", version: "1", abi: abi, members: []member{file("/owned", "x")}}
		r, err := Open(t.Context(), repository(t, []pkg{p, other}), "")
		check(t, err)
		if _, _, _, err := merged(t, r, p.name, other.name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		check(t, r.Close())
	}
}

// A sparse file takes as much as it says, and all files together are bounded.
func TestFilesAreBounded(t *testing.T) {
	m := &merger{out: tar.NewWriter(io.Discard), owners: map[string]string{}, size: maxUnpacked - 1,
		users: map[string]int{"root": 0}, groups: map[string]int{"wheel": 0}}
	write := func(name string, size int64) error {
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: size, Uname: "root", Gname: "wheel"}
		return m.write(&manifest{Name: "a"}, h, strings.NewReader("x"), map[string]content{name: {Sum: noSum}})
	}
	if err := write("/a", 2); err == nil || !strings.Contains(err.Error(), "more than 8GiB together") {
		t.Error(err)
	}
	if err := write("/b", 1); err != nil {
		t.Error(err)
	}
}

// A catalogue leads to files of its repository alone.
func TestHostileCatalogues(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret.pkg")
	check(t, os.WriteFile(secret, []byte("x"), 0o600))
	sum := strings.Repeat("a", 64)
	for text, want := range map[string]string{
		`{"name":"a","version":"1","abi":"FreeBSD:15:*","sum":"` + sum + `","repopath":"` + secret + `"}`: "the path of a-1 is",
		`{"name":"a","version":"1","abi":"FreeBSD:15:*","sum":"x","repopath":"a.pkg"}`:                    "of a kind that is not known",
		`{"name":"a","name":"b","version":"1"}`:                                                           "duplicate key",
		`{"name":"a`:                                                                                      "packagesite.yaml:1",
	} {
		dir := t.TempDir()
		check(t, os.WriteFile(filepath.Join(dir, catalogueFile), catalogue(t, text), 0o644))
		if r, err := Open(t.Context(), dir, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v %v", text, r, err)
		}
	}
	for name, to := range map[string]string{"out.pkg": secret, "../secret.pkg": ""} {
		dir := t.TempDir()
		if to != "" {
			check(t, os.Symlink(to, filepath.Join(dir, name)))
		}
		text := `{"name":"a","version":"1","abi":"FreeBSD:15:*","sum":"` + sum + `","repopath":"` + name + `"}`
		check(t, os.WriteFile(filepath.Join(dir, catalogueFile), catalogue(t, text), 0o644))
		r, err := Open(t.Context(), dir, "")
		check(t, err)
		if _, _, _, err := merged(t, r, "a"); err == nil || !strings.Contains(err.Error(), "escapes") {
			t.Errorf("%s: %v", name, err)
		}
		check(t, r.Close())
	}
}

// As pkg(8) 2.7 writes them for "prog" and "x".
func TestSums(t *testing.T) {
	for text, sums := range map[string][]string{
		"prog": {"2$9n9gypq7dmbehfcfqhwjqpgptfi5w6f1jhg3i94fy75jghzmbxyxsjoxwfttu4trpiere3mutfcaamxertdnypfzbugz85aie4n68pn",
			"1$3d1f2ae627a3560aebf3b9c4998e92b8dae4a19f350e6992e51513cb14fb113c"},
		"x": {"2$jenqd7p4tnrwh78fjeamaupf95jo1ez6jauwemztxdmfg47z9e1e3nniqaejgy5josbrpkgmk8xqmddyetd61bnh1tw1jdy9kha5yfy",
			"2D711642B726B04401627CA9FBAC32F5C8530FB1903CC4DB02258717921A4881"},
	} {
		for _, want := range sums {
			s, err := readSum(want)
			check(t, err)
			h, right := s.begin()
			_, err = io.WriteString(h, text)
			check(t, err)
			if !right() {
				t.Errorf("%s is not the sum of %q", want, text)
			}
			if h, right := s.begin(); right() {
				t.Errorf("%s is that of nothing: %x", want, h.Sum(nil))
			}
		}
	}
	for _, bad := range []string{"", "-", "3$aa", "2$", "1$", strings.Repeat("g", 64), "2$" + strings.Repeat("l", 103)} {
		if _, err := readSum(bad); err == nil {
			t.Errorf("%q is a sum", bad)
		}
	}
}

func TestVersions(t *testing.T) {
	list := []string{"14.3", "15.0", "15.0p1", "15.0p9", "15.0p10", "15.0.1", "15.1", "16.snap20260101", "16.snap20260102"}
	for i, a := range list {
		for j, b := range list {
			if got := newer(a, b); got != (i > j) {
				t.Errorf("%s newer than %s: %v", a, b, got)
			}
		}
	}
}
