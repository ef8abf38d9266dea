"""Lists labels that are probably wrong and images worth a label, and merges a person's corrections."""
