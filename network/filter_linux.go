package network

func newFilter(Config) (filter, error) { return nil, errUnfinished }
