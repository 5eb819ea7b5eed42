package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/internal/regular"
)

// secrets reads --secret: id=NAME,src=FILE or id=NAME,env=VARIABLE. No value is
// in an argument, which every process of a host can read.
func secrets(list []string) (map[string]build.Secret, error) {
	out := map[string]build.Secret{}
	for _, text := range list {
		id, value, err := secret(text)
		if err != nil {
			return nil, err
		}
		if _, twice := out[id]; twice {
			return nil, app.Usagef("--secret id=%s is given twice", id)
		}
		out[id] = value
	}
	return out, nil
}

func secret(text string) (id string, value build.Secret, err error) {
	set := map[string]string{}
	for word := range strings.SplitSeq(text, ",") {
		key, v, has := strings.Cut(word, "=")
		if key == "source" {
			key = "src"
		}
		if !has || v == "" || key != "id" && key != "src" && key != "env" {
			return "", nil, app.Usagef("--secret: expected id=NAME,src=FILE or id=NAME,env=VARIABLE")
		}
		set[key] = v
	}
	id = set["id"]
	if id == "" || (set["src"] == "") == (set["env"] == "") {
		return "", nil, app.Usagef("--secret: expected id=NAME,src=FILE or id=NAME,env=VARIABLE")
	}
	if name := set["env"]; name != "" {
		v, ok := os.LookupEnv(name)
		if !ok {
			return "", nil, app.Usagef("--secret id=%s: no variable %s in the environment", id, name)
		}
		return id, build.Secret(v), nil
	}
	value, err = readSecret(set["src"])
	if err != nil {
		err = fmt.Errorf("--secret id=%s: %w", id, err)
	}
	return id, value, err
}

func readSecret(file string) ([]byte, error) {
	f, _, err := regular.Open(file)
	if err != nil {
		return nil, err
	}
	b, err := regular.Read(f, file, build.MaxSecret)
	return b, errors.Join(err, f.Close())
}
