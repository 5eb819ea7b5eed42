package network

// resolver answers at the gateway of a network for one of the host.
type resolver struct{}

func (h *holder) resolve(Network) error { return nil }
