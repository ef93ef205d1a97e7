"""Batch jobs: what a cluster user needs around a sweep. It imports sweep, which never needs it."""
