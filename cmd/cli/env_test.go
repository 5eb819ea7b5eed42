package cli

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Files of variables are read as docker reads them; later ones are more than earlier, and --env more than all.
func TestEnvironment(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	t.Setenv("FROM_CALLER", "its value")
	one := write("one", "\ufeff# a comment\n\n  A=1\nB= \"quoted\" # no comment \r\nC=x=y\nFROM_CALLER\nNOT_THERE\nE=\n\t# another\nLAST=1")
	two := write("two", "A=2\nD=2\n")
	var own map[string]string
	for _, text := range []string{"D=3", "FROM_CALLER", "NOT_THERE_EITHER"} {
		must(t, variable(&own)(text))
	}
	got, err := environment([]string{one, two}, own)
	want := map[string]string{"A": "2", "B": ` "quoted" # no comment `, "C": "x=y", "D": "3", "E": "", "LAST": "1",
		"FROM_CALLER": "its value"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("got %q %v", got, err)
	}
	if got, err := environment(nil, own); err != nil || len(got) != 2 {
		t.Errorf("without files: %q %v", got, err)
	}
	if got, err := environment(nil, nil); err != nil || got != nil {
		t.Errorf("of nothing: %q %v", got, err)
	}
	fifo := filepath.Join(dir, "fifo")
	must(t, syscall.Mkfifo(fifo, 0o600))
	for path, want := range map[string]string{
		write("blank", "A=1\n\nB C=2\n"):                     "blank:3: expected NAME=VALUE",
		write("nameless", "=x\n"):                            "nameless:1: expected NAME=VALUE",
		write("nul", "A=1\nB=\x00\n"):                        "nul:2: expected",
		write("latin", "A=\xe9\n"):                           "latin:1: not valid UTF-8",
		write("large", "A="+strings.Repeat("x", maxEnvFile)): "large",
		filepath.Join(dir, "none"):                           "no such file",
		fifo:                                                 "not a regular file",
	} {
		if _, err := environment([]string{one, path}, nil); err == nil || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), "--env-file") {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// A task and a command of exec have what the files say.
func TestEnvironmentOfATask(t *testing.T) {
	h := newHost(t, "")
	check(t, os.WriteFile(h.path("env"), []byte("# words\nGREETING=of the file\n"), 0o600))
	h.gives(0, nil, "run", "-d", "--name", "one", "--env-file", h.path("env"), "-h", "the-host", "prog")
	task := h.awaitState("one", "running")
	if task.Spec.Env["GREETING"] != "of the file" || task.Spec.Hostname != "the-host" {
		t.Errorf("the task has %+v", task.Spec)
	}
	h.gives(2, []string{"--env-file: ", "none: no such file"}, "exec", "--env-file", h.path("none"), "one", "/bin/prog")
}
