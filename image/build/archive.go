package build

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/freejail/freejail/image"
)

// Archive makes an image with one layer of an archive (tar, also in gzip, zstd
// or xz), such as a FreeBSD distribution set. Of the options it takes Output,
// Store, Tag, Platform, Epoch, Progress and TempDir; the platform's default is
// FreeBSD's on this host's processor.
func Archive(ctx context.Context, file string, o Options) (_ *image.Image, err error) {
	if o.Output == "" && o.Store == nil {
		return nil, errNowhere
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil { // a link may lead elsewhere: the operator named it
		return nil, err
	}
	if o.Platform.OS == "" {
		o.Platform.OS = "freebsd"
	}
	o.Context = filepath.Dir(abs)
	b := newBuilder(o)
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.open(); err != nil {
		return nil, err
	}
	b.ignore = &ignorer{}
	name := filepath.Base(file)
	p := &planner{file: &File{Name: file, Instructions: []Instruction{{Verb: "FROM", Line: 1, Text: "scratch"}}}, platform: o.Platform}
	if err := p.plan(); err != nil {
		return nil, err
	}
	p.add(Instruction{Verb: "ADD", Line: 1, Text: name + " /"}, &copyStep{sources: []string{escapeGlob(filepath.Base(abs))}, dest: "/", unpack: true, strict: true})
	img, err := b.build(ctx, p)
	var at *Error
	if errors.As(err, &at) {
		err = at.Err // there is no Jailfile to point at
	}
	return img, err
}

var errNowhere = errors.New("there is neither an output nor a store for the image")

func escapeGlob(name string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(name)
}
