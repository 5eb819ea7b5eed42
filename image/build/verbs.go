package build

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/freejail/freejail/image"
)

// verb is what there is to know about one instruction.
type verb struct {
	usage   string   // an example for messages
	flags   []string // its --options; nil: words that begin so are its arguments
	heredoc bool     // its text may be a <<WORD
	empty   bool     // it may stand alone
	plan    func(p *planner, in Instruction) error
}

var verbs map[string]verb

// The functions refer to the map for their messages.
func init() {
	verbs = map[string]verb{
		"FROM": {usage: "FROM [--platform=os/arch] scratch|base.tar|image [AS name]", flags: []string{"platform"},
			plan: (*planner).from},
		"ARG": {usage: "ARG NAME=default", plan: (*planner).arg},
		"COPY": {usage: "COPY [--from=stage] [--chown=user:group] [--chmod=0755] SOURCE... DESTINATION",
			flags: []string{"from", "chown", "chmod", "link", "parents", "exclude"}, plan: (*planner).copy},
		"ADD": {usage: "ADD [--chown=user:group] [--chmod=0755] SOURCE... DESTINATION",
			flags: []string{"chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"},
			plan:  (*planner).copy},
		"RUN": {usage: `RUN command, or RUN ["/bin/prog", "-x"]`,
			flags: []string{"mount", "network", "allow", "sysvipc", "security", "device"}, heredoc: true,
			plan: (*planner).run},
		"ENV":        {usage: "ENV NAME=value", plan: (*planner).env},
		"WORKDIR":    {usage: "WORKDIR /directory", plan: (*planner).workdir},
		"USER":       {usage: "USER user[:group]", plan: (*planner).user},
		"ENTRYPOINT": {usage: `ENTRYPOINT ["/bin/prog", "-x"]`, plan: (*planner).entrypoint},
		"CMD":        {usage: `CMD ["/bin/prog", "-x"]`, plan: (*planner).cmd},
		"LABEL":      {usage: "LABEL name=value", plan: (*planner).label},
		"EXPOSE":     {usage: "EXPOSE 80, or EXPOSE 53/udp 8000-8010", plan: (*planner).expose},
		"SHELL":      {usage: `SHELL ["/bin/sh", "-c"]`, plan: (*planner).shell},
		"MAINTAINER": {usage: "MAINTAINER name", plan: (*planner).maintainer},
		"ONBUILD":    {usage: "ONBUILD RUN command", plan: (*planner).onbuild},
		"HEALTHCHECK": {usage: "HEALTHCHECK [--interval=30s] [--timeout=30s] [--start-period=0s] [--retries=3] CMD " +
			"command, or HEALTHCHECK NONE", flags: healthFlags, plan: (*planner).healthcheck},
		"STOPSIGNAL": {usage: "STOPSIGNAL SIGTERM [timeout=10s]", plan: (*planner).stopSignal},
		"VOLUME": {usage: `VOLUME /path [name=data] [required] [readonly] [description="..."]`,
			plan: (*planner).volume},

		"NAME":    {usage: "NAME web", plan: (*planner).name},
		"SUMMARY": {usage: "SUMMARY one line about the image", plan: (*planner).summary},
		"USAGE":   {usage: "USAGE <<EOF, lines of Markdown, and EOF", heredoc: true, plan: (*planner).usageText},
		"PORT": {usage: `PORT http 8080/tcp [service=web] [tags=a,b] [check=http:/healthz] [interval=2s] ` +
			`[timeout=1s] [description="..."]`, plan: (*planner).port},
		"PARAM": {usage: `PARAM NAME [default="..."] [required] [pattern="^.+$"] [description="..."]`,
			plan: (*planner).param},
		"DEVFS":     {usage: "DEVFS path 'bpf*' unhide", plan: (*planner).devfs},
		"SYSVIPC":   {usage: "SYSVIPC shm=new [msg=inherit] [sem=new]", plan: (*planner).sysvipc},
		"ALLOW":     {usage: "ALLOW raw_sockets", plan: (*planner).allow},
		"JAIL":      {usage: "JAIL securelevel=2", plan: (*planner).jail},
		"SYSCTL":    {usage: "SYSCTL net.inet.tcp.keepidle=60000", plan: (*planner).sysctl},
		"MOUNT":     {usage: "MOUNT tmpfs /tmp [size=64m]", plan: (*planner).mount},
		"WRITABLE":  {usage: "WRITABLE /var /tmp", plan: (*planner).writable},
		"OSVERSION": {usage: "OSVERSION 14.1", plan: (*planner).osVersion},
		"WAIT":      {usage: "WAIT main, or WAIT all", plan: (*planner).wait},
		"VNET":      {usage: "VNET", empty: true, plan: (*planner).vnet},
		"LINUX":     {usage: "LINUX", empty: true, plan: (*planner).linux},

		"PKG":          {usage: "PKG nginx php84", plan: (*planner).pkg},
		"SYSRC":        {usage: "SYSRC nginx_enable=YES", plan: (*planner).sysrc},
		"SERVICE":      {usage: "SERVICE nginx enable", plan: (*planner).service},
		"CP":           {usage: "CP usr /", plan: (*planner).cp},
		"OVERLAY":      {usage: "OVERLAY usr etc", plan: (*planner).overlay},
		"INCLUDE":      {usage: "INCLUDE directory/of/a/Bastillefile [--arg NAME=value]", plan: (*planner).include},
		"TEMPLATE":     {usage: "TEMPLATE directory/of/a/Bastillefile [--arg NAME=value]", plan: (*planner).include},
		"RENDER":       {usage: "RENDER /usr/local/etc/app.conf", plan: (*planner).render},
		"LINE_IN_FILE": {usage: "LINE_IN_FILE 'a line' /etc/file", plan: (*planner).lineInFile},
		"LIMITS":       {usage: "LIMITS memoryuse 1G", plan: (*planner).limits},
		"CONFIG":       {usage: "CONFIG set allow.mlock=1", plan: (*planner).configure},
		"RDR":          {usage: "RDR tcp 8080 80", plan: (*planner).rdr},
		"ARG+":         {usage: "ARG+ NAME", plan: (*planner).arg},
		// nothing runs
		"RESTART": {usage: "RESTART", empty: true, plan: func(*planner, Instruction) error { return nil }},
		"TAGS":    {usage: "TAGS web", plan: (*planner).tags},
	}
}

// errUsage stands for "write it like this".
var errUsage = errors.New("usage")

func verbNames() []string { return slices.Sorted(maps.Keys(verbs)) }

// evaluate works one instruction out and keeps the manifest valid, so that a
// mistake is told with its line.
func (p *planner) evaluate(in Instruction) error {
	v := verbs[in.Verb]
	p.in = in
	before := p.manifest // its lists and maps are replaced, never changed
	err := p.charge(wordCost)
	if err == nil {
		err = v.plan(p, in)
	}
	if errors.Is(err, errUsage) {
		err = fmt.Errorf("invalid argument %q: write %s", in.Text, v.usage)
	}
	if n := requests(&p.manifest); err == nil && n > maxRequests {
		err = fmt.Errorf("the image describes more than %d ports, parameters, volumes and requests", maxRequests)
	}
	if err == nil && !reflect.DeepEqual(before, p.manifest) {
		err = p.manifest.Validate()
	}
	if err != nil {
		p.manifest = before // else every line after it would be at fault too
		return p.file.fault(in, err)
	}
	return nil
}

// requests counts what a host has to look at.
func requests(m *image.Manifest) int {
	r := &m.Requires
	own := len(m.Parameters) + len(m.Ports) + len(m.Volumes) + len(m.Writable)
	return own + len(r.Allow) + len(r.Devfs) + len(r.Jail) + len(r.Mounts) + len(r.Sysctl)
}
