package host

import zfs "github.com/mistifyio/go-zfs/v3"

// pools are those that the host has imported; none where it has no ZFS.
func pools() (out []Pool) {
	list, err := zfs.ListZpools()
	if err != nil {
		return nil
	}
	for _, z := range list {
		p := Pool{Name: z.Name}
		_, err := zfs.GetDataset(p.dataset())
		p.Dataset = err == nil
		out = append(out, p)
	}
	return out
}
