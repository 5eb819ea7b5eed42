package software

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/internal/testagent"
)

// Passwords have what shells, SQL and PostgreSQL's own file of passwords take for something else.
const (
	superPassword  = `it's "$HOME" \ the: first`
	backupPassword = `a 'second' \: one`
)

// database is a server of the example's job on a port that is free here.
type database struct {
	*cluster
	port      int
	job, data string
}

// sql has the server answer a role with a password, over the network, from within its task.
func (d *database) sql(role, password, statement string) (string, error) {
	d.t.Helper()
	a := d.awaitAllocs("postgresql", "running", 1)[0]
	return d.exec(a, `PGPASSWORD=$1 psql -X -h "$FREEJAIL_ADDR_postgresql" -p "$FREEJAIL_PORT_postgresql" -U "$2" -d postgres -Atc "$3"`,
		password, role, statement)
}

func (c *cluster) exec(a *nomad.Allocation, script string, args ...string) (string, error) {
	c.t.Helper()
	return c.try(append([]string{"nomad", "alloc", "exec", "-task", "postgresql", a.ID, "/bin/sh", "-c", script, "sh"},
		args...)...)
}

// has the rows that were written.
func (d *database) has(when, rows string) {
	d.t.Helper()
	if got, err := d.sql("postgres", superPassword, "SELECT string_agg(word, ' ' ORDER BY word) FROM words"); err != nil ||
		got != rows+"\n" {
		d.t.Errorf("%s: the rows are %q, want %q: %v", when, got, rows, err)
	}
}

// start runs the job with an image, and waits until it is deployed and its check passes.
func (d *database) start(image string) {
	d.t.Helper()
	d.cluster.job("postgresql", "-detach", "-var", "image="+image, "-var", "port="+strconv.Itoa(d.port), d.job)
	d.deployed("postgresql")
	d.awaitPassing("postgresql", "", 1)
}

// putVariable has Nomad know passwords, from files as the documentation says.
func (c *cluster) putVariable(path string, values map[string]string) {
	c.t.Helper()
	args := []string{"nomad", "var", "put", path}
	for name, value := range values {
		file := filepath.Join(c.t.TempDir(), name)
		check(c.t, os.WriteFile(file, []byte(value), 0o600))
		args = append(args, name+"=@"+file)
	}
	c.run(args...)
}

// Debian's PostgreSQL keeps its data on a volume by the example's job and policy: another version of the image finds the
// rows, as does a server on a new volume that was restored from the backup of the example's job.
func TestPostgreSQL(t *testing.T) {
	root(t, "postgresql")
	ports, err := testagent.Addresses(3)
	check(t, err)
	dirs := volumes(t, 770, "postgresql", "postgresql-backup", "postgresql-new")
	policy := strings.ReplaceAll(readExample(t, "postgresql/policy.hcl"), "5432", strconv.Itoa(ports[0].Port))
	policy, _, _ = strings.Cut(policy, "\ntest ")
	policy = strings.ReplaceAll(policy, `/tcp"]`, fmt.Sprintf(`/tcp", "%d/tcp"]`, ports[2].Port))
	c := startCluster(t, policy, dirs)
	d := &database{cluster: c, port: ports[0].Port, data: dirs["postgresql"], job: c.quick("postgresql/postgresql.nomad.hcl")}
	one, two := c.builds("postgresql", "1"), c.builds("postgresql", "2")
	c.setPolicy(readExample(t, "postgresql/policy.hcl"))
	c.needsEachPermit(readExample(t, "postgresql/policy.hcl"), one,
		map[string]string{"services": "service postgresql", "ports": "5432/tcp", "sysvipc": "sysvipc shm=new"})
	c.clientIsValid("postgresql")
	c.setPolicy(strings.ReplaceAll(policy, strconv.Itoa(d.port)+"/tcp", "1/tcp"))
	c.run("freejail", "policy", "reload")
	c.putVariable("nomad/jobs/postgresql", map[string]string{"password": superPassword, "backup": backupPassword})
	c.putVariable("nomad/jobs/postgresql-backup", map[string]string{"password": backupPassword})

	c.isRefused(d, one)
	c.setPolicy(policy)
	c.run("freejail", "policy", "reload")
	d.start(one)
	if out, err := d.sql("postgres", superPassword, "CREATE TABLE words (word text); INSERT INTO words VALUES ('kept')"); err != nil {
		t.Fatal(out, err)
	}
	d.keepsSecrets()
	d.isConfined(dirs["postgresql"], two, ports[1].Port)

	d.start(two)
	d.has("after the upgrade", "kept")
	d.goesBack("postgresql", "-var", "image=postgresql-debian:mistyped", "-var", "port="+strconv.Itoa(d.port), d.job)
	d.awaitPassing("postgresql", "", 1)
	d.has("after the name of no image", "kept")
	if _, err := d.sql("postgres", superPassword, "INSERT INTO words VALUES ('later')"); err != nil {
		t.Fatal(err)
	}

	d.moves(two, ports[2].Port)

	c.job("postgresql-backup", "-var", "image="+two, example(t, "postgresql/backup.nomad.hcl"))
	c.dispatched("postgresql-backup", "complete", "periodic", "force", "postgresql-backup")
	backups, err := os.ReadDir(dirs["postgresql-backup"])
	check(t, err)
	if len(backups) != 1 {
		t.Fatalf("the backups are %v", backups)
	}
	restore := []string{"dispatch", "-detach", "-meta", "backup=" + backups[0].Name(), "postgresql-restore"}
	c.job("postgresql-restore", "-var", "image="+two, example(t, "postgresql/restore.nomad.hcl"))
	c.dispatched("postgresql-restore", "failed", restore...) // a server has the volume
	d.has("beside a restore", "kept later")

	check(t, c.nomad.EndJob(t.Context(), "postgresql"))
	c.dispatched("postgresql-restore", "failed", restore...) // there is one on it
	check(t, os.RemoveAll(filepath.Join(d.data, "pgdata")))
	c.dispatched("postgresql-restore", "complete", restore...)
	d.start(two)
	d.has("after the restore", "kept later")
}

// moves everything to a second server beside the first, by a dump.
func (d *database) moves(image string, port int) {
	d.t.Helper()
	const name = "postgresql-new"
	text, err := os.ReadFile(d.job)
	check(d.t, err)
	file := d.path(name + ".nomad.hcl")
	check(d.t, os.WriteFile(file, []byte(strings.Replace(string(text), `job "postgresql"`, `job "`+name+`"`, 1)), 0o600))
	d.putVariable("nomad/jobs/"+name, map[string]string{"password": superPassword, "backup": backupPassword})
	d.cluster.job(name, "-detach", "-var", "image="+image, "-var", "port="+strconv.Itoa(port), "-var", "volume="+name,
		"-var", "service="+name, file)
	d.deployed(name)
	to := d.awaitPassing(name, "", 1)
	if from := d.awaitPassing("postgresql", "", 1); from[0] == to[0] {
		d.t.Errorf("the second server is in Consul by the name of the first: %q", from)
	}
	a := d.awaitAllocs(name, "running", 1)[0]
	if out, err := d.exec(a, `export PGPASSWORD=$1
pg_dumpall -h "$FREEJAIL_ADDR_postgresql" -p "$2" -U postgres |
    psql -X -h "$FREEJAIL_ADDR_postgresql" -p "$FREEJAIL_PORT_postgresql" -U postgres -d postgres
psql -X -h "$FREEJAIL_ADDR_postgresql" -p "$FREEJAIL_PORT_postgresql" -U postgres -d postgres -Atc "TABLE words"`,
		superPassword, strconv.Itoa(d.port)); err != nil || !strings.HasSuffix(out, "\nkept\nlater\n") {
		d.t.Errorf("the second server has %s %v", out, err)
	}
	check(d.t, d.nomad.EndJob(d.t.Context(), name))
}

// isRefused has the daemon's policy refuse the job its port, by name.
func (c *cluster) isRefused(d *database, image string) {
	c.t.Helper()
	c.job("postgresql", "-detach", "-var", "image="+image, "-var", "port="+strconv.Itoa(d.port), d.job)
	want := fmt.Sprintf("%d/tcp", d.port)
	await(c.t, "the refusal of "+want, func() error {
		if seen := c.seen("postgresql"); !strings.Contains(seen, want) || !strings.Contains(seen, "no permit covers it") {
			return errors.New(seen)
		}
		return nil
	})
	check(c.t, c.nomad.PurgeJob(context.Background(), "postgresql"))
}

// keepsSecrets has passwords in no job, allocation, task or environment, and none of them is another's.
func (d *database) keepsSecrets() {
	d.t.Helper()
	a := d.awaitAllocs("postgresql", "running", 1)[0]
	tasks, err := d.daemon.Tasks(d.t.Context())
	check(d.t, err)
	if len(tasks) != 1 {
		d.t.Fatalf("there are %d tasks", len(tasks))
	}
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", tasks[0].PID))
	check(d.t, err)
	for what, text := range map[string]string{"the job": d.run("nomad", "job", "inspect", "postgresql"),
		"the allocation": d.run("nomad", "alloc", "status", "-json", a.ID), "the environment": string(environment),
		"the task": d.run("freejail", "inspect", tasks[0].ID), "the log": d.run("nomad", "alloc", "logs", "-stderr", a.ID)} {
		for _, part := range []string{"the: first", "second"} {
			if strings.Contains(text, part) {
				d.t.Errorf("%s has a password", what)
			}
		}
	}
	for role, password := range map[string]string{"postgres": backupPassword, "backup": superPassword} {
		if out, err := d.sql(role, password, "SELECT 1"); err == nil || !strings.Contains(err.Error(), "password authentication failed") {
			d.t.Errorf("%s with the password of another: %q %v", role, out, err)
		}
	}
	if out, err := d.sql("backup", backupPassword, "TABLE words"); err == nil || !strings.Contains(err.Error(), "permission denied") {
		d.t.Errorf("the role backup reads a table: %q %v", out, err)
	}
	out, err := d.exec(a, "id -u; stat -c %a:%u /secrets/password /secrets/backup")
	if err != nil || out != "770\n400:770\n400:770\n" {
		d.t.Errorf("the user, and the modes of the passwords: %q %v", out, err)
	}
}

// ofDaemon are the files of a root that the daemon writes.
var ofDaemon = []string{"etc/hosts", "etc/resolv.conf"}

// isConfined has the server listen at its address alone, write to its volume and /tmp alone, and share its volume with
// no other.
func (d *database) isConfined(volume, image string, free int) {
	d.t.Helper()
	if conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.2", strconv.Itoa(d.port))); err == nil {
		d.t.Error("the server listens at another address", conn.Close())
	}
	tasks, err := d.daemon.Tasks(d.t.Context())
	check(d.t, err)
	written := filepath.Join(d.path("state"), "storage", "roots", tasks[0].ID, "upper")
	check(d.t, filepath.WalkDir(written, func(p string, e fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(written, p); err == nil && !e.IsDir() && !strings.HasPrefix(rel, "tmp/") &&
			!slices.Contains(ofDaemon, rel) {
			d.t.Errorf("the server has written /%s", rel)
		}
		return err
	}))
	before, err := os.ReadFile(d.path("freejail.hcl"))
	check(d.t, err)
	check(d.t, os.WriteFile(d.path("freejail.hcl"), fmt.Appendf(before, "permit {\n  mounts = [%q]\n  ports = [%q]\n}\n",
		"nullfs:"+volume, strconv.Itoa(free)), 0o600))
	d.run("freejail", "policy", "reload")
	at := fmt.Sprintf("postgresql=127.0.0.1:%d", free)
	for flags, want := range map[string]string{
		"":             "no volume is mounted on /data",
		"-v " + volume: "another server, or a restore, has the volume on /data",
	} {
		args := []string{"freejail", "run", "--rm", "-p", at}
		if flags != "" {
			args = append(args, "-v", volume+":/data")
		}
		_, err := d.try(append(args, image)...)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(err.Error(), want) {
			d.t.Errorf("a second server, %q: %v, want %q", flags, err, want)
		}
	}
	check(d.t, os.WriteFile(d.path("freejail.hcl"), before, 0o600))
	d.run("freejail", "policy", "reload")
}
