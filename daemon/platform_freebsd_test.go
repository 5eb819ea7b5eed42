package daemon

import "testing"

// Sysctls of several types, as text: a name of seven letters is no number.
func TestSysctl(t *testing.T) {
	for name, want := range map[string]string{"kern.ostype": "FreeBSD", "hw.pagesize": "4096", "kern.osrelease": "", "kern.racct.enable": ""} {
		got, err := sysctl(name)
		if err != nil || want != "" && got != want || got == "" {
			t.Errorf("%s: %q %v, want %q", name, got, err, want)
		}
	}
	if v, err := sysctl("kern.racct.enable"); err != nil || v != "0" && v != "1" {
		t.Errorf("kern.racct.enable: %q %v, a truth value of one byte", v, err)
	}
	if v, err := sysctl("no.such.sysctl"); err == nil {
		t.Errorf("no.such.sysctl: %q", v)
	}
}
