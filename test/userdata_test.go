package test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const userData = "example/aws/user-data"

// maxUserData is EC2's limit, in bytes.
const maxUserData = 16 << 10

// part is what a script has between two lines, without the second.
func part(t *testing.T, script, from, to string) string {
	t.Helper()
	_, rest, ok := strings.Cut(script, from)
	text, _, found := strings.Cut(rest, to)
	if !ok || !found {
		t.Fatalf("the script has no part from %q to %q", from, to)
	}
	return from + text
}

// sh runs a script, and returns what it says.
func sh(t *testing.T, script string, env ...string) (string, error) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "sh", "-euc", script)
	c.Env = append(os.Environ(), env...)
	out, err := c.CombinedOutput()
	return string(out), err
}

// The user data is a script that a shell reads, and EC2 takes. The configurations that it writes are ones for the agents.
func TestUserData(t *testing.T) {
	file := shipped(t, userData)
	script := read(t, file)
	if len(script) > maxUserData || !strings.HasPrefix(script, "#!/bin/sh\n") {
		t.Errorf("it has %d bytes, and begins %.20q", len(script), script)
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-n", file).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	// sysrc(8) takes names of shell variables alone, also with -f.
	if wrong := regexp.MustCompile(`sysrc [^\n]*\b\w+\.\w[\w.]*=`).FindString(script); wrong != "" {
		t.Errorf("sysrc would refuse: %s", wrong)
	}
	nomad, consul := program(t, "NOMAD_BIN"), program(t, "CONSUL_BIN")
	dir := tempDir(t)
	text := part(t, script, "for join in", "sysrc nomad_user")
	out, err := sh(t, "put() { cat >$dir/${1%/*}.hcl; }\nmkdir() { command mkdir -p $dir; }\n"+text, "dir="+dir, "etc=.",
		"datacenter=dc1", "id=i-0123", "address=127.0.0.1", "region=eu-central-1", "zone=eu-central-1a",
		"servers=provider=aws tag_key=nomad tag_value=server", "consuls=192.0.2.1")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, args := range map[string][]string{"consul.d": {consul, "validate"}, "nomad": {nomad, "config", "validate"}} {
		conf := filepath.Join(dir, name+".hcl")
		// Both want to know where they keep what they know, which the packages' scripts tell them.
		whole := read(t, conf) + "\ndata_dir = \"/nonexistent\"\n"
		check(t, os.WriteFile(conf, []byte(whole), 0o600))
		if out, err := exec.CommandContext(t.Context(), args[0], append(args[1:], conf)...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s\n%s", name, err, out, whole)
		}
		joins := regexp.MustCompile(`retry_join *= \["(.*)"\]`).FindStringSubmatch(whole)
		want := map[string]string{"consul.d": "192.0.2.1",
			"nomad": "provider=aws tag_key=nomad tag_value=server region=eu-central-1"}[name]
		if len(joins) != 2 || joins[1] != want {
			t.Errorf("%s joins %q, want %q", name, joins, want)
		}
	}
}

// A policy of any blocks arrives in freejail.hcl as it was written, and so does a key of several lines.
func TestUserDataValues(t *testing.T) {
	script := read(t, shipped(t, userData))
	const hcl = `permit {
	description = "a $ of \"quoted\" }, it's 100%, $HOME, ` + "`id`, $(id)" + ` and \\n too"
	images      = ["registry.example/team/**"]
	mounts      = ["nullfs:/srv/shop:ro"]
}

deny {
	allow = ["raw_sockets"]
}
`
	const pem = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQ+/\nAQ==\n-----END PUBLIC KEY-----"
	values := part(t, script, "# ---- To be set", "\n# ----\n")
	set := strings.NewReplacer("\nEND_OF_POLICY", "\n"+hcl+"END_OF_POLICY", "key=''", "key='"+pem+"'").Replace(values)
	if strings.Count(set, hcl)+strings.Count(set, pem) != 2 {
		t.Fatalf("no place for the values:\n%s", values)
	}
	if out, err := sh(t, set+"\npolicy"); err != nil || out != hcl {
		t.Errorf("%v: the policy arrives as\n%s", err, out)
	}
	if out, err := sh(t, set+"\nprintf %s \"$key\""); err != nil || out != pem {
		t.Errorf("%v: the key arrives as\n%s", err, out)
	}
	if out, err := sh(t, values+"\npolicy"); err != nil || out != "" {
		t.Errorf("%v: without a policy there is %q", err, out)
	}

	// The very lines of the script write a configuration of which the daemon says that it is one.
	dir := tempDir(t)
	writes := part(t, script, "\tcat >>\"$conf\" <<-END", "\tput $etc/freejail.hcl")
	writes = strings.Replace(writes, "|| [ $? -eq 72 ]", "|| { [ $? -eq 72 ] || cat $log; }", 1)
	env := []string{"conf=" + dir + "/freejail.hcl", "log=" + dir + "/log", "subnet=10.211.7.0/24", "etc=" + dir,
		"PATH=" + filepath.Dir(program(t, "FREEJAIL_BIN")) + ":" + os.Getenv("PATH")}
	if out, err := sh(t, set+"\n"+writes, env...); err != nil || out != "" {
		t.Errorf("%v: %s\n%s", err, out, read(t, dir+"/freejail.hcl"))
	}
	if conf := read(t, dir+"/freejail.hcl"); !strings.HasSuffix(conf, "}\n"+hcl) {
		t.Errorf("it is not there as it was written:\n%s", conf)
	}
}

// The metadata service is asked as version 2 of it wants, with a token; what it refuses is an error.
func TestUserDataMetadata(t *testing.T) {
	script := read(t, shipped(t, userData))
	if _, err := exec.LookPath("nc"); err != nil {
		t.Skip("there is no nc, which FreeBSD has in its base system")
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" &&
			r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") != "":
			_, _ = w.Write([]byte("the-token=="))
		case r.Header.Get("X-aws-ec2-metadata-token") != "the-token==":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/latest/meta-data/local-ipv4":
			_, _ = w.Write([]byte("10.0.0.7"))
		default:
			http.NotFound(w, r)
		}
	}))
	defer s.Close()
	host, port, err := net.SplitHostPort(s.Listener.Addr().String())
	check(t, err)
	functions := part(t, script, "# meta answers", "# put replaces")
	ask := func(what string) (string, error) {
		return sh(t, functions+"\nmeta "+what+"\n", fmt.Sprintf("imds=%s %s", host, port))
	}
	if out, err := ask("local-ipv4"); err != nil || strings.TrimSpace(out) != "10.0.0.7" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := ask("nothing"); err == nil || strings.TrimSpace(out) != "" {
		t.Errorf("what is not there: %q, %v", out, err)
	}
}
