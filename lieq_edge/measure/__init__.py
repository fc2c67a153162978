"""Stage: measure."""

import os

# Threads that wait for work sleep instead of spinning (read by OpenMP when torch is loaded): on cores that other
# programs use too, spinning made everything two to three times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
