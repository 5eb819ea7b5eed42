# What a host's policy permits for the jobs of this directory, and no more. The blocks go into freejail.hcl; `images`
# are the names by which hosts know the image: with a registry ["registry.example/team/nats"].
#
# Ports that Nomad chooses need no permit: those here are for `static` ports of a job and for `freejail run`.
permit {
  description = "NATS: its ports, and its name in Consul"
  images      = ["nats"]
  ports       = ["4222/tcp", "8222/tcp"]
  services    = ["own"]
}

test "NATS" {
  image = "nats:1"
  allowed {
    ports    = ["4222/tcp", "8222/tcp"]
    services = ["nats"]
  }
  refused {
    ports    = ["6222/tcp"]
    services = ["nats:admin", "web"]
    mounts   = ["nullfs:/srv/nats:rw"]
  }
}
