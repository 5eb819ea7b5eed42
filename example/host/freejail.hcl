# A host's configuration and policy for freejail:
#
#   freejail daemon --config /usr/local/etc/freejail.hcl
#
# `freejail daemon --check --config FILE` checks it. The daemon follows changes of the
# policy, registries and signers by itself; other changes take effect with
# `freejail daemon --upgrade` or `service freejail reload`. Tasks keep running.

state_dir = "/var/db/freejail"        # images, roots, journals; on FreeBSD's union storage: UFS
socket    = "/var/run/freejail.sock"  # for root only, and for members of a group:
# socket_group = "operators"          # they run tasks under the policy, and see all of them
log_level = "info"                    # trace, debug, info, warn, error
# runc = "/usr/sbin/runc"             # on Linux: which runc imitates jails; default: that of PATH

storage {
  driver = "auto"  # zfs if zfs_dataset is set, else union; overlay on Linux
  # zfs_dataset = "zroot/freejail"
}

# Services are registered with this Consul agent; without the block none are.
consul {
  address = "127.0.0.1:8500"
  # token_file = "/usr/local/etc/freejail.consul-token"
  # advertise  = "192.0.2.10"  # for ports without an address of their own
}

# freejail creates devfs rulesets with these numbers and does not touch others.
# The rules of a jail: open | what was requested and permitted | close.
devfs {
  first     = 1000
  last      = 1999
  max_sets  = 200
  max_rules = 100
  # What every jail sees, instead of devfsrules_unhide_basic and _login of /etc/defaults/devfs.rules:
  # open    = ["path null unhide", "path zero unhide", "path random unhide", "path urandom unhide"]
  close     = ["path mem hide", "path kmem hide", "path io hide"]
}

# The default of all jails: -1 to 3, see security(7).
# jail {
#   securelevel = 2
# }

limits {
  image_size = "16GiB"  # of an unpacked image
  layer_size = "8GiB"
  entries    = 1000000  # files, directories and links of an unpacked image
  log_size   = "16MiB"  # of each stream of a task of `freejail run`, in all
  disk       = "10GiB"  # written to the root, for tasks that set no limit; default disk_max
  disk_max   = "100GiB" # the largest that a task may ask for; without both there is no limit
}

# `freejail gc` removes unused images that jobs pulled or gave by a path, but never
# one that runs or that an operator imported or pulled.
gc {
  older      = "168h"   # not used for this time
  # max_size = "20GiB"  # of all images, stored and unpacked; the least recently used go first
}

# Where scrapers of metrics are answered, at /metrics: docs/metrics.md.
# metrics {
#   listen     = "127.0.0.1:9477"  # another address needs all of these:
#   tls_cert   = "/usr/local/etc/freejail.cert.pem"
#   tls_key    = "/usr/local/etc/freejail.key.pem"
#   token_file = "/usr/local/etc/freejail.metrics-token"
# }

# Images for other hosts, by `freejail serve --mirror`: docs/registries.md.
# mirror {
#   listen        = "192.0.2.10:5001"
#   images        = ["registry.example/team/**"]
#   tls_cert      = "/usr/local/etc/freejail.cert.pem"
#   tls_key       = "/usr/local/etc/freejail.key.pem"
#   username      = "rack"
#   password_file = "/usr/local/etc/freejail.mirror-password"  # (umask 077; openssl rand -hex 16 >FILE)
#   transfers     = 256       # at once
#   rate          = "100MiB"  # a second, of all
# }

# Where spans of starts are sent, by OTLP over HTTP: docs/metrics.md.
# tracing {
#   endpoint = "http://127.0.0.1:4318"  # https where that is not loopback
# }

# Registries need a block for mirrors, credentials, certificates or HTTP only:
# docs/registries.md.
# registry "registry.example" {
#   mirrors   = ["mirror.example:5000"]
#   auth_file = "/usr/local/etc/freejail.auth.json"  # of podman login or docker login
# }
# default_registry = "registry.example"  # for names without a host; default: none

# Keys by which images are signed, for `signer` in permits and requires.
# signer "release" {
#   key_file = "/usr/local/etc/freejail.release.pub"
# }

# Keys whose signed approvals of an image's digest count here, see docs/policy.md.
# approver "security" {
#   key_file         = "/usr/local/etc/freejail.security.pub"
#   revocations      = "https://deploy.example/security.revocations"  # or the path of a file
#   max_age          = "168h"    # of that list, by its date
#   when_unreachable = "refuse"  # or keep, where there is no current list
#   kinds            = ["allow"]  # any request of these kinds, and what these blocks cover:
#   may {
#     mounts = ["nullfs:/srv/lab:ro"]
#   }
# }

# Networks for tasks, see docs/networks.md; without these there are host, the host's own
# stack, and none, loopback alone. `freejail doctor` tells what the host needs for them.
# default_network = "web"  # of tasks whose job names none; default host
# network "web" {
#   mode        = "nat"  # a stack of its own; ports of the host are published to it
#   subnet4     = "10.88.0.0/24"  # of either family, or both
#   subnet6     = "fd00:88::/64"
#   # pool4     = "10.88.0.100-10.88.0.199"  # or a prefix; default: all but the gateway
#   # pool6     = "fd00:88::1000/116"
#   # gateway   = ["10.88.0.1", "fd00:88::1"]  # the host in the subnet; default the first
#   # interface = "em0"  # where packets leave; default: by their route
#   # dns       = ["192.0.2.53"]               # default: the host's
#   isolate     = false  # true: tasks reach each other at published ports alone
#   host_access = ["53/udp", "53/tcp"]  # ports of the host that tasks reach at the gateway
#   # mtu       = 1500
# }
# network "lan" {
#   mode    = "bridged"  # a stack of its own on a bridge that is there
#   bridge  = "bridge0"
#   subnet4 = "192.0.2.0/24"
#   pool4   = "192.0.2.200-192.0.2.239"  # addresses that nobody else gives
#   gateway = "192.0.2.1"                # of the network; default: no default route
# }
# network "public" {
#   mode      = "alias"  # the host's stack, confined to an address of an interface
#   interface = "em0"
#   subnet4   = "198.51.100.0/24"
#   pool4     = "198.51.100.10-198.51.100.19"
# }

# Roots over NFS, see docs/nfs.md: the servers that are trusted for them, and
# what this host itself exports.
# nfs {
#   servers = ["nfs://10.0.0.5/export/freejail"]
#   export {
#     dir     = "/export/freejail"
#     clients = ["10.0.0.0/24"]
#   }
# }

# --- policy -------------------------------------------------------------------
# What no permit covers is refused, with the command by which an operator can
# approve it for one digest of the image. A deny wins over permits and approvals.
# `freejail policy sets` shows the built-in sets.

# Every image may serve unprivileged ports and have temporary files in memory. They
# count as memory of the task; if a permit has no size, as in "tmpfs:/tmp", a tmpfs
# without a size has that of the task's memory.
permit {
  ports  = ["1024-65535"]
  mounts = ["tmpfs:/tmp:size<=1GiB"]  # together, of one task
}

# Names in Consul are requests too, with their tags. The image web may have its own
# name with the tag example, and no other.
permit {
  images   = ["web"]
  services = ["own:example"]
}

# Databases need shared memory of their own, not the host's.
permit {
  images = ["postgres"]  # a name of `freejail images`, with globs
  sets   = ["shared-memory"]
  mounts = ["nullfs:/srv/postgres:rw"]
}

deny {
  devfs = ["path mem unhide", "path kmem unhide", "path io unhide"]
}

# `freejail policy test FILE` checks these.
test "databases, and they alone" {
  image = "postgres:16"
  allowed {
    sysvipc = ["shm=new"]
    mounts  = ["nullfs:/srv/postgres/data:rw"]
  }
  refused {
    sysvipc = ["shm=inherit"]
    devfs   = ["path 'k*' unhide"]
  }
}

test "everyone else" {
  image = "web"
  allowed {
    ports    = ["8080"]
    services = ["web:example"]
  }
  refused {
    ports    = ["80"]
    services = ["vault", "web:admin"]
    sysvipc  = ["shm=new"]
    mounts   = ["nullfs:/:ro"]
  }
}
