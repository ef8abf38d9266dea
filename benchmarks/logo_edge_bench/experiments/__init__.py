"""The experiments behind the documents' tables: `python -m logo_edge_bench.experiments NAME`.

Each module measures one thing: `measure` writes its result to benchmarks/results/NAME.json, and `TABLES` renders that
result for the documents. They need a checkout and the extra `dev`, so the wheel leaves this folder out.
"""

import logo_edge_train  # noqa: F401  # before torch: it sets how torch's libraries report and share memory
