package image

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
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
// root.
func ResolveUser(root, spec string) (Creds, error) {
	if spec == "" {
		spec = "0"
	}
	user, group, hasGroup := strings.Cut(spec, ":")
	r, err := os.OpenRoot(root)
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
			gid, err := strconv.ParseUint(g[2], 10, 32)
			if err == nil && len(g) > 3 && c.Name != "" && slices.Contains(strings.Split(g[3], ","), c.Name) {
				c.Groups = append(c.Groups, uint32(gid))
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
	gid, err := strconv.ParseUint(group, 10, 32)
	if err != nil {
		return Creds{}, fmt.Errorf("the image's /etc/group has no group %q", group)
	}
	c.GID = uint32(gid)
	return c, nil
}

func lookUser(r *os.Root, user string) (Creds, error) {
	users, err := table(r, "etc/passwd", 4)
	if err != nil {
		return Creds{}, err
	}
	for _, u := range users {
		if u[0] != user && u[2] != user {
			continue
		}
		uid, err1 := strconv.ParseUint(u[2], 10, 32)
		gid, err2 := strconv.ParseUint(u[3], 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return Creds{}, fmt.Errorf("the image's /etc/passwd: user %q: %w", user, err)
		}
		c := Creds{Name: u[0], UID: uint32(uid), GID: uint32(gid)}
		if len(u) > 5 {
			c.Home = u[5]
		}
		return c, nil
	}
	uid, err := strconv.ParseUint(user, 10, 32)
	if err != nil {
		return Creds{}, fmt.Errorf("the image's /etc/passwd has no user %q", user)
	}
	return Creds{UID: uint32(uid), GID: uint32(uid)}, nil
}

// table reads a file of lines with fields between colons; a missing one is
// empty, lines with fewer fields are passed over.
func table(r *os.Root, name string, fields int) ([][]string, error) {
	f, err := r.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the image's /%s: %w", name, err)
	}
	defer f.Close()
	var out [][]string
	sc := bufio.NewScanner(io.LimitReader(f, maxPasswd))
	for sc.Scan() {
		if p := strings.Split(sc.Text(), ":"); len(p) >= fields && !strings.HasPrefix(p[0], "#") {
			out = append(out, p)
		}
	}
	return out, sc.Err()
}
