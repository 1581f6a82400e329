"""The replication of GLoRe (arXiv 2402.10963) as a library; the notebooks tell its story."""

import logging

# At import, which peft causes, it warns of an optional CPU kernel: noise at the top of every notebook.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
