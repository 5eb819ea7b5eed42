package image

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/regular"
)

// Creds are the numbers of a user in an image.
type Creds struct {
	Name     string
	Home     string
	UID, GID uint32
	Groups   []uint32
}

// maxPasswd bounds what is read of an image's passwd and group.
const maxPasswd = 4 << 20

// ResolveUser finds "user", "user:group", or numbers, in the image's own
// passwd and group; links that lead out of root are not followed. Empty is
// root. A number that passwd does not have is in group 0, as with other
// container runtimes.
func ResolveUser(root, spec string) (Creds, error) {
	if spec == "" {
		spec = "0"
	}
	user, group, hasGroup := strings.Cut(spec, ":")
	r, err := regular.Root(root)
	if err != nil {
		return Creds{}, err
	}
	defer r.Close()
	c, err := lookUser(r, user)
	if err != nil {
		return Creds{}, err
	}
	groups, err := table(r, "etc/group", 3)
	if err != nil {
		return Creds{}, err
	}
	if !hasGroup {
		for _, g := range groups {
			gid, err := number(g[2])
			if err == nil && len(g) > 3 && c.Name != "" && slices.Contains(strings.Split(g[3], ","), c.Name) {
				c.Groups = append(c.Groups, gid)
			}
		}
		return c, nil
	}
	for _, g := range groups {
		if g[0] == group {
			group = g[2]
			break
		}
	}
	if c.GID, err = number(group); err != nil {
		return Creds{}, fmt.Errorf("the image's /etc/group has no group %q", group)
	}
	return c, nil
}

func lookUser(r *os.Root, user string) (Creds, error) {
	users, err := table(r, "etc/passwd", 4)
	if err != nil {
		return Creds{}, err
	}
	i := slices.IndexFunc(users, func(u []string) bool { return u[0] == user })
	if i < 0 { // a name goes before a number that looks the same
		i = slices.IndexFunc(users, func(u []string) bool { return u[2] == user })
	}
	if i >= 0 {
		u := users[i]
		uid, err1 := number(u[2])
		gid, err2 := number(u[3])
		if err := errors.Join(err1, err2); err != nil {
			return Creds{}, fmt.Errorf("the image's /etc/passwd: user %q: %w", user, err)
		}
		c := Creds{Name: u[0], UID: uid, GID: gid}
		if len(u) > 5 {
			c.Home = u[5]
		}
		return c, nil
	}
	uid, err := number(user)
	if err != nil {
		return Creds{}, fmt.Errorf("the image's /etc/passwd has no user %q", user)
	}
	return Creds{UID: uid}, nil
}

// maxNames is more than a number needs.
const maxNames = 64

// UserNames are the names that an image's own passwd has for a user's number.
func UserNames(root string, uid uint32) (out []string, err error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	users, err := table(r, "etc/passwd", 4)
	for _, u := range users {
		if n, err := number(u[2]); err == nil && n == uid {
			out = append(out, u[0])
		}
	}
	if len(out) > maxNames {
		return nil, fmt.Errorf("the image's /etc/passwd has %d names for user %d; %d is the most", len(out), uid, maxNames)
	}
	return out, err
}

// number reads a user or group number. The last one means "leave as it is" to
// the system calls that set it, so a process would stay root.
func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == math.MaxUint32 {
		err = fmt.Errorf("%s is no valid number of a user or group", s)
	}
	return uint32(n), err
}

// table reads a file of lines with fields between colons; a missing one is
// empty, lines with fewer fields are passed over.
func table(r *os.Root, name string, fields int) (out [][]string, err error) {
	f, size, err := openFollowing(r, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && size > maxPasswd {
		err = errors.Join(fmt.Errorf("%d bytes are over the limit of %d", size, maxPasswd), f.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("the image's /%s: %w", name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sc := bufio.NewScanner(io.LimitReader(f, maxPasswd))
	sc.Buffer(nil, maxPasswd)
	for sc.Scan() {
		if p := strings.Split(sc.Text(), ":"); len(p) >= fields && !strings.HasPrefix(p[0], "#") {
			out = append(out, p)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("the image's /%s: %w", name, err)
	}
	return out, nil
}

// openFollowing opens a file as a process with that root would: absolute links
// mean the root, and none leads out of it.
func openFollowing(r *os.Root, name string) (file *os.File, size int64, err error) {
	t, err := newTree(r, nil)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	for range maxLinks {
		f, base, st, err := t.cur.lookup(name)
		if err != nil {
			return nil, 0, err
		}
		if !isType(&st, unix.S_IFLNK) {
			return openRegular(r, f.join(base))
		}
		to, err := readlinkAt(f.fd, base)
		if err != nil {
			return nil, 0, err
		}
		if name = to; !path.IsAbs(to) {
			name = f.path + "/" + to // not cleaned: a link may stand before a ..
		}
	}
	return nil, 0, errors.New("too many symbolic links")
}
