package host

import (
	"fmt"
	"strings"
	"testing"
)

// What would give images to those who should not have them, or give none, is refused with the block and its line.
func TestMirrorInTheConfiguration(t *testing.T) {
	const account, tls = "\nusername = \"rack\"\npassword_file = \"/p\"", "\ntls_cert = \"/c\"\ntls_key = \"/k\""
	block := func(listen, images, more string) string {
		return fmt.Sprintf("mirror {\nlisten = %q\nimages = [%s]%s\n}\n", listen, images, more)
	}
	const all = `"registry.example/**"`
	private := "registry \"registry.example\" {\nusername = \"u\"\npassword_file = \"/p\"\n}\n"
	mirrored := private + "registry \"public.example\" {\nmirrors = [\"registry.example/cache\"]\n}\n"
	for text, want := range map[string]string{
		block("10.0.0.1:5001", all, ""):                                    "",
		block("10.0.0.1:5001", all, account+tls):                           "",
		block("127.0.0.1:5001", all, account):                              "",
		private + block("10.0.0.1:5001", all, account+tls):                 "",
		private + block("10.0.0.1:5001", `"other.example/web"`, ""):        "",
		block("10.0.0.1:5001", all, account):                               "clear text: add tls_cert",
		block("10.0.0.1:5001", all, "\nusername = \"rack\""):               "needed together",
		block("10.0.0.1:5001", all, "\ntls_cert = \"/c\""):                 "needed together",
		block("10.0.0.1", all, ""):                                         "ADDRESS:PORT",
		block("10.0.0.1:5001", "", ""):                                     "images names none",
		block("10.0.0.1:5001", `"web"`, ""):                                "names no registry",
		block("10.0.0.1:5001", `"**"`, ""):                                 "names no registry",
		block("10.0.0.1:5001", `"registry.example/[a"`, ""):                "not a valid pattern",
		block("10.0.0.1:5001", all, "\nuser = \"root\""):                   "without rights",
		block("10.0.0.1:5001", all, "\nuser = \"no-such-user\""):           "no such user",
		block("10.0.0.1:5001", all, "\ntransfers = 0"):                     "not within 1 to 4096",
		block("10.0.0.1:5001", all, "\nrate = \"1MiB\""):                   "",
		block("10.0.0.1:5001", all, "\nrate = \"10KiB\""):                  "too small: the minimum is 16KiB",
		block("10.0.0.1:5001", all, "\nrate = \"1MiB\"\ntransfers = 65"):   "too small",
		private + block("10.0.0.1:5001", all, ""):                          "everybody would get them here",
		private + block("10.0.0.1:5001", `"registry.example:443/web"`, ""): "everybody would get them here",
		private + block("10.0.0.1:5001", `"*.example/**"`, ""):             "everybody would get them here",
		mirrored + block("10.0.0.1:5001", `"public.example/**"`, ""):       "everybody would get them here",
		mirrored + block("10.0.0.1:5001", `"other.example/**"`, ""):        "",
	} {
		c, err := parseConfig("/x/freejail.hcl", []byte(text))
		switch {
		case want == "" && (err != nil || !c.Mirror.Listen.IsValid()):
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	for more, want := range map[string]int{"": usualTransfers, "\nrate = \"1MiB\"": 64, "\nrate = \"1GiB\"": usualTransfers,
		"\nrate = \"1MiB\"\ntransfers = 7": 7} {
		c, err := parseConfig("/x/freejail.hcl", []byte(block("10.0.0.1:5001", all, more)))
		if err != nil || c.Mirror.Transfers != want {
			t.Errorf("%s: %d transfers, want %d: %v", more, c.Mirror.Transfers, want, err)
		}
	}
	m := Mirror{Images: []string{"registry.example/team/**", "other.example/web"}}
	for name, want := range map[string]bool{"registry.example/team/web:1": true, "other.example/web:2": true,
		"other.example/web2:2": false, "registry.example/web:1": false, "web": false, "file/srv/web.tar": false} {
		if m.Shares(name) != want {
			t.Errorf("%s is given: %v", name, !want)
		}
	}
}
