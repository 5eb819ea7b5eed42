package printable

import "fmt"

// Count is a number of things, whose name is of one: 1 task, 2 tasks.
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
