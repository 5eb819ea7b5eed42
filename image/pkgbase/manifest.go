package pkgbase

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/freejail/freejail/internal/strictjson"
)

// Bounds of what is read. All packages of FreeBSD 15.1 together have about 3 MB of compact
// manifests; the largest of one has some 30,000 files.
const (
	maxCatalogue = 256 << 20 // bytes, of the catalogue
	maxManifest  = 64 << 20  // bytes, of one package
	maxPackages  = 20000
)

var manifestRules = strictjson.Rules{Bytes: maxManifest, Values: 4 << 20}

// manifest is what this needs of a package's own one (+MANIFEST), and of its line in a
// catalogue, which has no files but where the package lies.
type manifest struct {
	Name       string                `json:"name"`
	Version    string                `json:"version"`
	ABI        string                `json:"abi"`
	Path       string                `json:"repopath"`
	Sum        string                `json:"sum"`
	Deps       map[string]dependency `json:"deps"`
	Needs      []string              `json:"shlibs_required"`
	Gives      []string              `json:"shlibs_provided"`
	Requires   []string              `json:"requires"`
	Provides   []string              `json:"provides"`
	Scripts    map[string]string     `json:"scripts"`
	LuaScripts map[string][]string   `json:"lua_scripts"`
	Files      map[string]content    `json:"files"`

	sum sum // of the file, where a catalogue names it
}

type dependency struct {
	Version string `json:"version"`
}

// content is what a manifest says of a file.
type content struct {
	Sum  string `json:"sum"`
	Link string `json:"symlink_target"`
}

// UnmarshalJSON also takes the form of older versions of pkg(8), the sum alone.
func (c *content) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &c.Sum)
	}
	type plain content
	return json.Unmarshal(b, (*plain)(c))
}

var (
	packageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,199}$`)
	versionText = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._,+]{0,99}$`)
)

func readManifest(text []byte) (*manifest, error) {
	m := &manifest{}
	if err := strictjson.Unmarshal(text, m, manifestRules); err != nil {
		return nil, err
	}
	if !packageName.MatchString(m.Name) {
		return nil, fmt.Errorf("name %q is not one of a package", m.Name)
	}
	if !versionText.MatchString(m.Version) {
		return nil, fmt.Errorf("version %q of %s is not one of a package", m.Version, m.Name)
	}
	files := make(map[string]content, len(m.Files))
	for name, c := range m.Files {
		plain, err := url.PathUnescape(name)
		if err != nil {
			return nil, fmt.Errorf("file %q: %w", name, err)
		}
		files[plain] = c
	}
	m.Files = files
	return m, nil
}

func (m *manifest) String() string { return m.Name + "-" + m.Version }

// scripts are the names of the programs that pkg(8) would run when it installs the package.
func (m *manifest) scripts() []string {
	var names []string
	for _, name := range slices.Concat(slices.Collect(maps.Keys(m.Scripts)), slices.Collect(maps.Keys(m.LuaScripts))) {
		if !strings.Contains(name, "deinstall") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// architectures are FreeBSD's names of them, by those of images.
var architectures = map[string]string{"amd64": "amd64", "aarch64": "arm64", "armv7": "arm", "i386": "386",
	"riscv64": "riscv64", "powerpc64": "ppc64", "powerpc64le": "ppc64le"}

// fits tells whether a package is for an architecture, as images name it.
func (m *manifest) fits(arch string) error {
	parts := strings.Split(m.ABI, ":")
	if len(parts) < 3 || !strings.EqualFold(parts[0], "freebsd") {
		return fmt.Errorf("%s is for %q, not for FreeBSD", m, m.ABI)
	}
	if own := architectures[parts[2]]; parts[2] != "*" && own != arch {
		return fmt.Errorf("%s is for %s, and the image for %s: see --platform", m, m.ABI, arch)
	}
	return nil
}

// newer compares versions as far as those of one package of the base system need: 15.0 < 15.0p1 < 15.0p10 < 15.1.
func newer(a, b string) bool {
	x, y := versionParts(a), versionParts(b)
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return later(x[i], y[i])
		}
	}
	return len(x) > len(y)
}

var versionPart = regexp.MustCompile(`[0-9]+|[A-Za-z]+`)

func versionParts(v string) []string { return versionPart.FindAllString(v, -1) }

func later(a, b string) bool {
	numeric := func(s string) bool { return s[0] >= '0' && s[0] <= '9' }
	if numeric(a) != numeric(b) {
		return numeric(a) // a further number, against the letters of a patch or a snapshot
	}
	if !numeric(a) {
		return a > b
	}
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) > len(b)
	}
	return a > b
}
