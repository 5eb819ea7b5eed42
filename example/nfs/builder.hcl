# The host that makes images and exports them, with ZFS:
#
#   freejail daemon --config example/nfs/builder.hcl
#   freejail images import web.tar
#   freejail export web

storage {
  zfs_dataset = "zroot/freejail"
}

nfs {
  export {
    dir         = "/export/freejail"
    zfs_dataset = "zroot/freejail-exports"
    clients     = ["10.0.0.0/24"]
  }
}
