package driver

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/freejail/freejail/internal/testmanual"
)

// Each job and each configuration of a Nomad client in the documentation and the examples has the keys of this driver.
func TestConfigsInThePages(t *testing.T) {
	seen := 0
	read := func(name, text string) {
		f, diags := hclsyntax.ParseConfig([]byte(text), name, hcl.InitialPos)
		if diags.HasErrors() {
			t.Errorf("%s: %v", name, diags)
			return
		}
		seen += readConfigs(t, f.Body.(*hclsyntax.Body), name, false)
	}
	for _, page := range testmanual.Pages(t, "..") {
		for _, b := range testmanual.Blocks(t, page) {
			if b.Kind() == testmanual.HCL {
				read(page, b.Text)
			}
		}
	}
	for _, pattern := range []string{"../example/nomad/client.hcl", "../example/*/*.nomad.hcl"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Errorf("%s: %v: %v", pattern, files, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			read(file, string(text))
		}
	}
	if seen < 6 {
		t.Errorf("only %d were seen", seen)
	}
}

// readConfigs looks into the config blocks below a body, those of a plugin's block as the plugin's.
func readConfigs(t *testing.T, body *hclsyntax.Body, name string, ofPlugin bool) (seen int) {
	t.Helper()
	for _, b := range body.Blocks {
		switch {
		case b.Type != "config":
			seen += readConfigs(t, b.Body, name, b.Type == "plugin")
		case ofPlugin:
			knowsKeys(t, reflect.TypeFor[Config](), b.Body, name)
			seen++
		default:
			knowsKeys(t, reflect.TypeFor[TaskConfig](), b.Body, name)
			seen++
		}
	}
	return seen
}

// knowsKeys holds the names in a block against the fields that it is read into. A map has any.
func knowsKeys(t *testing.T, block reflect.Type, body *hclsyntax.Body, name string) {
	t.Helper()
	for block.Kind() == reflect.Slice || block.Kind() == reflect.Pointer {
		block = block.Elem()
	}
	if block.Kind() != reflect.Struct {
		return
	}
	fields := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(block) {
		fields[f.Tag.Get("codec")] = f.Type
	}
	for key, a := range body.Attributes {
		if fields[key] == nil {
			t.Errorf("%s: %s: there is no key %q", name, a.SrcRange, key)
		}
	}
	for _, b := range body.Blocks {
		if fields[b.Type] == nil {
			t.Errorf("%s: %s: there is no block %q", name, b.TypeRange, b.Type)
			continue
		}
		knowsKeys(t, fields[b.Type], b.Body, name)
	}
}
