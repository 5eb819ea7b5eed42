package policy

// Network asks for a network of the host, by its name.
func Network(name string) Privilege { return named{"network", "network", name} }

func init() {
	registerNamed(Network, func(name string) []string { return []string{name} })
}
