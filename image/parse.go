package image

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/freejail/freejail/internal/strictjson"
)

// maxManifest bounds the manifest's text, in bytes.
const maxManifest = 1 << 20

var manifestRules = strictjson.Rules{Bytes: maxManifest, Values: 4096}

// ParseManifest reads and validates a manifest. It is strict: an unknown, a
// misspelt or a repeated field, null and a wrong type are errors. The error
// names every mistake by its place, such as ports[1].port.
func ParseManifest(b []byte) (*Manifest, error) {
	if err := strictjson.Check(b, nil, manifestRules); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if err := checkShape(b, reflect.TypeFor[Manifest]()); err != nil {
		return nil, err
	}
	m := &Manifest{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

// checkShape compares JSON that strictjson has checked with a Go type, more
// strictly than encoding/json does, which takes PORTS for ports and null for
// anything, and whose errors do not tell an array's index.
func checkShape(b []byte, t reflect.Type) error {
	s := &shape{dec: json.NewDecoder(bytes.NewReader(b))}
	s.dec.UseNumber()
	if err := s.value(t, ""); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	return errors.Join(s.errs...)
}

// maxFaults bounds the mistakes that are told.
const maxFaults = 50

type shape struct {
	dec  *json.Decoder
	errs []error // of fields; a syntax error ends the walk instead
}

func (s *shape) fault(at, format string, args ...any) {
	if len(s.errs) == maxFaults {
		return // they tell enough
	}
	if at == "" {
		at = "the whole"
	}
	s.errs = append(s.errs, fmt.Errorf("manifest: %s: "+format, append([]any{at}, args...)...))
}

var textType = reflect.TypeFor[encoding.TextUnmarshaler]()

func (s *shape) value(t reflect.Type, at string) error {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	tok, err := s.dec.Token()
	if err != nil {
		return err
	}
	kind := t.Kind()
	if reflect.PointerTo(t).Implements(textType) {
		kind = reflect.String
	}
	switch v := tok.(type) {
	case json.Delim:
		switch {
		case v == '{' && kind == reflect.Struct:
			return s.object(at, fieldsOf(t))
		case v == '{' && kind == reflect.Map:
			return s.object(at, func(string) (reflect.Type, string) { return t.Elem(), "" })
		case v == '[' && kind == reflect.Slice:
			return s.array(t.Elem(), at)
		}
		s.mismatch(kind, at, tok)
		return s.skip()
	case string:
		if kind != reflect.String {
			s.mismatch(kind, at, tok)
		} else if u, ok := reflect.New(t).Interface().(encoding.TextUnmarshaler); ok {
			if err := u.UnmarshalText([]byte(v)); err != nil {
				s.fault(at, "%v", err)
			}
		}
	case json.Number:
		if kind != reflect.Int {
			s.mismatch(kind, at, tok)
		} else if n, err := v.Int64(); err != nil || n != int64(int(n)) {
			s.fault(at, "%s is not an integer, or out of range", v)
		}
	case bool:
		if kind != reflect.Bool {
			s.mismatch(kind, at, tok)
		}
	default:
		s.mismatch(kind, at, tok)
	}
	return nil
}

func (s *shape) mismatch(want reflect.Kind, at string, tok json.Token) {
	names := map[reflect.Kind]string{reflect.Struct: "an object", reflect.Map: "an object", reflect.Slice: "an array",
		reflect.String: "a string", reflect.Int: "an integer", reflect.Bool: "true or false"}
	got := "null"
	switch v := tok.(type) {
	case json.Delim:
		got = map[json.Delim]string{'{': "an object", '[': "an array"}[v]
	case string:
		got = "a string"
	case json.Number:
		got = "the number " + v.String()
	case bool:
		got = fmt.Sprint(v)
	}
	s.fault(at, "want %s, got %s", names[want], got)
}

// skip passes over the rest of an object or array that has just been opened.
func (s *shape) skip() error {
	for depth := 1; depth > 0; {
		tok, err := s.dec.Token()
		if err != nil {
			return err
		}
		if d, ok := tok.(json.Delim); ok {
			if d == '{' || d == '[' {
				depth++
			} else {
				depth--
			}
		}
	}
	return nil
}

func (s *shape) array(elem reflect.Type, at string) error {
	for i := 0; s.dec.More(); i++ {
		if err := s.value(elem, fmt.Sprintf("%s[%d]", at, i)); err != nil {
			return err
		}
	}
	_, err := s.dec.Token()
	return err
}

// object asks typeOf for each field's type; nil is an unknown field, and the
// text then says which there are.
func (s *shape) object(at string, typeOf func(name string) (reflect.Type, string)) error {
	for s.dec.More() {
		tok, err := s.dec.Token()
		if err != nil {
			return err
		}
		name, _ := tok.(string) // the decoder allows nothing else here
		field := name
		if at != "" {
			field = at + "." + name
		}
		t, known := typeOf(name)
		if t == nil {
			s.fault(field, "unknown field: want one of %s", known)
			var passed json.RawMessage
			if err := s.dec.Decode(&passed); err != nil {
				return err
			}
			continue
		}
		if err := s.value(t, field); err != nil {
			return err
		}
	}
	_, err := s.dec.Token()
	return err
}

func fieldsOf(t reflect.Type) func(string) (reflect.Type, string) {
	types := map[string]reflect.Type{}
	var names []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		types[name] = t.Field(i).Type
		names = append(names, name)
	}
	slices.Sort(names)
	return func(name string) (reflect.Type, string) { return types[name], strings.Join(names, ", ") }
}
