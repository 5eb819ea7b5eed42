package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPermits(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.hcl")
	check(t, os.WriteFile(file, []byte("permit {\n  allow = [\"raw_sockets\", \"chflags\"]\n  sysvipc = "+
		"[\"shm=new\"]\n  devfs = [\"path 'bpf*' unhide\"]\n}\ndeny {\n  allow = [\"chflags\"]\n}\n"), 0o600))
	permit, err := permits(file)
	check(t, err)
	for name, want := range map[string]string{"allow.raw_sockets": "", "sysvshm": "", "allow.chflags": "denied at",
		"allow.mount": "no permit covers it", "sysvsem": "no permit covers it"} {
		value := "true"
		if strings.HasPrefix(name, "sysv") {
			value = "new"
		}
		err := permit(map[string]string{name: value})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), file)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if permit, err := permits(""); permit != nil || err != nil {
		t.Error("a policy of no file:", err)
	}
	if _, err := permits(file + "x"); err == nil {
		t.Error("a policy that is not there")
	}
	check(t, os.WriteFile(file, []byte("permit {\n  allow = 3x\n}\n"), 0o600))
	if _, err := permits(file); err == nil {
		t.Error("a policy that cannot be read")
	}
}

func TestSecretFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	check(t, os.WriteFile(file, []byte("value"), 0o600))
	t.Setenv("SECRET_HERE", "other")
	got, err := secrets([]string{"id=a,src=" + file, "id=b,env=SECRET_HERE"})
	if err != nil || string(got["a"]) != "value" || string(got["b"]) != "other" {
		t.Errorf("%v %v", len(got), err)
	}
	for _, text := range []string{"", "id=a", "src=x", "id=a,src=x,env=y", "id=a,value=x", "id=a,env=NOT_SET_HERE",
		"id=a,src=" + file + ".none"} {
		if _, err := secrets([]string{text}); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	if _, err := secrets([]string{"id=a,src=" + file, "id=a,src=" + file}); err == nil {
		t.Error("a secret twice")
	}
}
