"""Files and folders: whole or not there, on this machine or on an object store."""
