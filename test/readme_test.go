package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/freejail/freejail/internal/testmanual"
)

// How the commands of README.md and example/README.md are run that cannot be run as any other: each of these has to be
// there.
var (
	// Those of a terminal of their own, with the command that succeeds when they are ready.
	ownTerminal = map[string]string{
		"consul agent -config-file example/consul/agent.hcl":   "consul catalog services",
		"freejail daemon --config /usr/local/etc/freejail.hcl": "freejail ps",
		"nomad agent -config example/nomad/server.hcl -config example/nomad/client.hcl": "nomad node status -self " +
			"-verbose | grep -E '^freejail +true +true'",
	}
	// FreeBSD's, which TestReadmeService runs there.
	onFreeBSD = map[string]bool{"sysrc freejail_enable=YES && service freejail start": true}
	// What the output has.
	prints = map[string]string{
		"make demo":                                "Done in",
		"curl http://127.0.0.1:8088/":              "Hi",
		"freejail exec web /bin/web get /health":   "healthy",
		"freejail ps":                              "web ",
		"freejail-build inspect web.tar":           "GREETING",
		"nomad job run example/jobs/web.nomad.hcl": "successful",
		"nomad alloc logs -job web":                "listening on",
		"nomad alloc status -verbose $(nomad job allocs -t '{{ (index . 0).ID }}' greedy)": "policy approve",
	}
)

// TestReadme walks README.md, and then example/README.md, on a fresh machine by their words alone: a copy of the
// source, with none of its build but the tools that `make tools` would take long to make, in namespaces of its own with
// nothing but a loopback, under the strictest umask. Every command is run as it is written.
func TestReadme(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("TestReadmeService has what is for FreeBSD")
	}
	if _, err := os.Stat("../go.mod"); err != nil {
		t.Skip("the source is not here")
	}
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	for _, name := range []string{"unshare", "ip", "curl"} { // `make interop` installs them
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
	tools := filepath.Dir(program(t, "NOMAD_BIN"))
	dir := tempDir(t)
	check(t, os.Chmod(dir, 0o755))
	copySource(t, filepath.Join(dir, "freejail"))
	var script strings.Builder
	script.WriteString(walkPrelude)
	for _, page := range []string{"../README.md", "../example/README.md"} {
		writeWalk(t, &script, dir, testmanual.Blocks(t, page))
	}
	script.WriteString(walkEnd)
	allAreThere(t, script.String())
	file := filepath.Join(dir, "walk")
	check(t, os.WriteFile(file, []byte(script.String()), 0o600))
	cmd := exec.Command("unshare", "-n", "-m", "-p", "-f", "--propagation", "private", "--mount-proc",
		"--kill-child", "sh", file)
	cmd.Env = append(freshEnv(t, dir), "WALK="+dir, "TOOLS="+tools)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// freshEnv is that of somebody's first login, but for the caches of Go: there is no network.
func freshEnv(t *testing.T, dir string) []string {
	t.Helper()
	env := []string{"HOME=" + filepath.Join(dir, "home"), "GOTOOLCHAIN=local", "GOPROXY=off", "TERM=dumb"}
	for _, name := range []string{"GOROOT", "GOCACHE", "GOMODCACHE"} {
		out, err := exec.Command("go", "env", name).Output()
		check(t, err)
		value := strings.TrimSpace(string(out))
		if name == "GOROOT" {
			name, value = "PATH", value+"/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
		}
		env = append(env, name+"="+value)
	}
	return env
}

// copySource has the files that git knows or would add, as a clone under the umask 077 has them.
func copySource(t *testing.T, to string) {
	t.Helper()
	check(t, os.Mkdir(to, 0o700))
	cmd := exec.Command("sh", "-c", `git -c safe.directory='*' ls-files -z -c -o --exclude-standard |
		tar -c --null --ignore-failed-read -T - | tar -x -C "$0" && chmod -R go= "$0" &&
		find "$0/tools" -name 'go.*' -exec touch -d 2000-01-01 {} +`, to)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("copy of the source: %v: %s", err, out)
	}
}

// writeWalk writes each command of a page as a step. Other code is for steps at the page's end.
func writeWalk(t *testing.T, script *strings.Builder, dir string, blocks []testmanual.Block) {
	t.Helper()
	var others []testmanual.Block
	for _, b := range blocks {
		if b.Kind() != testmanual.Shell {
			others = append(others, b)
			continue
		}
		for _, c := range b.Commands() {
			switch ready := ownTerminal[c]; {
			case onFreeBSD[c]:
			case ready != "":
				fmt.Fprintf(script, "terminal %s %s\n", quote(c), quote(ready))
			default:
				fmt.Fprintf(script, "step %s %s\n", quote(c), quote(prints[c]))
			}
		}
	}
	for i, b := range others {
		file := filepath.Join(dir, fmt.Sprintf("%s-%d", filepath.Base(filepath.Dir(b.Page)), i))
		check(t, os.WriteFile(file, []byte(b.Text), 0o644))
		switch {
		case b.Kind() == testmanual.Jailfile:
			fmt.Fprintf(script, "step 'freejail-build build -f %s -o short.tar web-context'\n", file)
		case strings.HasPrefix(b.Text, "job "):
			fmt.Fprintf(script, "step 'nomad job run %s'\n", file)
		default:
			t.Errorf("%s:%d: a block that no test runs", b.Page, b.Line)
		}
	}
}

// allAreThere fails for a command that is named above and is in no page.
func allAreThere(t *testing.T, script string) {
	t.Helper()
	for c := range ownTerminal {
		if !strings.Contains(script, "terminal "+quote(c)+" ") {
			t.Errorf("no page has %s", c)
		}
	}
	for c := range prints {
		if !strings.Contains(script, "step "+quote(c)+" ") {
			t.Errorf("no page has %s", c)
		}
	}
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// walkPrelude makes the fresh machine.
const walkPrelude = `set -eu
umask 077
exec 2>&1 </dev/null
ip link set lo up
mkdir -m 755 "$WALK/machine"
mount -t tmpfs -o mode=755 walk "$WALK/machine"
for d in usr/local var etc; do
    mkdir -p "$WALK/machine/$d/upper" "$WALK/machine/$d/work"
    chmod 755 "$WALK/machine/$d/upper"
    mount -t overlay -o "lowerdir=/$d,upperdir=$WALK/machine/$d/upper,workdir=$WALK/machine/$d/work" walk "/$d"
done
for d in bin libexec/nomad etc; do
    mkdir -p "/usr/local/$d"
done
rm -rf /usr/local/bin/freejail* /usr/local/libexec/nomad /usr/local/etc/freejail*
mkdir -p /var/db /var/cache
for d in /var/db /var/log /var/cache; do
    mount -t tmpfs -o mode=755 walk "$d"
done
mount -t tmpfs -o mode=755 walk /run
[ -e /var/run ] || ln -s /run /var/run
mkdir -p "$HOME" "$WALK/freejail/build/tools/$(go env GOOS)-$(go env GOARCH)" "$WALK/logs"
mount --bind "$TOOLS" "$WALK/freejail/build/tools/$(go env GOOS)-$(go env GOARCH)"
cd "$WALK/freejail"

failed() {
    echo "FAILED: $1"
    tail -n 30 "$WALK"/logs/* 2>/dev/null
    exit 1
}
step() {
    echo "# $1"
    tries=0
    # A server that was just started may not listen yet, a job not be refused or gone; who types is slower.
    until { sh -c "$1" && echo; } >"$WALK/output" 2>&1 && grep -qsF -e "${2:-}" "$WALK/output"; do
        tries=$((tries + 1))
        case $1 in
        curl\ * | nomad\ alloc\ * | *freejail\ ps\ -a*) [ $tries -lt 100 ] && sleep 0.2 && continue ;;
        esac
        cat "$WALK/output"
        failed "$1: exit code $?, and the output has to have: ${2:-}"
    done
    cat "$WALK/output"
}
terminal() {
    echo "# $1"
    sh -c "exec $1" >"$WALK/logs/$(echo "$1" | cut -d ' ' -f 1)" 2>&1 &
    tries=0
    until sh -c "$2" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || failed "$1"
        kill -0 $! 2>/dev/null || failed "$1: it has ended"
        sleep 0.2
    done
}
`

// walkEnd has what is right after all of it: nothing is left, and what was installed is for everybody.
const walkEnd = `
step 'for f in example/*/*.nomad.hcl; do NOMAD_VAR_image=web nomad job validate "$f" || exit 1; done'
step '[ "$(freejail ps -a | wc -l)" -le 1 ] || { freejail ps -a; false; }'
step 'cd / && setpriv --reuid 65534 --regid 65534 --clear-groups /usr/local/bin/freejail version'
step 'cd / && setpriv --reuid 65534 --regid 65534 --clear-groups /usr/local/bin/freejail-build version'
step 'cd / && setpriv --reuid 65534 --regid 65534 --clear-groups cat /usr/local/etc/freejail.hcl.sample'
`
