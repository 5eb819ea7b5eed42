package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// maxEdited bounds a file that RENDER or LINE_IN_FILE changes.
const maxEdited = maxText

// renderStep is RENDER: ${NAME} in files of the image becomes the argument's
// value.
type renderStep struct {
	files   []string
	values  [][2]string // name and value, in the order in which they are replaced
	lenient bool        // a file that is missing is told, and no error
}

func (p *planner) render(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	s := &renderStep{lenient: in.recipe}
	if in.recipe {
		s.values = p.arguments(in)
	} else {
		known := p.known()
		for _, k := range slices.Sorted(maps.Keys(known)) {
			s.values = append(s.values, [2]string{k, known[k]})
		}
	}
	for _, name := range list {
		s.files = append(s.files, path.Join("/", name))
	}
	p.add(in, s)
	return p.charge(len(s.values) * wordCost)
}

func (s *renderStep) key(context.Context, *work) (any, error) {
	return struct {
		Files  []string
		Values [][2]string
	}{s.files, s.values}, nil
}

func (s *renderStep) replace(name string, text []byte) ([]byte, error) {
	out := string(text)
	for _, kv := range s.values {
		k, old, v := kv[0], "${"+kv[0]+"}", kv[1]
		// A value may have names of others in it, and so on.
		if more := len(v) - len(old); more > 0 && len(out)+strings.Count(out, old)*more > maxEdited {
			return nil, fmt.Errorf("/%s becomes larger than %d bytes by the value of %s", name, maxEdited, k)
		}
		out = strings.ReplaceAll(out, old, v)
	}
	if found := ofJails.FindString(out); found != "" {
		return nil, fmt.Errorf("/%s: %w", name, errOfJails(found))
	}
	return []byte(out), nil
}

func (s *renderStep) run(ctx context.Context, b *work) error {
	v, err := b.files(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, f := range s.files {
		at, n, missing, err := v.walk(f, true)
		switch {
		case err != nil:
			return err
		case len(missing) > 0 && s.lenient:
			b.warn("RENDER: %s is not in the image, so nothing is replaced", f)
		case len(missing) > 0:
			return fmt.Errorf("%s is not in the image", f)
		case n.kind == tar.TypeReg:
			names = append(names, at)
		default:
			names = append(names, filesBelow(at, n)...)
		}
	}
	return b.edit(ctx, names, func(name string, text []byte) ([]byte, error) { return s.replace(name, text) })
}

// filesBelow lists the regular files in a directory, without a repository's own.
func filesBelow(at string, n *node) (out []string) {
	for name, child := range n.names {
		switch p := path.Join(at, name); child.kind {
		case tar.TypeReg:
			out = append(out, p)
		case tar.TypeDir:
			if name != ".git" {
				out = append(out, filesBelow(p, child)...)
			}
		}
	}
	return out
}

// edit changes the text of files that are in the image. What stays the same is
// not in the layer.
func (b *work) edit(ctx context.Context, names []string, change func(name string, text []byte) ([]byte, error)) error {
	slices.Sort(names)
	names = slices.Compact(names)
	made, total := map[string][]byte{}, 0
	err := b.readFiles(ctx, names, func(name string, text []byte) error {
		changed, err := change(name, text)
		if err == nil && len(changed) > maxEdited {
			err = fmt.Errorf("/%s becomes larger than %d bytes", name, maxEdited)
		}
		if err != nil || string(changed) == string(text) {
			return err
		}
		if total += len(changed); total > maxRendered {
			return fmt.Errorf("the files that change have more than %d bytes together: name fewer", maxRendered)
		}
		made[name] = changed
		return nil
	})
	if err != nil {
		return err
	}
	if len(made) == 0 {
		return nil
	}
	return b.layer(ctx, b.view, func(w *writer) error {
		for _, name := range slices.Sorted(maps.Keys(made)) {
			n := w.view.get(name)
			h := tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: n.mode, Uid: n.uid, Gid: n.gid, ModTime: w.epoch,
				Size: int64(len(made[name]))}
			if err := w.keep(h, strings.NewReader(string(made[name]))); err != nil {
				return err
			}
		}
		return nil
	})
}

// lineStep is LINE_IN_FILE: the file has the line afterwards, at its end if it
// had not. A file that is not there is made.
type lineStep struct{ line, file string }

func (p *planner) lineInFile(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	if len(list) != 2 {
		return errUsage
	}
	if strings.Contains(list[0], "\n") || strings.HasSuffix(list[1], "/") {
		return errors.New("want one line, and the path of a file")
	}
	p.add(in, &lineStep{list[0], path.Join("/", list[1])})
	return nil
}

func (s *lineStep) key(context.Context, *work) (any, error) {
	return struct{ Line, File string }{s.line, s.file}, nil
}

func (s *lineStep) run(ctx context.Context, b *work) error {
	v, err := b.files(ctx)
	if err != nil {
		return err
	}
	at, n, missing, err := v.walk(s.file, true)
	switch {
	case err != nil:
		return err
	case len(missing) > 0:
		return s.make(ctx, b)
	case n.kind != tar.TypeReg:
		return fmt.Errorf("%s is not a file in the image", s.file)
	}
	return b.edit(ctx, []string{at}, func(_ string, text []byte) ([]byte, error) {
		if slices.Contains(strings.Split(string(text), "\n"), s.line) {
			return text, nil
		}
		if len(text) > 0 && text[len(text)-1] != '\n' {
			text = append(text, '\n')
		}
		return append(text, s.line+"\n"...), nil
	})
}

func (s *lineStep) make(ctx context.Context, b *work) error {
	return b.layer(ctx, b.view, func(w *writer) error {
		dir, err := w.view.dir(path.Dir(s.file), w.newDir)
		if err != nil {
			return err
		}
		at := path.Join(dir, path.Base(s.file))
		if err := checkName(at); err != nil {
			return err
		}
		text := s.line + "\n"
		return w.keep(tar.Header{Name: at, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: w.epoch,
			Size: int64(len(text))}, strings.NewReader(text))
	})
}
