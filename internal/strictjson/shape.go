package strictjson

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"sync"
)

// shape is what a Go type expects of JSON.
type shape struct {
	fields map[string]reflect.Type // of a struct, by the names that JSON has for them
	elem   reflect.Type            // of a slice or a map
}

var (
	unknown  = &shape{}
	shapes   sync.Map // by reflect.Type; of types of the program alone
	jsonType = reflect.TypeFor[json.Unmarshaler]()
	textType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func shapeOf(t reflect.Type) *shape {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil {
		return unknown
	}
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := unknown
	switch p := reflect.PointerTo(t); {
	case p.Implements(jsonType) || p.Implements(textType):
	case t.Kind() == reflect.Struct:
		s = &shape{fields: map[string]reflect.Type{}}
		s.add(t)
	case t.Kind() == reflect.Map || t.Kind() == reflect.Slice || t.Kind() == reflect.Array:
		s = &shape{elem: t.Elem()}
	}
	shapes.Store(t, s)
	return s
}

// add takes in a struct's fields, with those of embedded structs.
func (s *shape) add(t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported() && !f.Anonymous:
		case name != "":
			s.fields[name] = f.Type
		case f.Anonymous && f.Type.Kind() == reflect.Struct:
			s.add(f.Type)
		default:
			s.fields[f.Name] = f.Type
		}
	}
}

// field is a name's type, or nil where it is not known, and the name of the
// struct's field that encoding/json takes it for. The names of a map may be
// anything.
func (s *shape) field(name string) (t reflect.Type, known string) {
	if s.fields == nil {
		return s.elem, name
	}
	if t, ok := s.fields[name]; ok {
		return t, name
	}
	for known, t := range s.fields {
		if strings.EqualFold(known, name) {
			return t, known
		}
	}
	return nil, name
}
