"""Several workers: Horovod, the launcher, ssh, heartbeats, the environment of a worker."""
