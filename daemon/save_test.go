package daemon

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

// slowReader takes nothing after its first bytes until it may.
type slowReader struct {
	bytes.Buffer
	began, goOn chan struct{}
}

func (s *slowReader) Write(p []byte) (int, error) {
	if s.Len() == 0 {
		close(s.began)
		<-s.goOn
	}
	return s.Buffer.Write(p)
}

// What is being saved is kept whole, whatever becomes of its name; and who does not read it keeps the daemon from no
// upgrade.
func TestASaveUnderWay(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	noise := make([]byte, 8<<20) // more than a socket holds
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	path, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "noise", Cmd: []string{"x"},
		Files: map[string]string{"/noise": string(noise)}})
	if err != nil {
		t.Fatal(err)
	}
	info, err := c.Import(t.Context(), client.ImportRequest{Path: path, Name: "noise"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	save := func() (*slowReader, chan error) {
		to, saved := &slowReader{began: make(chan struct{}), goOn: make(chan struct{})}, make(chan error, 1)
		go func() {
			saved <- c.Save(t.Context(), client.SaveRequest{Images: []string{"noise"}}, to, func(string) {})
		}()
		<-to.began
		return to, saved
	}
	to, saved := save()
	if err := c.RemoveImage(t.Context(), "noise"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GC(t.Context(), client.GCRequest{}); err != nil {
		t.Fatal(err)
	}
	close(to.goOn)
	if err := <-saved; err != nil {
		t.Errorf("saved while it lost its name: %v", err)
	}
	file := filepath.Join(t.TempDir(), "saved.tar")
	if err := os.WriteFile(file, to.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := c.Load(t.Context(), client.LoadRequest{Path: file}, nil)
	if err != nil || len(got.Images) != 1 || got.Images[0].Error != nil || got.Images[0].Image.Digest != info.Digest {
		t.Fatalf("loaded: %+v %v", got, err)
	}
	to, saved = save()
	if _, err := c.Upgrade(t.Context(), client.UpgradeRequest{}); err != nil {
		t.Error(err)
	}
	close(to.goOn)
	if err := <-saved; err == nil {
		t.Error("an archive was whole that an upgrade broke off")
	}
	nothingLeft(t, dir)
}

// What images say of themselves is in no answer to a load, which has as many as the archive; what has lost its name is.
func TestALoadOfLongTexts(t *testing.T) {
	c, _ := daemonAt(t, shortDir(t), "")
	names := []string{"a", "b", "c", "d", "e", "f"}
	for _, name := range names {
		path, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: name, Cmd: []string{"x"},
			Manifest: `{"schemaVersion":1,"usage":"` + name + strings.Repeat("x", 900<<10) + `"}`})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Import(t.Context(), client.ImportRequest{Path: path, Name: name}, nil); err != nil {
			t.Fatal(err)
		}
	}
	var archive bytes.Buffer
	if err := c.Save(t.Context(), client.SaveRequest{Images: names}, &archive, func(string) {}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "saved.tar")
	if err := os.WriteFile(file, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := c.Image(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Tag(t.Context(), client.TagRequest{Image: "b", Name: "a"}); err != nil {
		t.Fatal(err)
	}
	got, err := c.Load(t.Context(), client.LoadRequest{Path: file}, nil)
	if err != nil || len(got.Images) != len(names) || got.Images[0].Was != before.Digest {
		t.Errorf("%+v %v", got, err)
	}
}
