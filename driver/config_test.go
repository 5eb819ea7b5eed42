package driver

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/shared/hclspec"
)

// Each key of a job and of the plugin's block stands in the documentation, and the
// schema has what the tags of its field say.
func TestKeysAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/nomad.md")
	if os.IsNotExist(err) {
		t.Skip("the documentation is not here")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range []reflect.Type{reflect.TypeFor[Config](), reflect.TypeFor[TaskConfig](),
		reflect.TypeFor[mountConfig](),
		reflect.TypeFor[dnsConfig](), reflect.TypeFor[serviceConfig](), reflect.TypeFor[authConfig]()} {
		for _, f := range reflect.VisibleFields(block) {
			if name := f.Tag.Get("codec"); name == "" || !strings.Contains(string(page), name) {
				t.Errorf("docs/nomad.md has no key %q", name)
			}
		}
	}
}

func TestSchema(t *testing.T) {
	task := taskConfigSpec.GetObject().GetAttributes()
	if a := task["image"].GetAttr(); a.GetType() != "string" || !a.GetRequired() {
		t.Errorf("image: %v", a)
	}
	if d := task["image_pull_timeout"].GetDefault(); d.GetDefault().GetLiteral().GetValue() != `"5m"` ||
		d.GetPrimary().GetAttr().GetRequired() {
		t.Errorf("image_pull_timeout: %v", d)
	}
	if b := task["mount"].GetBlockList(); b.GetNested().GetObject().GetAttributes()["source"].GetAttr().GetRequired() != true {
		t.Errorf("mount: %v", b)
	}
	for name, want := range map[string]string{"volumes": "list(string)", "pids_limit": "number", "force_pull": "bool"} {
		if a := task[name].GetAttr(); a.GetType() != want {
			t.Errorf("%s: %v, want %s", name, a, want)
		}
	}
	if _, ok := task["sysctl"].Block.(*hclspec.Spec_BlockAttrs); !ok {
		t.Errorf("sysctl: %v", task["sysctl"])
	}
}
