"""Architecture search under a latency limit."""
