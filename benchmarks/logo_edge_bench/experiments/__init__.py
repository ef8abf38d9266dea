"""The experiments behind the documents' tables: `python -m logo_edge_bench.experiments NAME`.

Each module measures one thing: `measure` writes its result to benchmarks/results/NAME.json. The modules `*_tables`,
`peers` and `shipped` render results for the documents, without the libraries that measure. All need a checkout and the
extra `dev`, so the wheel leaves this folder out.
"""

import logo_edge_train  # noqa: F401  # before torch: it sets how torch's libraries report and share memory
