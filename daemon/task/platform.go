package task

import (
	"slices"
	"strings"

	"github.com/freejail/freejail/daemon/client"
)

func splitOptions(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func hasEnv(env []string, name string) bool {
	return slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
}

// checkSysctls compares what an image needs of the host's sysctls with what
// they are: freejail never changes the host's.
func checkSysctls(want map[string]string) error {
	for name, v := range want {
		got, err := sysctl(name)
		if err != nil {
			return client.Invalid("sysctl %s: %v", name, err)
		}
		if got != v {
			return client.Invalid("the task needs the host's sysctl %s to be %s, it is %s: set it with `sysctl %s=%s`",
				name, v, got, name, v)
		}
	}
	return nil
}
