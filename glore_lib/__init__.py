"""The replication of GLoRe (arXiv 2402.10963) as a library; the notebooks tell its story."""

import logging
import os

# OpenMP threads that wait for each other keep their cores for 300,000 turns by default. Beside another busy process,
# that process has the core that they wait for (benchmarks/threads.py). libgomp reads this when torch is imported.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = "1000"

# At import, which peft causes, it warns of an optional CPU kernel: noise at the top of every notebook.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
