"""Connecting to Ray, starting a private Ray for one job, and owning a folder."""
