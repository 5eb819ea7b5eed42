package cli

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
)

func TestTop(t *testing.T) {
	h := newHost(t, "")
	one, two := fmt.Sprintf("one%d", os.Getpid()), fmt.Sprintf("two%d", os.Getpid())
	for _, id := range []string{one, two} {
		h.gives(0, nil, "run", "-d", "--name", id, "prog", "wait")
	}
	h.gives(0, []string{"PID", "COMMAND"}, "processes", one)
	h.gives(0, []string{"PID", "COMMAND"}, "top", one)
	out := h.gives(0, []string{"2 tasks, 2 processes", "TASK", "by task"}, "top", "-o", "task")
	if first, second := strings.Index(out, one), strings.Index(out, two); first < 0 || second < first {
		t.Errorf("not in the order of the tasks:\n%s", out)
	}
	out = h.gives(0, nil, "top", "-b", "-d", "2", "-s", "0.5s")
	if n := strings.Count(out, "2 tasks"); n != 2 {
		t.Errorf("%d displays, want 2:\n%s", n, out)
	}
	if l := decoded[statsLine](h, "top"); l.Task != one || len(l.Procs) != 1 {
		t.Errorf("%+v", l)
	}
	h.gives(app.Usage, []string{"is none of cpu"}, "top", "-o", "size")
	h.gives(app.Usage, []string{"at least 500ms"}, "top", "-s", "0")
	h.gives(app.Usage, []string{"at least 1"}, "top", "-d", "0")

	a := h.terminal(10, 70, "top")
	a.says(two)
	a.types("orss\r")
	a.says("by rss")
	a.types("o\x1bP")
	a.says("by cpu")
	a.types("onone\r")
	a.says(`"none" is none of cpu`)
	a.types("?")
	a.says("M by rss")
	a.types("q")
	a.ends(0)
	screen := a.String()
	if text := out + screen; strings.Contains(text, `\u00`) {
		t.Errorf("what freejail itself prints is escaped:\n%s", text)
	}
	for _, line := range regexp.MustCompile(`\r\n|\x1b\[H`).Split(screen, -1) {
		if line = strings.ReplaceAll(line, clearLine, ""); len(line) > 70 {
			t.Errorf("a line of %d columns: %q", len(line), line)
		}
	}
}

func TestTopOrders(t *testing.T) {
	second := time.Second
	swap := uint64(1)
	lines := []topLine{
		{statsLine{Task: "a", CPU: 1, Usage: client.Usage{RSS: 3, UserTime: 2 * second}}, 0, 5},
		{statsLine{Task: "b", CPU: 3, Usage: client.Usage{RSS: 1, Swap: &swap, Procs: []client.ProcUsage{{}}}}, 1, 4},
		{statsLine{Task: "c", CPU: 2, Usage: client.Usage{RSS: 2, SysTime: second}}, 2, 6},
	}
	for order, want := range map[string]string{"cpu": "bca", "time": "acb", "rss": "acb", "swap": "bac", "procs": "bac",
		"in": "cba", "out": "cab", "task": "abc"} {
		list := slices.Clone(lines)
		slices.SortStableFunc(list, topOrders[order])
		got := ""
		for _, l := range list {
			got += l.Task
		}
		if got != want {
			t.Errorf("by %s: %s, want %s", order, got, want)
		}
	}
	if len(topOrders) != 8 {
		t.Error("an order without a test")
	}
}
