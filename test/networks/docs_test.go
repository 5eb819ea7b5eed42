package networks

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/freejail/freejail/internal/testimage"
)

// TestFiveCommands has a daemon with the configuration of docs/networks.md, and runs the page's commands that are
// freejail's, as they are. The others are of a host that these tests have already.
func TestFiveCommands(t *testing.T) {
	page, err := os.ReadFile("../../docs/networks.md")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("the page is not here")
	}
	check(t, err)
	_, text, _ := strings.Cut(string(page), "\n## Five commands\n")
	text, _, _ = strings.Cut(text, "\n## ")
	var code string
	for line := range strings.Lines(text) {
		if line, is := strings.CutPrefix(line, "    "); is {
			code += line
		}
	}
	_, block, _ := strings.Cut(code, "anchor \"freejail\"\nnetwork ")
	block, rest, _ := strings.Cut(block, "sysrc ")
	h := newHost(t)
	head := fmt.Sprintf("state_dir = %q\nsocket = %q\n", filepath.Join(h.dir, "state"), h.Socket())
	check(t, os.WriteFile(h.config, []byte(head+"network "+block), 0o600))
	check(t, errors.Join(h.cmd.Process.Signal(syscall.SIGTERM), <-h.gone))
	h.start(t)
	path, err := testimage.Write(t.Context(), h.dir, testimage.Spec{Name: "prog", Cmd: []string{"serve", "web", "8080"},
		Manifest: `{"schemaVersion":1,"ports":[{"name":"http","port":8080}]}`})
	check(t, err)
	check(t, os.Rename(path, filepath.Join(h.dir, "web.tar")))
	ran := 0
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, "freejail ") {
			continue
		}
		ran++
		cmd := command(append([]string{os.Getenv("FREEJAIL_BIN")}, strings.Fields(line)[1:]...)...)
		cmd.Dir = h.dir
		cmd.Env = append(os.Environ(), "FREEJAIL_SOCKET="+h.Socket())
		out, err := told(cmd)
		check(t, err)
		t.Logf("%s%s", line, out)
	}
	if ran != 2 {
		t.Errorf("the page has %d commands of freejail", ran)
	}
	await(t, "web at the host's port", func() error {
		for _, from := range []func(...string) (string, error){here, outside} {
			if out, err := from("ask", "tcp", hostAddr4+":8081"); err != nil || !strings.HasPrefix(out, "web ") {
				return fmt.Errorf("%q %w", out, err)
			}
		}
		_, err := here("ask", "tcp", "127.0.0.1:8081")
		return err
	})
}
