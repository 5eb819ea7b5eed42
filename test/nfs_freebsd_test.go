package test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
	"github.com/freejail/freejail/internal/testnfs"
)

// A job of Nomad's has its root from a server; the host forgets the image first.
func TestJobWithRootOverNFS(t *testing.T) {
	before := lookAtHost(t)
	t.Run("cluster", func(t *testing.T) {
		c := startCluster(t)
		server, err := testnfs.Start(tempDir(t))
		if errors.Is(err, testnfs.ErrUnavailable) {
			t.Skip(err)
		}
		check(t, err)
		t.Cleanup(func() { check(t, server.Close()) })
		conf, err := os.ReadFile(c.path("freejail.hcl"))
		check(t, err)
		c.write(t, "freejail.hcl", fmt.Sprintf("%s\nnfs {\n  servers = [%q]\n  keep = \"0s\"\n  export {\n    dir = "+
			"%q\n    clients = [%q]\n  }\n}\n",
			conf, testnfs.URL, server.Roots, testnfs.Network))
		_, err = c.daemon.Upgrade(t.Context(), client.UpgradeRequest{})
		check(t, err)
		c.imports(t, "probe", testimage.Spec{Manifest: manifest})
		_, err = c.daemon.Export(t.Context(), client.ExportRequest{Image: "probe"})
		check(t, err)
		check(t, server.Export(c.path("state/exports")))
		check(t, c.daemon.RemoveImage(t.Context(), "probe"))
		_, err = c.daemon.GC(t.Context(), client.GCRequest{})
		check(t, err)

		over := func(id string) *nomad.Job {
			j, task := job(id, "serve")
			withPort(j, task)
			task.Config["root"] = "nfs"
			return j
		}
		j := over("refused")
		c.run(t, j)
		wantMessage(t, c.one(t, j, "failed"), "Driver Failure", "root over NFS, asked for by the job",
			"no permit covers it", "--request nfs:root")
		conf, err = os.ReadFile(c.path("freejail.hcl"))
		check(t, err)
		c.write(t, "freejail.hcl", string(conf)+"permit {\n  nfs = true\n}\n")
		c.run(t, over("nfs"))
		a := c.allocs(t, "nfs", 1, "running")[0]
		tasks, err := c.daemon.Tasks(t.Context())
		check(t, err)
		if len(tasks) != 1 || tasks[0].Storage != "nfs" {
			t.Errorf("allocation %s has the tasks %+v", a.ID, tasks)
		}
		c.stop(t, "nfs")
		c.idle(t)
	})
	before.same(t, lookAtHost(t))
}
