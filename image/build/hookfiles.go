package build

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
)

// hookFiles are what templates of Bastille were made of before there were
// Bastillefiles, in the order in which they are applied, and what a line of each
// is in a Bastillefile.
var hookFiles = []struct{ name, before, after string }{
	{"ARG", "ARG ", ""}, {"LIMITS", "LIMITS ", ""}, {"INCLUDE", "INCLUDE ", ""}, {"PRE", "CMD ", ""},
	{"FSTAB", "MOUNT ", ""}, {"PF", "RDR ", ""}, {"PKG", "PKG ", ""}, {"OVERLAY", "CP ", " /"},
	{"CONFIG", "CP ", " /"}, {"SYSRC", "SYSRC ", ""}, {"SERVICE", "SERVICE ", ""}, {"CMD", "CMD ", ""},
	{"RENDER", "RENDER ", ""},
}

// readHooks reads the files of such a template, which are in the context. It is
// nil if there are none.
func (b *builder) readHooks() (*File, error) {
	all := &File{Name: filepath.Join(b.opts.Context, BastilleFile), bastille: true}
	var errs []error
	for _, h := range hookFiles {
		fi, err := b.context.Lstat(h.name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && fi.IsDir() {
			continue
		}
		f, err := b.readHook(h.name, h.before, h.after)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all.Instructions, all.size = append(all.Instructions, f.Instructions...), all.size+f.size
	}
	if len(all.Instructions) == 0 {
		return nil, errors.Join(errs...)
	}
	return all, errors.Join(errs...)
}

// readHook makes a Bastillefile of a hook's file, line by line.
func (b *builder) readHook(name, before, after string) (file *File, err error) {
	f, _, err := b.openFile(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var text strings.Builder
	lines := bufio.NewScanner(io.LimitReader(f, maxRecipe))
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" && line[0] != '#' {
			fmt.Fprintf(&text, "%s%s%s", before, line, after)
		}
		text.WriteByte('\n')
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	file, err = ParseBastille(filepath.Join(b.opts.Context, name), strings.NewReader(text.String()))
	for i := range file.Instructions {
		file.Instructions[i].file = file.Name
	}
	return file, err
}
