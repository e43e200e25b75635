"""A space that grows: modalities added, removed, or given another encoder, while all that is there stays as it is."""
