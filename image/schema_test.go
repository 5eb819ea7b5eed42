package image

import (
	"encoding"
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// schema is one of JSON Schema's, as far as it says which fields there are.
type schema struct {
	Ref                  string `json:"$ref"`
	Type                 string
	Properties           map[string]*schema
	Items                *schema
	AdditionalProperties json.RawMessage
	Defs                 map[string]*schema `json:"$defs"`
}

// The reference page tells of every field.
func TestReferenceHasEveryField(t *testing.T) {
	page, err := os.ReadFile("../docs/manifest.md")
	if err != nil {
		t.Skip("the source is not here:", err)
	}
	var look func(typ reflect.Type)
	look = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if text := string(page); !strings.Contains(text, "`"+name+"`") && !strings.Contains(text, "."+name+"`") &&
				!strings.Contains(text, "`"+name+".") && !strings.Contains(text, "`"+name+"[") &&
				!strings.Contains(text, "## "+name) {
				t.Errorf("docs/manifest.md says nothing about %s", name)
			}
			look(typ.Field(i).Type)
		}
	}
	look(reflect.TypeFor[Manifest]())
}

// The schema knows the manifest's fields and their types, and no others.
func TestSchemaIsInStepWithTheManifest(t *testing.T) {
	var whole schema
	if err := json.Unmarshal(ManifestSchema, &whole); err != nil {
		t.Fatal(err)
	}
	var compare func(at string, typ reflect.Type, s *schema)
	compare = func(at string, typ reflect.Type, s *schema) {
		if s == nil {
			t.Errorf("%s: the schema says nothing about it", at)
			return
		}
		if name, ok := strings.CutPrefix(s.Ref, "#/$defs/"); ok {
			s = whole.Defs[name]
		}
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		switch {
		case reflect.PointerTo(typ).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()),
			typ.Kind() == reflect.String:
			if s.Type != "string" && s.Type != "" {
				t.Errorf("%s: the schema wants the type %s", at, s.Type)
			}
		case typ.Kind() == reflect.Slice:
			compare(at+"[]", typ.Elem(), s.Items)
		case typ.Kind() == reflect.Struct:
			if string(s.AdditionalProperties) != "false" {
				t.Errorf("%s: the schema takes fields that it does not know", at)
			}
			var fields []string
			for i := range typ.NumField() {
				name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
				fields = append(fields, name)
				compare(at+"."+name, typ.Field(i).Type, s.Properties[name])
			}
			slices.Sort(fields)
			if known := slices.Sorted(maps.Keys(s.Properties)); !slices.Equal(known, fields) {
				t.Errorf("%s: the schema knows %v, the manifest %v", at, known, fields)
			}
		case typ.Kind() == reflect.Map && s.Type != "object", typ.Kind() == reflect.Bool && s.Type != "boolean":
			t.Errorf("%s: the schema wants the type %q for %s", at, s.Type, typ)
		}
	}
	compare("manifest", reflect.TypeFor[Manifest](), &whole)
}
