package networks

import "testing"

// TestMetadata has the other machine answer as the metadata service of a cloud: the host reaches it, and tasks of
// each mode do not, but as a name server where the host forwards what is for it: in_canforward in netinet/in.c does
// not for link-local addresses.
func TestMetadata(t *testing.T) {
	h := newHost(t)
	const at4, at6 = "169.254.169.254", "fd00:ec2::254"
	for _, c := range [][]string{{"ifconfig", "lo0", "inet", at4 + "/32", "alias"},
		{"ifconfig", "lo0", "inet6", at6 + "/128", "alias"}} {
		_, err := told(onOther(c...))
		check(t, err)
	}
	call(t, "route", "-q", "add", "-host", at4, outAddr4)
	t.Cleanup(func() { call(t, "route", "-q", "delete", "-host", at4, outAddr4) })
	call(t, "route", "-q", "-6", "add", "-host", at6, outAddr6)
	t.Cleanup(func() { call(t, "route", "-q", "-6", "delete", "-host", at6, outAddr6) })
	cmd := onOther(self("serve", "cloud", "80", "53")...)
	check(t, cmd.Start())
	t.Cleanup(func() {
		check(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
	})
	for _, a := range []string{at4 + ":53", "[" + at6 + "]:53"} {
		await(t, "the service", func() error {
			_, err := here("ask", "tcp", a)
			return err
		})
	}
	for name, services := range map[string][]string{"lan": {at4, "[" + at6 + "]"}, "office": {at4}, "front": {at4}} {
		task := h.task(t, name, name, nil, "8080")
		for _, a := range services {
			if a != at4 || name == "front" {
				reached(t, name+": a name server", "cloud")(h.in(t, task, "ask", "tcp", a+":53"))
			}
			unreached(t, name+": metadata")(h.in(t, task, "ask", "tcp", a+":80"))
		}
	}
	reached(t, "the host: metadata", "cloud")(here("ask", "tcp", at4+":80"))
}
