"""The benchmark harness: accuracy and latency of the same artifact. Measuring needs only the runtime."""

import logo_edge  # noqa: F401  # before other libraries: it switches off their telemetry
