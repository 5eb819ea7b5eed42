# A host's configuration and policy for freejail:
#
#   freejail daemon --config /usr/local/etc/freejail.hcl
#
# `freejail daemon --check --config FILE` says whether it is valid. The daemon
# follows changes of the policy, registries and signers by itself; all else takes effect with
# `freejail daemon --upgrade` or `service freejail reload`. No task is touched.

state_dir = "/var/db/freejail"        # images, roots, journals; on FreeBSD's union storage: UFS
socket    = "/var/run/freejail.sock"  # for root alone
log_level = "info"                    # trace, debug, info, warn, error

storage {
  driver = "auto"  # zfs where zfs_dataset is set, else union; overlay on Linux
  # zfs_dataset = "zroot/freejail"
}

# Services go to this Consul agent. Remove the block and none are registered.
consul {
  address = "127.0.0.1:8500"
  # token_file = "/usr/local/etc/freejail.consul-token"
  # advertise  = "192.0.2.10"  # for ports without an address of their own
}

# freejail makes devfs rulesets within these numbers and leaves all others alone.
# A jail sees: open | what its image asks for and may have | close.
devfs {
  first     = 1000
  last      = 1999
  max_sets  = 200
  max_rules = 100
  close     = ["path mem hide", "path kmem hide", "path io hide"]
}

# Of every jail that asks for no other: -1 to 3, see security(7).
# jail {
#   securelevel = 2
# }

limits {
  image_size = "16GiB"  # of an unpacked image
  layer_size = "8GiB"
  log_size   = "16MiB"  # of each stream of a task of `freejail run`, in all
  disk       = "10GiB"  # that a task may write to its root, if it says nothing; without it: disk_max
  disk_max   = "100GiB" # that a task may ask for; without both there is no limit
}

# `freejail gc` forgets images that jobs gave by a path, as their artifacts, but
# never one that runs or that someone has named.
gc {
  older      = "168h"   # not used for so long
  # max_size = "20GiB"  # of all images, stored and unpacked: then the longest unused go first
}

# Registries need no block unless they have mirrors, credentials, certificates of
# their own, or HTTP alone: docs/registries.md.
# registry "registry.example" {
#   mirrors   = ["mirror.example:5000"]
#   auth_file = "/usr/local/etc/freejail.auth.json"  # of podman login or docker login
# }
# default_registry = "registry.example"  # of names without a host; without it, none

# Keys by which images are signed, for `signer` in permits and requires.
# signer "release" {
#   key_file = "/usr/local/etc/freejail.release.pub"
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
# `freejail policy sets` tells what the sets hold.

# Every image may serve unprivileged ports and have temporary files in memory. They
# count as memory of the task; where a permit names no size, as in "tmpfs:/tmp", one
# without a size has that of the task's memory.
permit {
  ports  = ["1024-65535"]
  mounts = ["tmpfs:/tmp:size<=1GiB"]  # together, of one task
}

# Names in Consul are asked for as well, with their tags. The image web may have its
# own name with the tag example, and no other.
permit {
  images   = ["web"]
  services = ["own:example"]
}

# Databases need shared memory; theirs alone, not the host's.
permit {
  images = ["postgres"]  # a name of `freejail images`, with globs
  sets   = ["shared-memory"]
  mounts = ["nullfs:/srv/postgres:rw"]
}

deny {
  devfs = ["path mem unhide", "path kmem unhide", "path io unhide"]
}

# `freejail policy test FILE` tells whether these hold.
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
