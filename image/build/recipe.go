package build

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// maxIncludes bounds how deep files include each other.
const maxIncludes = 16

// jailfile is the path of the file that is built.
func (b *builder) jailfile() string {
	if b.opts.File != "" {
		return b.opts.File
	}
	file := filepath.Join(b.opts.Context, DefaultFile)
	other := filepath.Join(b.opts.Context, BastilleFile)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(other); err == nil {
			return other
		}
	}
	return file
}

// readRecipe reads the file that is built, with what it includes. A Bastillefile
// gets the FROM that it lacks.
func (b *builder) readRecipe() (*File, error) {
	name := b.jailfile()
	bastille := b.opts.Bastille || filepath.Base(name) == BastilleFile
	if !bastille && b.opts.From != "" {
		return nil, fmt.Errorf("%s: a Jailfile says itself what it is FROM", name)
	}
	file, err := parseFile(name, bastille)
	if err != nil {
		return nil, err
	}
	for i := range file.Instructions {
		file.Instructions[i].dir = b.recipeDir(name, bastille)
	}
	if bastille {
		if b.opts.From == "" {
			return nil, fmt.Errorf("%s: a Bastillefile does not say what it builds on: give --from BASE, an archive, a layout or an image's name", name)
		}
		from := Instruction{Verb: "FROM", Line: 1, Text: quoted(b.opts.From)}
		file.Instructions = append([]Instruction{from}, file.Instructions...)
	}
	file.bastille = bastille
	file.Instructions = b.include(file, file.Instructions, 0)
	return file, nil
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func parseFile(name string, bastille bool) (_ *File, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if bastille {
		return ParseBastille(name, f)
	}
	return Parse(name, f)
}

// recipeDir is what a Bastillefile's sources are relative to: its own directory,
// if that is in the context.
func (b *builder) recipeDir(name string, bastille bool) string {
	context, err1 := filepath.Abs(b.opts.Context)
	dir, err2 := filepath.Abs(filepath.Dir(name))
	rel, err3 := filepath.Rel(context, dir)
	if !bastille || err1 != nil || err2 != nil || err3 != nil || !filepath.IsLocal(rel) {
		return ""
	}
	return filepath.ToSlash(rel)
}

// include puts the instructions of other files in the place of INCLUDE. What
// cannot be included stays, with the reason.
func (b *builder) include(file *File, list []Instruction, depth int) (out []Instruction) {
	for _, in := range list {
		if in.Verb != "INCLUDE" && in.Verb != "TEMPLATE" {
			out = append(out, in)
			continue
		}
		more, err := b.included(file, in, depth)
		if err != nil {
			in.fault = err
			more = []Instruction{in}
		}
		out = append(out, more...)
	}
	return out
}

func (b *builder) included(file *File, in Instruction, depth int) ([]Instruction, error) {
	if depth == maxIncludes {
		return nil, fmt.Errorf("files include each other more than %d deep", maxIncludes)
	}
	name, through, err := readInclude(in)
	if err != nil {
		return nil, err
	}
	at, err := b.findInclude(in, name)
	if err != nil {
		return nil, err
	}
	f, err := b.context.Open(at)
	if err != nil {
		return nil, contextError(at, err)
	}
	defer f.Close()
	parse, bastille := Parse, path.Base(at) == BastilleFile
	if bastille {
		parse = ParseBastille
	}
	other, err := parse(filepath.Join(b.opts.Context, filepath.FromSlash(at)), f)
	if err != nil {
		return nil, err
	}
	for i := range other.Instructions {
		o := &other.Instructions[i]
		if o.Verb == "FROM" {
			return nil, fmt.Errorf("%s has a FROM: only what follows one can be included", at)
		}
		o.file, o.through, o.dir = other.Name, through, path.Dir(at)
		if !bastille {
			o.dir = ""
		}
	}
	return b.include(other, other.Instructions, depth+1), nil
}

// readInclude reads a path and the --arg NAME=value after it.
func readInclude(in Instruction) (name string, through map[string]string, err error) {
	list, err := words(in.Text, func(name string) (string, error) { return "${" + name + "}", nil }) // for later
	if err != nil {
		return "", nil, err
	}
	name = list[0]
	switch {
	case strings.Contains(name, "://"):
		return "", nil, errors.New("nothing is fetched over the network: put the template into the context")
	case strings.Contains(name, "$"):
		return "", nil, errors.New("variables have no place in its path")
	case strings.HasPrefix(path.Clean(name), "../") || path.IsAbs(name):
		return "", nil, fmt.Errorf("%s leads out of the context", name)
	}
	through = map[string]string{}
	for i := 1; i < len(list); i++ {
		value := strings.TrimPrefix(list[i], "--arg=")
		if list[i] == "--arg" && i+1 < len(list) {
			i++
			value = list[i]
		} else if value == list[i] {
			return "", nil, fmt.Errorf("%q cannot be read: write %s", list[i], verbs[in.Verb].usage)
		}
		key, v, has := strings.Cut(value, "=")
		if !has {
			return "", nil, fmt.Errorf("--arg %s: want NAME=value", value)
		}
		through[key] = v
	}
	return name, through, nil
}

// findInclude looks beside the including file, then in the context.
func (b *builder) findInclude(in Instruction, name string) (string, error) {
	for _, at := range []string{path.Join(in.dir, name), path.Clean(name)} {
		fi, err := b.context.Stat(at)
		if err != nil {
			continue
		}
		if !fi.IsDir() {
			return at, nil
		}
		if _, err := b.context.Stat(path.Join(at, BastilleFile)); err == nil {
			return path.Join(at, BastilleFile), nil
		}
	}
	return "", fmt.Errorf("there is no %s in the context, nor a %s in such a directory: give the directory of all templates as the context, and -f for the one to build", name, BastilleFile)
}

// included is INCLUDE where it could not be read.
func included(_ *planner, in Instruction) error {
	if in.fault == nil {
		return errors.New("there is no context to include from")
	}
	return in.fault
}

// bastilleVerbs are the words of a Bastillefile and what they are here. CMD is a
// command in the jail there, and the image's program in a Jailfile.
var bastilleVerbs = map[string]string{
	"ARG": "ARG", "ARG+": "ARG+", "CMD": "RUN", "CONFIG": "CONFIG", "CP": "CP", "COPY": "CP", "OVERLAY": "OVERLAY",
	"FSTAB": "MOUNT", "MOUNT": "MOUNT", "INCLUDE": "INCLUDE", "TEMPLATE": "INCLUDE", "PKG": "PKG", "SYSRC": "SYSRC", "SERVICE": "SERVICE",
	"RENDER": "RENDER", "LIF": "LINE_IN_FILE", "LINEINFILE": "LINE_IN_FILE", "LINE_IN_FILE": "LINE_IN_FILE", "LIMITS": "LIMITS",
	"RDR": "RDR", "RESTART": "RESTART", "TAG": "TAGS", "TAGS": "TAGS",
}

// onHost are words of a Bastillefile that act on the host.
var onHost = []string{"HPKG", "HOSTCMD", "ZFS", "SETUP", "BOOTSTRAP", "CREATE", "DESTROY", "START", "STOP", "RENAME", "CLONE", "EXPORT", "UMOUNT", "NETWORK", "RCP", "JCP", "UPDATE", "UPGRADE", "ETCUPDATE", "EDIT", "CONSOLE", "MIGRATE"}

// ParseBastille reads a Bastillefile, as Bastille applies it to a jail. The name
// is for messages. Every unknown word is in the error, not only the first.
func ParseBastille(name string, r io.Reader) (*File, error) {
	p := &parser{file: &File{Name: name, bastille: true}, scan: bufio.NewScanner(r)}
	p.scan.Buffer(nil, maxLine)
	for {
		text, line, ok := p.logicalLine()
		if !ok {
			break
		}
		word, rest := cutBlank(text)
		verb := strings.ToUpper(word)
		known := bastilleVerbs[verb]
		switch {
		case slices.Contains(onHost, verb):
			p.fail(line, "", "%s acts on the host or on a jail that exists, and there is none while an image is built: remove it", word)
		case known == "":
			names := make([]string, 0, len(bastilleVerbs))
			for n := range bastilleVerbs {
				names = append(names, n)
			}
			slices.Sort(names)
			p.fail(line, "", "unknown instruction %q%s", word, suggest(verb, names))
		case rest == "" && !verbs[known].empty:
			p.fail(line, verb, "nothing follows it")
		default:
			p.file.Instructions = append(p.file.Instructions, Instruction{Verb: known, Line: line, Text: rest, recipe: true})
		}
	}
	if err := p.scan.Err(); err != nil {
		return nil, &Error{File: name, Line: p.line + 1, Err: err}
	}
	return p.file, errors.Join(p.errs...)
}
