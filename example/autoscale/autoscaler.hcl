# Nomad's autoscaler, for policies that are in the scaling blocks of jobs.
#
#   nomad-autoscaler agent -config example/autoscale/autoscaler.hcl
http {
  bind_address = "127.0.0.1"
  bind_port    = 8090
}

nomad {
  address = "http://127.0.0.1:4646"
}

# freejail's metrics, by a Prometheus that scrapes each host's daemon. What Nomad itself knows of tasks needs no
# block: the source nomad-apm is always there.
apm "prometheus" {
  driver = "prometheus"
  config = {
    address = "http://127.0.0.1:9090"
  }
}

strategy "target-value" {
  driver = "target-value"
}
