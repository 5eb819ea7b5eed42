# What a host permits nginx, and nothing else: these blocks go into its freejail.hcl.

permit {
  description = "nginx: the port that its image declares; where it is served Nomad chooses"
  images      = ["nginx", "nginx-debian"]
  ports       = ["8080/tcp"]
  services    = ["nginx"]
}

permit {
  description = "the image of Linux, on FreeBSD"
  images      = ["nginx-debian"]
  linux       = true
}

deny {
  images = ["nginx", "nginx-debian"]
  users  = ["root"]
}

test "nginx" {
  image = "nginx:1"
  allowed {
    ports    = ["8080/tcp"]
    services = ["nginx"]
  }
  refused {
    linux    = true
    ports    = ["80/tcp"]
    services = ["nginx:admin", "vault"]
    sysvipc  = ["shm=new"]
    users    = ["root"]
    mounts   = ["nullfs:/srv/www"]
  }
}

test "nginx of Debian" {
  image = "nginx-debian:1"
  allowed {
    linux    = true
    services = ["nginx"]
  }
}

test "no other image" {
  image = "evil.example/nginx"
  refused {
    linux    = true
    ports    = ["8080/tcp"]
    services = ["nginx"]
  }
}
