# A host that runs the images of builder.hcl, without ZFS and without pulling
# any:
#
#   freejail daemon --config example/nfs/runner.hcl
#   freejail run -d --storage nfs --name web -p http=8088 --param GREETING=Hi web

nfs {
  servers = ["nfs://10.0.0.5/export/freejail"]

  timeout    = "10s"
  upper_size = "64MiB"  # what a task may write to /var and /tmp
  lost       = "10m"    # then Nomad starts the tasks elsewhere
}

permit {
  ports = ["1024-65535"]
  nfs   = true
}
