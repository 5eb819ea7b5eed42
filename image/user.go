package image

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/freejail/freejail/internal/regular"
)

// Creds are the numbers of a user in an image.
type Creds struct {
	Name     string
	Home     string
	Shell    string
	UID, GID uint32
	Groups   []uint32

	names []string // that passwd has for the number: those that may be, and one more at most
}

// maxPasswd bounds what is read of an image's passwd and group.
const maxPasswd = 4 << 20

// ResolveUser finds "user", "user:group", or numbers, in the image's own
// passwd and group; links that lead out of root are not followed. An empty user is
// root, an empty group none. A number that passwd does not have is in group 0, as with other
// container runtimes.
func ResolveUser(root, spec string) (Creds, error) {
	user, group, _ := strings.Cut(spec, ":")
	user = cmp.Or(user, "0")
	r, err := regular.Root(root)
	if err != nil {
		return Creds{}, err
	}
	defer r.Close()
	c, err := lookUser(r, user)
	if err != nil {
		return Creds{}, err
	}
	if group != "" {
		c.GID, err = lookGroup(r, group)
	} else if c.Name != "" {
		c.Groups, err = groupsOf(r, c.Name)
	}
	return c, err
}

func lookGroup(r *os.Root, group string) (uint32, error) {
	found := ""
	groups, err := readUsers(r, "etc/group")
	if err == nil {
		err = groups.each(3, func(g []string) {
			if found == "" && g[0] == group {
				found = g[2]
			}
		})
	}
	if err != nil {
		return 0, err
	}
	gid, err := number(cmp.Or(found, group))
	if err != nil {
		return 0, fmt.Errorf("the image's /etc/group has no group %q", group)
	}
	return gid, nil
}

// maxGroups is what FreeBSD lets a process have beside its first: NGROUPS_MAX of
// sys/syslimits.h.
const maxGroups = 1023

func groupsOf(r *os.Root, user string) (out []uint32, err error) {
	groups, err := readUsers(r, "etc/group")
	if err != nil {
		return nil, err
	}
	err = groups.each(4, func(g []string) {
		gid, err := number(g[2])
		if err == nil && len(out) <= maxGroups && slices.Contains(strings.Split(g[3], ","), user) {
			out = append(out, gid)
		}
	})
	if err == nil && len(out) > maxGroups {
		err = fmt.Errorf("the image's /etc/group has user %q in more than %d groups", user, maxGroups)
	}
	return out, err
}

func lookUser(r *os.Root, user string) (c Creds, err error) {
	passwd, err := readUsers(r, "etc/passwd")
	if err != nil {
		return c, err
	}
	var byName, byNumber []string
	err = passwd.each(4, func(u []string) {
		if byName == nil && u[0] == user {
			byName = u
		}
		if byNumber == nil && u[2] == user {
			byNumber = u
		}
	})
	if err != nil {
		return c, err
	}
	u := byName
	if u == nil { // a name goes before a number that looks the same
		u = byNumber
	}
	if u != nil {
		c, err = credsOf(u)
	} else if c.UID, err = number(user); err != nil {
		err = fmt.Errorf("the image's /etc/passwd has no user %q", user)
	}
	if err != nil {
		return Creds{}, err
	}
	err = passwd.each(4, func(u []string) {
		if have, err := number(u[2]); err == nil && have == c.UID && len(c.names) <= maxNames {
			c.names = append(c.names, u[0])
		}
	})
	return c, err
}

// credsOf are those of a line of passwd.
func credsOf(u []string) (Creds, error) {
	uid, err1 := number(u[2])
	gid, err2 := number(u[3])
	if err := errors.Join(err1, err2); err != nil {
		return Creds{}, fmt.Errorf("the image's /etc/passwd: user %q: %w", u[0], err)
	}
	c := Creds{Name: u[0], UID: uid, GID: gid}
	if len(u) > 5 {
		c.Home = u[5]
	}
	if len(u) > 6 {
		c.Shell = u[6]
	}
	return c, nil
}

// maxNames is more than a number needs.
const maxNames = 64

// Names are those that the image's own passwd had for the user's number, when the user was resolved.
func (c Creds) Names() ([]string, error) {
	if len(c.names) > maxNames {
		return nil, fmt.Errorf("the image's /etc/passwd has more than %d names for user %d", maxNames, c.UID)
	}
	return c.names, nil
}

// number reads a user or group number. The last one means "leave as it is" to
// the system calls that set it, so a process would stay root.
func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == math.MaxUint32 {
		err = fmt.Errorf("%s is not a valid user or group ID", s)
	}
	return uint32(n), err
}

// users are a file of lines with fields between colons.
type users struct {
	name string
	text []byte
}

// readUsers reads such a file of an image, once; a missing one is empty.
func readUsers(r *os.Root, name string) (users, error) {
	f, _, err := regular.OpenRooted(r, name)
	if errors.Is(err, fs.ErrNotExist) {
		return users{name: name}, nil
	}
	if err != nil {
		return users{}, fmt.Errorf("the image's /%s: %w", name, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPasswd+1))
	if err = errors.Join(err, f.Close()); err == nil && len(b) > maxPasswd {
		err = fmt.Errorf("more bytes than the limit of %d", maxPasswd)
	}
	if err != nil {
		return users{}, fmt.Errorf("the image's /%s: %w", name, err)
	}
	return users{name, b}, nil
}

// each goes through the lines, of whose fields the eighth has the rest; lines with fewer than some are passed over.
func (f users) each(fields int, use func(fields []string)) error {
	sc := bufio.NewScanner(bytes.NewReader(f.text))
	sc.Buffer(nil, maxPasswd)
	for sc.Scan() {
		if p := strings.SplitN(sc.Text(), ":", 8); len(p) >= fields && !strings.HasPrefix(p[0], "#") {
			use(p)
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("the image's /%s: %w", f.name, err)
	}
	return nil
}
