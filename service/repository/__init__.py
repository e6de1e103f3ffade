"""Model versions: found on disk, chosen by policy, loaded, proven, lent to requests, unloaded."""
