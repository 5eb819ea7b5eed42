package driver

import (
	"testing"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
)

// FuzzTaskConfig has any task config of an agent's read, and made a task of ours:
// it has an id that the daemon takes.
func FuzzTaskConfig(f *testing.F) {
	for _, v := range []map[string]any{
		{"image": "local/x.tar", "command": "/bin/sh", "args": []string{"-c", "true"},
			"ports": map[string]string{"http": "www"}},
		{"image": "x", "auth": map[string]any{"username": "u", "password": "p"}, "image_pull_timeout": "1m",
			"volumes": []string{"a:/b:ro"}},
		{"image": "x", "mount": []map[string]any{{"source": "/a", "target": "/b", "readonly": true}},
			"tmpfs": []string{"/t"}, "sysvipc": map[string]string{"shm": "new"}},
		{"image": "x", "services": map[string]any{"port": []map[string]any{{"name": "http", "tags": []string{"a"}}}},
			"pids_limit": -1, "cpu_hard_limit": true},
	} {
		var b []byte
		if err := base.MsgPackEncode(&b, v); err != nil {
			f.Fatal(err)
		}
		f.Add(b, "alloc/task/1")
	}
	f.Add([]byte{0xdf, 0xff, 0xff, 0xff, 0xff}, "") // a map of 4 billion
	f.Add([]byte{0x81, 0xa4, 'a', 'r', 'g', 's', 0xdd, 0x7f, 0xff, 0xff, 0xff}, "a/b/c")
	f.Fuzz(func(t *testing.T, config []byte, id string) {
		var tc TaskConfig
		if err := base.MsgPackDecode(config, &tc); err != nil ||
			tc.validate(Config{Volumes: volumesConfig{Enabled: true}}) != nil {
			return
		}
		s, err := spec(&proto.TaskConfig{Id: id, Name: "task", AllocDir: "/alloc"}, tc)
		if err == nil && (s.ID != daemonID(id) || len(s.ID) > 60 || s.Owner != "nomad") {
			t.Errorf("%q: %+v", id, s)
		}
	})
}
