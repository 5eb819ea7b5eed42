package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/freejail/freejail/internal/regular"
)

// jailfile finds the file that is built.
func (b *builder) jailfile() {
	b.recipe = b.opts.File
	if b.recipe != "" {
		return
	}
	names := []string{DefaultFile, ContainerFile, DockerFile, BastilleFile}
	if b.opts.From != "" || b.opts.Format == FormatBastille {
		names = []string{BastilleFile, DefaultFile} // the others have a FROM
	}
	b.recipe = filepath.Join(b.opts.Context, names[0])
	for _, name := range names {
		if _, err := b.context.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			b.recipe = filepath.Join(b.opts.Context, name)
			return
		}
	}
}

// recipeHome is what paths in the recipe are relative to.
func (b *builder) recipeHome() string {
	if b.recipe == Stdin {
		return b.opts.Context
	}
	return filepath.Dir(b.recipe)
}

// readRecipe reads the file that is built, with what it includes. A Bastillefile
// gets the FROM that it lacks.
func (b *builder) readRecipe(ctx context.Context) (*File, error) {
	b.jailfile()
	name := b.recipe
	bastille := b.opts.Format == FormatBastille || b.opts.Format == "" && filepath.Base(name) == BastilleFile
	if !bastille && b.opts.From != "" {
		return nil, fmt.Errorf("%s: --from is for a Bastillefile: a Jailfile has FROM", name)
	}
	file, err := b.parseFile(ctx, name, bastille)
	if bastille && b.opts.File == "" && errors.Is(err, fs.ErrNotExist) {
		if hooks, herr := b.readHooks(); hooks != nil || herr != nil {
			file, err = hooks, herr
		}
	}
	if err != nil {
		return nil, b.noRecipe(err)
	}
	for i := range file.Instructions {
		file.Instructions[i].dir = b.recipeDir(name, bastille)
	}
	if bastille {
		if b.opts.From == "" {
			return nil, fmt.Errorf("%s: a Bastillefile has no base image: give --from BASE, an archive, a layout or "+
				"an image's name", name)
		}
		from := Instruction{Verb: "FROM", Line: 1, Text: quoted(b.opts.From)}
		file.Instructions = append([]Instruction{from}, file.Instructions...)
	}
	file.bastille = bastille
	b.includes = &includer{builder: b, ctx: ctx, left: maxRecipes - int64(file.size)}
	if err := b.includes.count(file); err != nil {
		return nil, err
	}
	file.Instructions, err = b.includes.expand(file, file.Instructions)
	return file, err
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (b *builder) parseFile(ctx context.Context, name string, bastille bool) (_ *File, err error) {
	f, err := b.openRecipe(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if name == Stdin {
		name = "stdin"
	}
	if bastille {
		return ParseBastille(name, f)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxRecipe+1))
	if err != nil {
		return nil, err
	}
	if b.opts.Format == FormatContainerfile || b.opts.Format == "" && isContainerText(name, text) {
		return ParseContainerfile(name, bytes.NewReader(text))
	}
	return Parse(name, bytes.NewReader(text))
}

// noRecipe names what was looked for.
func (b *builder) noRecipe(err error) error {
	if b.opts.File == "" && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s has no %s, %s or %s: give one with -f: %w", b.opts.Context, DefaultFile, ContainerFile,
			DockerFile, err)
	}
	return err
}

// openRecipe opens the file that is built: within the context where it lies
// there, else where the operator says.
func (b *builder) openRecipe(ctx context.Context, name string) (io.ReadCloser, error) {
	if name == Stdin {
		return stdin(ctx)
	}
	if at, ok := b.inContext(name); ok {
		return b.spared(name)(b.openFile(at))
	}
	return b.spared(name)(regular.Open(name))
}

// stdin reads all of the standard input; what never ends does not keep a build
// that is cancelled.
func stdin(ctx context.Context) (io.ReadCloser, error) {
	type read struct {
		text []byte
		err  error
	}
	done := make(chan read, 1)
	go func() {
		text, err := regular.Read(os.Stdin, "the Jailfile", maxRecipe)
		done <- read{text, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-done:
		return io.NopCloser(bytes.NewReader(r.text)), r.err
	}
}

// recipeDir is what a Bastillefile's sources are relative to: its own directory,
// if that is in the context.
func (b *builder) recipeDir(name string, bastille bool) string {
	if at, ok := b.inContext(name); bastille && ok {
		return path.Dir(at)
	}
	return ""
}

// includer puts the instructions of other files in the place of INCLUDE.
type includer struct {
	*builder
	ctx          context.Context
	files        int
	left         int64 // bytes that recipes may still have
	instructions int
}

// expand puts the instructions of other Jailfiles in the place of INCLUDE; those of
// a Bastillefile, which has arguments of its own, are for the planner, and so is
// the reason why one cannot be followed. The error is for what is over a limit of
// all files together.
func (i *includer) expand(file *File, list []Instruction) (out []Instruction, err error) {
	for _, in := range list {
		if in.recipe || in.Verb != "INCLUDE" && in.Verb != "TEMPLATE" {
			out = append(out, in)
			continue
		}
		other, through, err := i.jailfilePart(in)
		var limit limitError
		if errors.As(err, &limit) {
			return nil, file.fault(in, err)
		}
		if err != nil || other == nil {
			in.fault = err
			out = append(out, in)
			continue
		}
		for n := range other.Instructions {
			other.Instructions[n].through = through
		}
		more, err := i.expand(other, other.Instructions)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// jailfilePart is nil for a Bastillefile.
func (i *includer) jailfilePart(in Instruction) (*File, map[string]string, error) {
	list, err := words(in.Text, func(name string) (string, error) { return "${" + name + "}", nil }) // for later
	if err != nil {
		return nil, nil, err
	}
	name, through, err := readInclude(in, list)
	if err != nil {
		return nil, nil, err
	}
	if strings.Contains(name, "$") {
		return nil, nil, errors.New("variables are not supported in its path")
	}
	at, err := i.findInclude(in, name)
	if err != nil || path.Base(at) == BastilleFile {
		return nil, nil, err
	}
	other, err := i.follow(in, name)
	return other, through, err
}

// over tells which limit of all files together is passed.
func (i *includer) over() error {
	var err error
	switch {
	case i.files > maxIncluded:
		err = fmt.Errorf("more than %d files are included", maxIncluded)
	case i.left < 0:
		err = fmt.Errorf("with the files that are included there are more than %d bytes", maxRecipes)
	case i.instructions > maxInstructions:
		err = fmt.Errorf("with the files that are included there are more than %d instructions", maxInstructions)
	default:
		err = i.ctx.Err()
	}
	if err != nil {
		return limitError{err}
	}
	return nil
}

// count names the instruction with which there are too many.
func (i *includer) count(file *File) error {
	n := len(file.Instructions)
	if more := i.instructions + n - maxInstructions; more > 0 {
		i.instructions += n
		return file.fault(file.Instructions[n-more], i.over())
	}
	i.instructions += n
	return nil
}

// follow reads the file that an INCLUDE names.
func (i *includer) follow(in Instruction, name string) (*File, error) {
	if in.depth == maxIncludes {
		return nil, fmt.Errorf("files include each other more than %d deep", maxIncludes)
	}
	at, err := i.findInclude(in, name)
	if err != nil {
		return nil, err
	}
	f, fi, err := i.openFile(at)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	i.files, i.left = i.files+1, i.left-fi.Size()
	if err := i.over(); err != nil {
		return nil, err
	}
	parse, bastille := Parse, path.Base(at) == BastilleFile
	if bastille {
		parse = ParseBastille
	}
	other, err := parse(filepath.Join(i.opts.Context, filepath.FromSlash(at)), f)
	if err != nil {
		return nil, err
	}
	for n := range other.Instructions {
		o := &other.Instructions[n]
		if o.Verb == "FROM" {
			return nil, fmt.Errorf("%s has a FROM: only what follows one can be included", at)
		}
		o.file, o.dir, o.depth = other.Name, path.Dir(at), in.depth+1
		if !bastille {
			o.dir = ""
		}
	}
	return other, i.count(other)
}

// hosted is the address of a template, as Bastille fetches it: it lies in a
// directory of its owner and its name then.
var hosted = regexp.MustCompile(`^https?://[^/]+/([^/]+)/([^/]+?)(?:\.git)?/?$`)

// readInclude reads a path and the --arg NAME=value after it.
func readInclude(in Instruction, list []string) (name string, through map[string]string, err error) {
	if len(list) == 0 {
		return "", nil, errUsage
	}
	name = list[0]
	if !strings.Contains(name, "://") && (strings.HasPrefix(path.Clean(name), "../") || path.IsAbs(name)) {
		return "", nil, fmt.Errorf("%s leads out of the context", name)
	}
	through = map[string]string{}
	for i := 1; i < len(list); i++ {
		value := strings.TrimPrefix(list[i], "--arg=")
		if list[i] == "--arg" && i+1 < len(list) {
			i++
			value = list[i]
		} else if value == list[i] {
			return "", nil, fmt.Errorf("invalid argument %q: write %s", list[i], verbs[in.Verb].usage)
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
	if strings.Contains(name, "://") {
		return b.findHosted(name)
	}
	for _, at := range []string{path.Join(in.dir, name), path.Clean(name)} {
		fi, err := b.context.Stat(at)
		if nowhere(err) {
			continue
		}
		if err != nil {
			return "", contextError(at, err)
		}
		if !fi.IsDir() {
			return at, nil
		}
		if _, err := b.context.Stat(path.Join(at, BastilleFile)); err == nil {
			return path.Join(at, BastilleFile), nil
		}
	}
	return "", fmt.Errorf("no such file %s in the context, and no %s in such a directory: give the directory of all "+
		"templates as the context, and -f for the one to build", name, BastilleFile)
}

// findHosted looks for a copy of a template that has an address.
func (b *builder) findHosted(name string) (string, error) {
	m := hosted.FindStringSubmatch(name)
	if m == nil || m[1] == ".." || m[2] == ".." {
		return "", fmt.Errorf("nothing is fetched over the network: put the template into the context, and name its " +
			"directory")
	}
	at := path.Join(m[1], m[2], BastilleFile)
	if _, err := b.context.Stat(at); err != nil {
		if nowhere(err) {
			err = fmt.Errorf("nothing is fetched over the network: give the directory of all templates as the "+
				"context, with a copy of this one in %s: `git clone %s %s`", path.Dir(at), name, path.Dir(at))
		}
		return "", err
	}
	return at, nil
}

// bastilleVerbs are the words of a Bastillefile and what they are here. CMD is a
// command in the jail there, and the image's program in a Jailfile.
var bastilleVerbs = map[string]string{
	"ARG": "ARG", "ARG+": "ARG+", "CMD": "RUN", "CONFIG": "CONFIG", "CP": "CP", "COPY": "CP", "OVERLAY": "OVERLAY",
	"FSTAB": "MOUNT", "MOUNT": "MOUNT", "INCLUDE": "INCLUDE", "TEMPLATE": "INCLUDE", "PKG": "PKG", "SYSRC": "SYSRC",
	"SERVICE": "SERVICE",
	"RENDER":  "RENDER", "LIF": "LINE_IN_FILE", "LINEINFILE": "LINE_IN_FILE", "LINE_IN_FILE": "LINE_IN_FILE",
	"LIMITS": "LIMITS",
	"RDR":    "RDR", "RESTART": "RESTART", "TAG": "TAGS", "TAGS": "TAGS", "HPKG": "PKG",
}

// onHost are words of a Bastillefile that act on the host.
var onHost = []string{"HOSTCMD", "ZFS", "SETUP", "BOOTSTRAP", "CREATE", "DESTROY", "START", "STOP", "RENAME",
	"CLONE", "EXPORT", "UMOUNT", "NETWORK", "RCP", "JCP", "UPDATE", "UPGRADE", "ETCUPDATE", "EDIT", "CONSOLE",
	"MIGRATE"}

// ParseBastille reads a Bastillefile, as Bastille applies it to a jail. The name
// is for messages. Every unknown word is in the error, not only the first.
func ParseBastille(name string, r io.Reader) (*File, error) {
	p := newParser(name, r)
	p.file.bastille = true
	for {
		text, line, ok := p.recipeLine()
		if !ok {
			break
		}
		word, rest := cutBlank(text)
		verb := strings.ToUpper(word)
		known := bastilleVerbs[verb]
		switch {
		case slices.Contains(onHost, verb):
			p.fail(line, "", "%s acts on the host or on a jail that exists, and there is none while an image is "+
				"built: remove it", word)
		case known == "":
			names := make([]string, 0, len(bastilleVerbs))
			for n := range bastilleVerbs {
				names = append(names, n)
			}
			slices.Sort(names)
			p.fail(line, "", "unknown instruction %q%s", word, suggest(verb, names))
		case rest == "" && !verbs[known].empty:
			p.fail(line, verb, "missing argument")
		default:
			p.file.Instructions = append(p.file.Instructions,
				Instruction{Verb: known, Line: line, Text: rest, recipe: true, word: verb})
		}
	}
	return p.file, p.end()
}

// recipeLine joins lines as Bastille does: a backslash takes the next line, also one
// that is empty or a comment, and only then comments are passed over.
func (p *parser) recipeLine() (text string, line int, ok bool) {
	for {
		var b strings.Builder
		continued := true
		for line = p.line + 1; continued; {
			s, more := p.physicalLine()
			if !more {
				if b.Len() == 0 {
					return "", line, false
				}
				break
			}
			s, continued = strings.CutSuffix(strings.TrimRight(s, " \t"), `\`)
			if b.WriteString(s); b.Len() > maxLine {
				p.stop("the instruction has more than %d bytes", maxLine)
			}
		}
		text = strings.TrimSpace(b.String())
		if text != "" && text[0] != '#' {
			return text, line, true
		}
	}
}
