package policy

import (
	"strconv"
	"strings"
)

// KindUser is the kind of User.
const KindUser Kind = "user"

// User asks to run as a user, by its name or number; root is "root".
func User(name string) Privilege { return named{KindUser, "user", name} }

func init() { registerNamed(User, userNames) }

// userNames are those of a user, as far as they are known without the image's files.
func userNames(user string) []string {
	name, _, _ := strings.Cut(user, ":")
	n, err := strconv.ParseUint(name, 10, 64)
	switch {
	case name == "" || name == "root" || err == nil && n == 0:
		return []string{"root", "0"}
	case err == nil:
		return []string{name, strconv.FormatUint(n, 10)}
	}
	return []string{name}
}
