"""What a teacher said of a whole data set, on disk: formats of records, shards, and the manifest that says of what."""
