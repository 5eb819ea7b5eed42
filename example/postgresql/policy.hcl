# What a host permits PostgreSQL, and nothing else: these blocks go into its freejail.hcl.

permit {
  description = "PostgreSQL"
  images      = ["postgresql", "postgresql-debian"]
  ports       = ["5432/tcp"]  # and "5433/tcp", for a second server beside it
  services    = ["postgresql"]
  sysvipc     = ["shm=new"]  # by which it finds processes that a crashed server has left
}

deny {
  images = ["postgresql", "postgresql-debian"]
  users  = ["root"]
}

test "PostgreSQL" {
  image = "postgresql:17"
  allowed {
    ports    = ["5432/tcp"]
    services = ["postgresql"]
    sysvipc  = ["shm=new"]
  }
  refused {
    ports    = ["5433/tcp", "5432/udp"]
    services = ["postgresql:admin", "vault"]
    sysvipc  = ["shm=inherit", "sem=new"]
    users    = ["root"]
    mounts   = ["nullfs:/srv/postgresql"]
  }
}

test "no other image" {
  image = "evil.example/postgresql"
  refused {
    ports    = ["5432/tcp"]
    services = ["postgresql"]
    sysvipc  = ["shm=new"]
  }
}
