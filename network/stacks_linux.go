package network

func newStacks(Config) (stacks, error) { return nil, errUnfinished }
