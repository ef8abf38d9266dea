"""What a person looks at: figures, comparisons and reports of bundles, runs and checkpoints."""

import logo_edge  # noqa: F401  # which tells the libraries that load next to report nothing
