"""What a person looks at: figures, comparisons and reports of bundles, runs and checkpoints."""
