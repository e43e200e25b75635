"""Files and folders that are complete or absent, on this machine or on an object store."""
