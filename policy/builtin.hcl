# What comes with freejail. Nothing of this needs a permit, but all of it can be denied.

permit {
  description = "the built-in permit for every task"
  users       = ["*"]
  devfs       = ["hide"]
  networks    = ["none"]
}

permit {
  description = "the built-in permit of what the host gives"
  from        = ["host"]
  ports       = ["1-65535"]
  networks    = ["*"]
  modules     = ["*"]
  mounts      = ["nullfs:/", "linprocfs", "linsysfs", "tmpfs"]
  devfs       = ["path shm unhide"]
  traces      = ["root"]
}

permit {
  description = "the ports that Nomad's scheduler chooses for jobs, unless its client says otherwise"
  from        = ["job"]
  ports       = ["20000-32000"]
  publish     = ["*:20000-32000"]
}

# The named sets: what a permit or a deny gets by sets = ["..."].

set "standard" {
  description = "what most servers need: unprivileged ports, published too, and temporary files in memory"
  ports       = ["1024-65535"]
  publish     = ["*:1024-65535"]
  mounts = ["tmpfs:/tmp:size<=1GiB", "tmpfs:/var/tmp:size<=1GiB", "tmpfs:/var/run:size<=64MiB",
  "tmpfs:/run:size<=64MiB", "fdescfs:/dev/fd"]
}

set "low-ports" {
  description = "the ports below 1024, published too"
  ports       = ["1-1023"]
  publish     = ["*:1-1023"]
}

set "network-tools" {
  description = "raw sockets, for ping and traceroute; also for forged packets"
  allow       = ["raw_sockets"]
}

set "packet-capture" {
  description = "all of the host's traffic by bpf(4), for tcpdump; without vnet this is every jail's too"
  allow       = ["raw_sockets"]
  devfs       = ["path bpf unhide mode 600", "path 'bpf[0-9]*' unhide mode 600"]
}

set "shared-memory" {
  description = "System V IPC of the jail's own, for PostgreSQL and others; not the host's"
  sysvipc     = ["shm=new", "msg=new", "sem=new"]
}

set "linux" {
  description = "Linux programs, with the file systems that they look for"
  linux       = true
  mounts      = ["linprocfs:/proc", "linsysfs:/sys", "tmpfs:/dev/shm:size<=1GiB", "fdescfs:/dev/fd"]
  modules     = ["linprocfs", "linsysfs", "tmpfs", "fdescfs"]
}

set "graphics" {
  description = "the host's graphics cards, for rendering and computing"
  devfs       = ["path dri unhide", "path 'dri/*' unhide mode 666", "path drm unhide", "path 'drm/*' unhide mode 666"]
}
