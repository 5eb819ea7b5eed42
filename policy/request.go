package policy

import (
	"fmt"
	"path"
	"strings"

	"github.com/freejail/freejail/internal/printable"
)

// Kind is what sort of privilege is asked for.
type Kind string

// The kinds of requests. What Name and Value hold is in Request.
const (
	Devfs   Kind = "devfs"
	Allow   Kind = "allow"
	Jail    Kind = "jail"
	SysVIPC Kind = "sysvipc"
	Sysctl  Kind = "sysctl"
	Mount   Kind = "mount"
	Port    Kind = "port"
	User    Kind = "user"
	Module  Kind = "module"
	NFS     Kind = "nfs"
	VNET    Kind = "vnet"
	Linux   Kind = "linux"
	Service Kind = "service"

	// Signature is what a require block asks for in the image's stead.
	Signature Kind = "signature"
)

// Kinds are all of them.
var Kinds = []Kind{Devfs, Allow, Jail, SysVIPC, Sysctl, Mount, Port, User, Module, NFS, VNET, Linux, Service, Signature}

// Source is who asks.
type Source string

// An image and a job are judged alike. What the host gives unasked, a volume of
// the orchestrator's own configuration or what programs of Linux expect, needs no
// permit, but can be denied.
const (
	FromImage Source = "image"
	FromJob   Source = "job"
	FromHost  Source = "host"
)

// Request is one privilege that is asked for.
//
//	devfs    Name and Value: the rule's canonical text
//	allow    Name "allow.raw_sockets", Value "true"
//	jail     Name a jail parameter, Value its value
//	sysvipc  Name shm, msg or sem, Value new or inherit
//	sysctl   Name, Value
//	mount    Name the target in the jail, Value "fstype" or "nullfs:/source:rw",
//	         then ",size=BYTES" and ",suid" if that is asked for
//	port     Name the port's name, Value the host's port "80/tcp" or "80-90/tcp"
//	user     Value the user that the first process runs as, "root" for uid 0
//	module   Value a kernel module that the host would load
//	nfs      Value "root": the task's root over NFS
//	vnet     Value "true"
//	linux    Value "true": the Linux system call interface
//	service  Name the name in Consul, Value its tags in their order with commas
//	         between them, of which those in a tag have a backslash before them
//	signature  Value the signers of whom one must have signed, with commas
type Request struct {
	Kind   Kind   `json:"kind"`
	Name   string `json:"name,omitempty"`
	Value  string `json:"value"`
	Source Source `json:"source"`
}

func (r Request) String() string {
	switch r.Kind {
	case Devfs:
		return "devfs rule " + r.Value
	case Allow:
		return r.Name
	case Jail:
		return fmt.Sprintf("jail parameter %s=%s", r.Name, r.Value)
	case SysVIPC:
		return fmt.Sprintf("sysvipc %s=%s", r.Name, r.Value)
	case Sysctl:
		return fmt.Sprintf("sysctl %s=%s", r.Name, r.Value)
	case Mount:
		return fmt.Sprintf("mount %s on %s", r.Value, r.Name)
	case Port:
		if r.Name == "" {
			return "port " + r.Value
		}
		return fmt.Sprintf("port %s (%s)", r.Value, r.Name)
	case User:
		return "user " + r.Value
	case Module:
		return "kernel module " + r.Value
	case NFS:
		return r.Value + " over NFS"
	case Service:
		if r.Value == "" {
			return "service " + r.Name
		}
		return fmt.Sprintf("service %s (%s)", r.Name, r.Value)
	case Signature:
		if r.Value == "true" { // of a test
			return "the start"
		}
		return "a signature of " + strings.ReplaceAll(r.Value, ",", " or ")
	}
	return string(r.Kind)
}

// Key is the request as an operator names it in an approval: the kind, a
// colon, and what is asked for.
func (r Request) Key() string {
	switch r.Kind {
	case Allow:
		return "allow:" + strings.TrimPrefix(r.Name, "allow.")
	case Jail, SysVIPC, Sysctl:
		return fmt.Sprintf("%s:%s=%s", r.Kind, r.Name, r.Value)
	case Mount:
		return fmt.Sprintf("mount:%s on %s", r.Value, r.Name)
	case Service:
		return strings.TrimSuffix("service:"+r.Name+":"+r.Value, ":")
	case VNET, Linux:
		return string(r.Kind)
	}
	return fmt.Sprintf("%s:%s", r.Kind, r.Value)
}

// ParseKey reads what Key gives.
func ParseKey(s string) (Request, error) {
	kind, rest, colon := strings.Cut(s, ":")
	r := Request{Kind: Kind(kind), Value: rest}
	if !colon && (r.Kind == VNET || r.Kind == Linux) {
		r.Value = "true"
		return r, nil
	}
	bad := func(want string) (Request, error) {
		return Request{}, fmt.Errorf("request %q: want %s", s, want)
	}
	if rest == "" || !colon {
		return bad("kind:what, as `freejail policy check` shows it")
	}
	switch r.Kind {
	case Devfs:
		r.Name = rest
	case Allow:
		r.Name, r.Value = "allow."+strings.TrimPrefix(rest, "allow."), "true"
	case Jail, SysVIPC, Sysctl:
		name, value, ok := strings.Cut(rest, "=")
		if !ok {
			return bad(kind + ":name=value")
		}
		r.Name, r.Value = name, value
	case Mount:
		i := strings.LastIndex(rest, " on /")
		if i < 0 {
			return bad("mount:nullfs:/source:ro on /target")
		}
		r.Value, r.Name = rest[:i], rest[i+4:]
	case Port:
		if _, err := parsePorts(rest); err != nil {
			return bad("port:80/tcp")
		}
	case Service:
		name, tags, _ := strings.Cut(rest, ":")
		if r = ServiceRequest(name, (Request{Value: tags}).tags(), ""); name == "" {
			return bad("service:NAME, or service:NAME:TAG,TAG")
		}
	case User, Module, NFS, Signature:
	default:
		return bad(fmt.Sprintf("one of the kinds %v before the colon", Kinds))
	}
	return r, nil
}

// same ignores who asks, and the name that an image gives its port.
func (r Request) same(o Request) bool {
	return r.Kind == o.Kind && r.Value == o.Value && (r.Name == o.Name || r.Kind == Port)
}

// permitText is a line of a permit block that covers just this request.
func (r Request) permitText() string {
	switch r.Kind {
	case Devfs:
		return fmt.Sprintf("devfs = [%s]", quoteHCL(r.Value))
	case Allow:
		return fmt.Sprintf("allow = [%s]", quoteHCL(strings.TrimPrefix(r.Name, "allow.")))
	case Jail, Sysctl:
		return fmt.Sprintf("%s = { %s = %s }", r.Kind, quoteHCL(r.Name), quoteHCL(escapeGlob(r.Value)))
	case SysVIPC:
		return fmt.Sprintf("sysvipc = [%s]", quoteHCL(r.Name+"="+r.Value))
	case Mount:
		return fmt.Sprintf("mounts = [%s]", quoteHCL(mountText(r)))
	case Port:
		return fmt.Sprintf("ports = [%s]", quoteHCL(r.Value))
	case Service:
		return fmt.Sprintf("services = [%s]", quoteHCL(serviceText(r)))
	case User, Module:
		return fmt.Sprintf("%ss = [%s]", r.Kind, quoteHCL(escapeGlob(r.Value)))
	}
	return string(r.Kind) + " = true"
}

// mountText is the entry of a mounts list for a request.
func mountText(r Request) string {
	value, flags, _ := strings.Cut(r.Value, ",")
	var more []string
	for _, f := range strings.Split(flags, ",") {
		if n, ok := strings.CutPrefix(f, "size="); ok {
			more = append(more, "size<="+n)
		} else if f != "" {
			more = append(more, f)
		}
	}
	if !strings.HasPrefix(value, "nullfs:") {
		value += ":" + path.Clean(r.Name)
		if len(more) > 0 {
			value += ":"
		}
	} else if len(more) > 0 {
		value += ","
	}
	return value + strings.Join(more, ",")
}

var (
	hclEscapes  = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "${", "$${", "%{", "%%{")
	globEscapes = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`)
)

// quoteHCL is a string of HCL that is seen as it is. What is no UTF-8 has no form
// there.
func quoteHCL(s string) string {
	s = hclEscapes.Replace(s)
	if printable.Text(s) == s {
		return `"` + s + `"`
	}
	var b strings.Builder
	for _, r := range s {
		switch one := string(r); {
		case printable.Text(one) == one:
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return `"` + b.String() + `"`
}

func escapeGlob(s string) string { return globEscapes.Replace(s) }
