package policy

import (
	"fmt"
	"strings"
)

// SysVIPC asks for shm, msg or sem of System V, new or the host's by inherit.
func SysVIPC(name, mode string) Privilege { return ipc{setting{"sysvipc", "sysvipc", name, mode}} }

type ipc struct{ setting }

func init() {
	register(kind{name: "sysvipc", attribute: "sysvipc", read: readList, pair: true, rule: newIPCRule,
		parse: func(name, mode string) (Privilege, error) { return SysVIPC(name, mode), nil },
		asserted: func(i item) (Privilege, error) {
			name, mode, _ := strings.Cut(i.value, "=")
			return SysVIPC(name, mode), nil
		}})
}

func (v ipc) permit() string { return "sysvipc = [" + quoteHCL(v.name+"="+v.value) + "]" }

// ipcRule is "shm", of any mode, or "shm=new".
type ipcRule struct{ name, mode string }

func newIPCRule(i item) (rule, error) {
	name, mode, given := strings.Cut(i.value, "=")
	if name != "shm" && name != "msg" && name != "sem" || given && mode != "new" && mode != "inherit" {
		return nil, fmt.Errorf("%q: want shm, msg or sem, with =new or =inherit", i.value)
	}
	return ipcRule{name, mode}, nil
}

func (r ipcRule) covers(p Privilege, _ *Subject) bool {
	v := p.(ipc)
	return r.name == v.name && (r.mode == "" || r.mode == v.value)
}

func (r ipcRule) touches(p Privilege) bool { return r.name == p.(ipc).name }
