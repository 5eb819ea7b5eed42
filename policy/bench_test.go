package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/devfs"
)

// thousand has a policy of 1,000 lines and as many requests, of one kind each
// or of all, none of which the first lines permit.
func thousand(kind string) (string, []Request) {
	var lines []string
	var reqs []Request
	add := func(n int, attr, entry string, r Request) {
		lines = append(lines, fmt.Sprintf("permit {\n  images = [\"img%d*\"]\n  %s = %s\n}\n", n%10, attr, entry))
		reqs = append(reqs, r)
	}
	for i := range 1000 {
		which := kind
		if kind == "all" {
			which = []string{"devfs", "allow", "sysctl", "mount", "port"}[i%5]
		}
		switch which {
		case "devfs":
			text := fmt.Sprintf("path 'dev%d[0-9]*' unhide mode 660", i)
			asked := fmt.Sprintf("path 'dev%d[1-3]?' unhide mode 600", i)
			add(i, "devfs", fmt.Sprintf("[%q]", text), devfsRequest(asked))
		case "allow":
			add(i, "allow", fmt.Sprintf("[\"a%d.*\"]", i), req("allow", fmt.Sprintf("allow.a%d.b", i), "true"))
		case "sysctl":
			add(i, "sysctl", fmt.Sprintf("{ \"kern.s%d.*\" = \"<=5\" }", i), req("sysctl", fmt.Sprintf("kern.s%d.x", i),
				"3"))
		case "mount":
			add(i, "mounts", fmt.Sprintf("[\"nullfs:/srv/d%d:ro\"]", i),
				req("mount", "/mnt", fmt.Sprintf("nullfs:/srv/d%d/x:ro", i)))
		case "port":
			add(i, "ports", fmt.Sprintf("[\"%d/tcp\"]", i+1024), req("port", "p", fmt.Sprintf("%d/tcp", i+1024)))
		}
	}
	lines = append(lines, "deny {\n  devfs = [\"path mem unhide\", \"path 'k*' unhide\"]\n  ports = [\"2049\"]\n}\n")
	return strings.Join(lines, ""), reqs
}

// devfsRequest is one as the daemon has it, with the rule that it has read.
func devfsRequest(text string) Request {
	r, err := devfs.ParseRule(text)
	if err != nil {
		panic(err)
	}
	return Request{Devfs{r}, ""}
}

// BenchmarkDecide is a decision over 1,000 requests by a policy of 1,000 lines.
func BenchmarkDecide(b *testing.B) {
	for _, kind := range []string{"all", "devfs", "allow", "sysctl", "mount", "port"} {
		b.Run(kind, func(b *testing.B) {
			text, reqs := thousand(kind)
			p, err := Parse("host.hcl", []byte(text), devfsRules)
			if err != nil {
				b.Fatal(err)
			}
			start := time.Now()
			for b.Loop() {
				d := p.Decide(Subject{Image: "img7:1", Repository: "img7", Digest: digestA}, reqs, nil)
				if n := len(d.Results); n != 1000 || d.Allowed {
					b.Fatalf("%d results, allowed %v", n, d.Allowed)
				}
			}
			b.ReportMetric(time.Since(start).Seconds()*1000/float64(b.N), "ms/decision")
		})
	}
}
