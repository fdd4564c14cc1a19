"""What the TPU compiler makes of this code; the command and what it does are in ``__main__``."""

import os

# Read when JAX and libtpu are loaded: there is no machine to ask.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
