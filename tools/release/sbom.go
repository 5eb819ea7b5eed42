package main

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdxlib"
)

const (
	module  = "github.com/freejail/freejail"
	license = "BSD-2-Clause"
	unknown = "NOASSERTION" // nobody has looked
)

// sbom writes what an archive's programs are made of, as the go command has noted it in them: SPDX 2.3.
func (r *release) sbom(p platform, name string) error {
	archive := name + ".tar.gz"
	sum, _, err := fileSum(filepath.Join(r.out, archive))
	if err != nil {
		return err
	}
	b := bill{version: r.version, doc: &spdx.Document{SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense,
		SPDXIdentifier: "DOCUMENT", DocumentName: name,
		// It has to be another for every other document; nothing need be found there.
		DocumentNamespace: "https://spdx.org/spdxdocs/" + name + "-" + sum,
		CreationInfo: &spdx.CreationInfo{Created: r.date.Format("2006-01-02T15:04:05Z"),
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "freejail-release-" + r.version}}}}}
	b.archive(archive, sum)
	for _, program := range []string{"freejail", "freejail-build"} {
		if err := b.program(program, filepath.Join(r.work, p.String(), program)); err != nil {
			return err
		}
	}
	return b.write(filepath.Join(r.out, name+".spdx.json"))
}

// bill is an SBOM in the making.
type bill struct {
	version string
	doc     *spdx.Document
}

func (b *bill) relate(from common.ElementID, how string, to common.ElementID) {
	b.doc.Relationships = append(b.doc.Relationships, &spdx.Relationship{RefA: common.DocElementID{ElementRefID: from},
		Relationship: how, RefB: common.DocElementID{ElementRefID: to}})
}

// add adds a package, once, and gives its id.
func (b *bill) add(p *spdx.Package) common.ElementID {
	p.PackageSPDXIdentifier = elementID(p.PackageName, p.PackageVersion)
	known := func(o *spdx.Package) bool { return o.PackageSPDXIdentifier == p.PackageSPDXIdentifier }
	if !slices.ContainsFunc(b.doc.Packages, known) {
		p.PackageLicenseConcluded, p.PackageCopyrightText = unknown, unknown
		if p.PackageLicenseDeclared == "" {
			p.PackageLicenseDeclared = unknown
		}
		if p.PackageDownloadLocation == "" {
			p.PackageDownloadLocation = unknown
		}
		b.doc.Packages = append(b.doc.Packages, p)
	}
	return p.PackageSPDXIdentifier
}

var notInID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func elementID(parts ...string) common.ElementID {
	return common.ElementID(strings.Trim(notInID.ReplaceAllString(strings.Join(parts, "-"), "-"), "-"))
}

const archiveID = common.ElementID("archive")

func (b *bill) archive(file, sum string) {
	b.doc.Packages = append(b.doc.Packages, &spdx.Package{PackageName: "freejail", PackageSPDXIdentifier: archiveID,
		PackageVersion: b.version, PackageFileName: file, PackageDownloadLocation: unknown,
		PackageLicenseConcluded: license, PackageLicenseDeclared: license, PackageCopyrightText: unknown,
		PrimaryPackagePurpose: "ARCHIVE", PackageExternalReferences: purl(module, b.version),
		PackageChecksums: []common.Checksum{{Algorithm: common.SHA256, Value: sum}}})
	b.relate("DOCUMENT", common.TypeRelationshipDescribe, archiveID)
}

// program adds a program of the archive and the modules that are linked into it.
func (b *bill) program(name, file string) error {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return err
	}
	if info.Main.Path != module {
		return fmt.Errorf("%s is a program of %s", name, info.Main.Path)
	}
	sum, _, err := fileSum(file)
	if err != nil {
		return err
	}
	id := b.add(&spdx.Package{PackageName: "bin/" + name, PackageVersion: b.version,
		PackageFileName: "bin/" + name, PrimaryPackagePurpose: "APPLICATION", PackageLicenseDeclared: license,
		PackageChecksums: []common.Checksum{{Algorithm: common.SHA256, Value: sum}}})
	b.relate(archiveID, common.TypeRelationshipContains, id)
	std := b.add(&spdx.Package{PackageName: "stdlib", PackageVersion: strings.TrimPrefix(info.GoVersion, "go"),
		PrimaryPackagePurpose: "LIBRARY", PackageLicenseDeclared: "BSD-3-Clause",
		PackageExternalReferences: purl("stdlib", strings.TrimPrefix(info.GoVersion, "go"))})
	b.relate(id, "STATIC_LINK", std)
	for _, m := range info.Deps {
		b.relate(id, "STATIC_LINK", b.module(m))
	}
	return nil
}

func (b *bill) module(m *debug.Module) common.ElementID {
	if m.Replace != nil {
		m = m.Replace
	}
	return b.add(&spdx.Package{PackageName: m.Path, PackageVersion: m.Version, PrimaryPackagePurpose: "LIBRARY",
		PackageComment: "go.sum: " + m.Sum, PackageExternalReferences: purl(m.Path, m.Version)})
}

// purl names a Go module as scanners look for it: https://github.com/package-url/purl-spec.
func purl(path, version string) []*spdx.PackageExternalReference {
	return []*spdx.PackageExternalReference{{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL,
		Locator: "pkg:golang/" + path + "@" + strings.ReplaceAll(version, "+", "%2B")}}
}

// write writes the document and reads it back.
func (b *bill) write(file string) error {
	var text bytes.Buffer
	if err := spdxjson.Write(b.doc, &text, spdxjson.Indent("  ")); err != nil {
		return err
	}
	read, err := spdxjson.Read(bytes.NewReader(text.Bytes()))
	if err != nil {
		return err
	}
	if err := spdxlib.ValidateDocument(read); err != nil {
		return err
	}
	return os.WriteFile(file, text.Bytes(), 0o644)
}
