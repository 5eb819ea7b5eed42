package strictjson

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

type base struct {
	Version int `json:"version"`
}

type doc struct {
	base
	Name   string            `json:"name,omitempty"`
	Layers []layer           `json:"layers"`
	Notes  map[string]string `json:"notes"`
	At     *time.Time        `json:"at"`
	Data   []byte            `json:"data"`
	Any    any               `json:"any"`
	Skipp  string            `json:"-"`
	Plain  map[string]layer
}

type layer struct {
	Size int64 `json:"size"`
}

var rules = Rules{Bytes: 1 << 20, Values: 1000}

func TestOneWayOfReading(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"all fields": {
			`{"version":1,"name":"a","layers":[{"size":1},{}],"notes":{"A":"1","a":"2"},"at":"2024-01-01T00:00:00Z","data":"eA==","any":[{"x":1}],"Plain":{"k":{"size":2}}}`, ""},
		"what is not known":        {` {"other":{"b":[1,-2.5e3,true,false,null,"x"],"B":{}}, "layers" : null } `, ""},
		"no object":                {`"\u00e9\ud83d\ude00\\u"`, ""},
		"twice":                    {`{"name":"a","name":"a"}`, "name: duplicate key"},
		"twice by an escape":       {`{"name":"a","n\u0061me":"a"}`, "name: duplicate key"},
		"twice below":              {`{"layers":[{},{"size":1,"size":1}]}`, "layers[1].size: duplicate key"},
		"twice in what is unknown": {`{"other":[{"a":{"b":1,"b":2}}]}`, "other[0].a.b: duplicate key"},
		"twice in a map":           {`{"notes":{"a":"","a":""}}`, "notes.a: duplicate key"},
		"another case":             {`{"Name":"a"}`, `Name: some programs take it for "name"`},
		"another case beside it":   {`{"layers":[],"LAYERS":[]}`, `LAYERS: some programs take it for "layers"`},
		"another case below":       {`{"Plain":{"x":{"Size":1}}}`, `Plain.x.Size: some programs take it for "size"`},
		"another case, embedded":   {`{"Version":1}`, `Version: some programs take it for "version"`},
		"another letter k":         {`{"notes":{},"note\u017f":{}}`, `some programs take it for "notes"`},
		"after it":                 {`{} {}`, "after its end"},
		"after it, garbage":        {`{}x`, "after its end"},
		"cut off":                  {`{"a":`, "unexpected end"},
		"nothing":                  {``, "unexpected end"},
		"no JSON":                  {`{'a':1}`, "invalid character"},
		"not UTF-8":                {"{\"name\":\"\xff\"}", "UTF-8"},
		"half a pair":              {`{"name":"\ud800"}`, "surrogate"},
		"the other half":           {`{"name":"\udc00"}`, "surrogate"},
		"halves apart":             {`{"name":"\ud800x\udc00"}`, "surrogate"},
		"half a pair as a name":    {`{"\ud800":1,"\ud801":1}`, "surrogate"},
		"deep":                     {strings.Repeat("[", 65) + strings.Repeat("]", 65), "64 deep"},
		"as deep as may be":        {strings.Repeat("[", 64) + strings.Repeat("]", 64), ""},
		"many values":              {`{"other":[` + strings.Repeat("{},", 1000) + `{}]}`, "more than 1000 values"},
		"many bytes":               {`"` + strings.Repeat("x", 1<<20) + `"`, "over the limit"},
		"names for a terminal":     {`{"other\u001b[1m":{"a":1,"a":1}}`, `"other\x1b[1m".a: duplicate key`},
	} {
		t.Run(name, func(t *testing.T) {
			err := Check([]byte(c.text), reflect.TypeFor[*doc](), rules)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("the error is %v, want %q", err, c.want)
			}
		})
	}
}

// Where case does not count, it does not make two fields of one.
func TestAnyCase(t *testing.T) {
	r := rules
	r.AnyCase = true
	var d doc
	if err := Unmarshal([]byte(`{"NAME":"a","notes":{"x":"","X":""}}`), &d, r); err != nil || d.Name != "a" {
		t.Errorf("it is %+v: %v", d, err)
	}
	for _, text := range []string{`{"NAME":"a","name":"b"}`, `{"name":"a","Name":"b"}`, `{"NAME":"a","Name":"b"}`} {
		if err := Unmarshal([]byte(text), &d, r); err == nil || !strings.Contains(err.Error(), "duplicate key") {
			t.Errorf("%s: the error is %v", text, err)
		}
	}
}

// An error is short, whatever the document says.
func TestErrorsAreShort(t *testing.T) {
	name := strings.Repeat("n", 10_000)
	text := strings.Repeat(`{"`+name+`":`, 60) + `{"a":1,"a":1}` + strings.Repeat("}", 60)
	err := Check([]byte(text), nil, rules)
	if err == nil || len(err.Error()) > 1000 {
		t.Errorf("the error is %.100v", err)
	}
}

// What is taken is what a decoder makes of it that knows no fields.
func FuzzOneWayOfReading(f *testing.F) {
	for _, s := range []string{`{"version":1,"layers":[{"size":1}],"notes":{"a":"\ud83d\ude00"}}`, `[1,2,{"a":null}]`,
		`{"a":{"b":[true,"\\\""]}}`, `{"Name":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var d doc
		if Unmarshal(b, &d, rules) != nil {
			return
		}
		var generic any
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.UseNumber() // no digit is lost
		if err := dec.Decode(&generic); err != nil {
			t.Fatalf("others cannot read it: %v", err)
		}
		again, err := json.Marshal(generic)
		if err != nil {
			t.Fatal(err)
		}
		var second doc
		if err := Unmarshal(again, &second, Rules{Bytes: 8 << 20, Values: rules.Values}); err != nil {
			t.Fatalf("written anew it is refused: %v", err)
		}
		if !reflect.DeepEqual(d, second) {
			t.Errorf("it is %+v, and written anew %+v", d, second)
		}
	})
}
