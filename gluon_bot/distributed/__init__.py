"""Several workers: Horovod, the launcher, ssh, heartbeats, locks, the environment of a worker."""
