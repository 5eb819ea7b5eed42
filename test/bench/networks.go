package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
	"github.com/freejail/freejail/network"
)

// networksConfig is of the daemon that is measured.
const networksConfig = `
network "bench" {
  mode        = "nat"
  subnet4     = "10.186.0.0/22"
  host_access = ["7100/tcp"]
}
permit {
  networks = ["*"]
  ports    = ["1-65535"]
  publish  = ["*:1-65535"]
}
`

// benchBridge is the operator's, of which the system calls alone make members.
const benchBridge = "fjbench0"

// networks compares starts of tasks with a network stack of their own, their throughput, and what many take.
func (b *bench) networks(ctx context.Context) (err error) {
	undo, err := prepareNetworks()
	if err != nil || undo == nil {
		return err
	}
	defer func() { err = errors.Join(err, undo()) }()
	b.config = networksConfig
	if err := b.startDaemon(ctx); err != nil {
		return err
	}
	// Before the host's interfaces go, what the daemon has on them.
	defer func() { err = errors.Join(err, b.stopDaemon()) }()
	if _, err := b.daemon.Import(ctx, client.ImportRequest{Path: b.archive, Name: "bench"}, nil); err != nil {
		return err
	}
	if err := b.networkStarts(ctx); err != nil {
		return err
	}
	if err := b.throughput(ctx); err != nil {
		return err
	}
	return b.manyStacks(ctx)
}

// networkStarts compares starts until the process runs.
func (b *bench) networkStarts(ctx context.Context) error {
	n := 0
	id := func() string { n++; return fmt.Sprintf("n%d-%d", os.Getpid(), n) }
	in := func(name string, published ...client.Publication) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			return b.startSpec(ctx, client.TaskSpec{ID: id(), Network: name, Publish: published, Entrypoint: sleepArgs})
		}
	}
	if _, err := in("host")(); err != nil { // unpacks
		return err
	}
	contestants := []contestant{{name: "freejail, on the host's network", run: in("host")},
		{name: "freejail, with a stack of its own: none", run: in("none")},
		{name: "freejail, with a stack of its own: nat, a port published",
			run: in("bench", client.Publication{Port: 7200, To: 7200, Protocol: "tcp"})}}
	alone, err := b.stacksAlone(ctx)
	if err != nil {
		return err
	}
	return contest(rounds, "Start of a task in a network until its process runs", append(contestants, alone...)...)
}

// operators is a network on benchBridge, and a manager of it without a daemon.
func (b *bench) operators() (*network.Manager, error) {
	if err := os.MkdirAll(b.path("alone"), 0o700); err != nil {
		return nil, err
	}
	subnet := netip.MustParsePrefix("10.185.0.0/24")
	return network.Open(network.Config{StateDir: b.path("alone"), Networks: []network.Network{{Name: "alone",
		Mode: network.Bridged, Bridge: benchBridge, Subnet4: subnet, Gateway4: netip.MustParseAddr("10.185.0.1"),
		Pool4: network.Range{First: netip.MustParseAddr("10.185.0.2"), Last: netip.MustParseAddr("10.185.0.254")}}}})
}

// withStack tells the time of making a stack and of what starts in it, and takes the stack away after.
func withStack(ctx context.Context, m *network.Manager, holder string,
	start func(network.Endpoint) (time.Duration, error)) (took time.Duration, err error) {
	begin := time.Now()
	e, err := m.Reserve(holder, network.Request{Network: "alone"})
	if err != nil {
		return 0, err
	}
	defer m.Release(holder)
	defer func() { err = errors.Join(err, m.Detach(ctx, e)) }()
	if err := m.Attach(ctx, e); err != nil {
		return 0, err
	}
	attached := time.Since(begin)
	started, err := start(e)
	return attached + started, err
}

// throughput compares the ways from one task to another.
func (b *bench) throughput(ctx context.Context) (err error) {
	drain := func(id, name string, published ...client.Publication) (*client.Task, error) {
		return b.daemon.Start(ctx, client.TaskSpec{ID: id + strconv.Itoa(os.Getpid()), Owner: "cli", Image: "bench",
			Network: name, Publish: published, Entrypoint: []string{testimage.Program, "program", "drain", "7100"}})
	}
	inside, err := drain("d", "bench", client.Publication{Port: 7101, To: 7100, Protocol: "tcp"})
	if err != nil {
		return err
	}
	onHost, err := drain("h", "host", client.Publication{Port: 7100, To: 7100, Protocol: "tcp"})
	if err != nil {
		return err
	}
	from, err := drain("c", "bench")
	if err != nil {
		return err
	}
	defer func() {
		for _, t := range []*client.Task{inside, onHost, from} {
			err = errors.Join(err, b.daemon.Destroy(ctx, t.Spec.ID, true))
		}
	}()
	pour := func(address string) func() (time.Duration, error) {
		return func() (time.Duration, error) { return b.pour(ctx, from.Spec.ID, address) }
	}
	contestants := []contestant{{name: "to the published port of another such task", run: pour("10.186.0.1:7101")},
		{name: "to that task's own address, without translation", run: pour(inside.Network.Addr4.String() + ":7100")},
		{name: "to a task on the host's network", run: pour("10.186.0.1:7100")}}
	hand, end, err := b.pourByHand(ctx)
	defer func() { err = errors.Join(err, end()) }()
	if err != nil {
		return err
	}
	if hand != nil {
		contestants = append(contestants, *hand)
	}
	return contest(5, fmt.Sprintf("%d MiB by TCP from a task with a stack of its own", pouredMiB), contestants...)
}

const pouredMiB = 256

// pour has a task send to an address, and tells the time until all of it was taken.
func (b *bench) pour(ctx context.Context, id, address string) (time.Duration, error) {
	var out bytes.Buffer
	e, err := b.daemon.Exec(ctx, id, client.ExecSpec{Args: []string{testimage.Program, "program", "pour", address}},
		client.ExecIO{Stdout: &out, Stderr: &out})
	if err == nil && e.Code != 0 {
		err = errors.New(out.String())
	}
	if err != nil {
		return 0, err
	}
	return time.ParseDuration(strings.TrimSpace(out.String()))
}

// pourTo sends zeros, and says how long it took until they were taken.
func pourTo(address string) (err error) {
	var c net.Conn
	for range 50 { // it may not listen yet
		if c, err = net.Dial("tcp", address); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	begin, zeros := time.Now(), make([]byte, 1<<20)
	for range pouredMiB {
		if _, err := c.Write(zeros); err != nil {
			return err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, zeros[:1]); err != nil {
		return err
	}
	fmt.Println(time.Since(begin))
	return nil
}

// drainAt takes what others pour, and tells them when it has all.
func drainAt(port string) error {
	l, err := net.Listen("tcp4", ":"+port)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, c, make([]byte, 1<<20))
		if err == nil {
			_, err = c.Write([]byte{1})
		}
		if err = errors.Join(err, c.Close()); err != nil {
			return err
		}
	}
}

// stacksTogether are the tasks of one host that manyStacks starts, unless FREEJAIL_BENCH_STACKS says so.
const stacksTogether = 300

// manyStacks tells the first and the last starts of many tasks with stacks of their own, and the memory of the host
// that each takes.
func (b *bench) manyStacks(ctx context.Context) (err error) {
	n := stacksTogether
	if text := os.Getenv("FREEJAIL_BENCH_STACKS"); text != "" {
		if n, err = strconv.Atoi(text); err != nil {
			return err
		}
	}
	const few = 10 // of which medians are told
	began, err := freeMemory()
	if err != nil {
		return err
	}
	var took []time.Duration
	for i := range n {
		begin := time.Now()
		if _, err := b.daemon.Start(ctx, client.TaskSpec{ID: fmt.Sprintf("s%d-%d", os.Getpid(), i), Owner: "cli",
			Image: "bench", Network: "bench", Entrypoint: sleepArgs,
			Publish: []client.Publication{{Port: 30000 + i, To: 7200, Protocol: "tcp"}}}); err != nil {
			return fmt.Errorf("task %d of %d: %w", i+1, n, err)
		}
		took = append(took, time.Since(begin))
	}
	left, err := freeMemory()
	if err == nil {
		err = b.allRun(ctx, n)
	}
	if err != nil {
		return err
	}
	first, last := median(took[:min(few, n)]), median(took[max(0, n-few):])
	times := float64(last) / float64(first)
	fmt.Printf("\n%d tasks with stacks of their own, a port of each published\n"+
		"  the first %d starts %10s, the last %10s, %5.2f times; %s of the host's memory each\n", n, few,
		round(first), round(last), times, mib(uint64(max(0, int64(began)-int64(left)))/uint64(n)))
	for i := range slices.Backward(took) {
		if err := b.daemon.Destroy(ctx, fmt.Sprintf("s%d-%d", os.Getpid(), i), true); err != nil {
			return err
		}
	}
	return nil
}
