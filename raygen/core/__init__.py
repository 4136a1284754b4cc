"""What everything stands on: errors, storages, names and values that come from outside, status."""
