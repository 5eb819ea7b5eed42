package software

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

var pinned = regexp.MustCompile(`go install (\S+?)/?((?:/cmd/caddy|/nats)?)@(v\S+)`)

// The versions that docs/software.md tells to install are those that these tests run.
func TestVersionsAreTheTested(t *testing.T) {
	page, err := os.ReadFile("../../docs/software.md")
	if os.IsNotExist(err) {
		t.Skip("the documentation is not here")
	}
	check(t, err)
	found := pinned.FindAllSubmatch(page, -1)
	if len(found) < 3 {
		t.Errorf("it installs %q", found)
	}
	var all []byte
	for _, module := range []string{"servers", "natscli"} {
		text, err := os.ReadFile("../../tools/" + module + "/go.mod")
		if os.IsNotExist(err) {
			t.Skip("the source is not here")
		}
		check(t, err)
		all = append(all, text...)
	}
	for _, m := range found {
		line := "(?m)^(?:require )?\\s*" + regexp.QuoteMeta(string(m[1])+" "+string(m[3])) + "( |$)"
		if !regexp.MustCompile(line).Match(all) {
			t.Errorf("no module of tools has %s %s", m[1], m[3])
		}
	}
}

// The command by which a host keeps the newest backups alone leaves those, and what is none.
func TestOldBackups(t *testing.T) {
	page, err := os.ReadFile("../../docs/software.md")
	if os.IsNotExist(err) {
		t.Skip("the documentation is not here")
	}
	check(t, err)
	found := regexp.MustCompile(`(?m)^    keep='(.*)'$`).FindSubmatch(page)
	if found == nil {
		t.Fatal("docs/software.md has no such command")
	}
	dir := t.TempDir()
	for day := 10; day < 20; day++ {
		name := fmt.Sprintf("%s/202701%dT033000Z", dir, day)
		check(t, os.WriteFile(name+".tar", nil, 0o600)) // Caddy's
		check(t, os.Mkdir(name, 0o700))                 // NATS'
		check(t, os.WriteFile(name+"/stream", nil, 0o600))
	}
	check(t, os.WriteFile(dir+"/notes of 2026", nil, 0o600))
	command := strings.ReplaceAll(string(found[1]), "/srv/caddy-backup", dir)
	for range 2 { // nothing more is removed
		out, err := exec.Command("sh", "-c", command).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		left, err := os.ReadDir(dir)
		check(t, err)
		if len(left) != 8 || left[0].Name() != "20270116T033000Z.tar" {
			t.Errorf("left: %v", left)
		}
	}
}
