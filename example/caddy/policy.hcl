# What a host's policy permits for the jobs of this directory, and no more. The blocks go into freejail.hcl; `images`
# are the names by which hosts know the image: with a registry ["registry.example/team/caddy"].
#
# Ports that Nomad chooses need no permit: those here are for `static` ports of a job and for `freejail run`.
permit {
  description = "Caddy: its ports, and its name in Consul"
  images      = ["caddy"]
  ports       = ["8080/tcp", "8443/tcp"]
  services    = ["own"]
}

test "Caddy" {
  image = "caddy:1"
  allowed {
    ports    = ["8080/tcp", "8443/tcp"]
    services = ["caddy"]
  }
  refused {
    ports    = ["80/tcp", "443/tcp"]
    services = ["caddy:admin", "web"]
    mounts   = ["nullfs:/srv/caddy:rw"]
  }
}
