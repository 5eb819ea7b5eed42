package host

// pools are of no use here: overlays are the roots of a development host.
func pools() []Pool { return nil }
