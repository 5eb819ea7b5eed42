package software

import (
	"os"
	"regexp"
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
