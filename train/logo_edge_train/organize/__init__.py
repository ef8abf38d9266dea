"""A folder of images becomes a manifest: features, proposed labels, duplicates, splits."""
