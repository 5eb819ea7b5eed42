// Package schema tests the JSON Schema of the manifest with a validator that
// nothing else needs.
package schema

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// beyond are mistakes that no schema can tell.
var beyond = map[string]bool{
	"field twice": true, "key of a map twice": true, "bad pattern": true, "default against it": true,
	"parameter twice": true, "port name twice": true, "port number twice": true, "volume path twice": true,
}

// Every manifest that the parser takes the schema takes, and what a schema can
// tell it refuses as the parser does.
func TestSchemaAgreesWithTheParser(t *testing.T) {
	text, err := os.ReadFile("../../image/manifest.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("manifest.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases struct {
		Valid, Invalid []struct{ Name, Text string }
	}
	b, err := os.ReadFile("../../image/testdata/manifests.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases.Valid) == 0 || len(cases.Invalid) == 0 {
		t.Fatal("there are no cases")
	}
	check := func(text string) error {
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(text)))
		if err != nil {
			return err
		}
		return s.Validate(v)
	}
	for _, c := range cases.Valid {
		if err := check(c.Text); err != nil {
			t.Errorf("%s is refused: %v", c.Name, err)
		}
	}
	for _, c := range cases.Invalid {
		if err := check(c.Text); (err == nil) != beyond[c.Name] {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}
