"""Which labels are probably wrong, which images deserve a label, and the corrections that a person makes of both."""
