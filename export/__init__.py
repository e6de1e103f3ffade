"""Train, load, convert, prove and publish torch CNNs as model versions that convserve serves."""

import os

# OpenMP reads this once, when torch loads it. By default, threads spin while they wait for each other.
# If other programs need the cores, a spinning thread can keep the thread it waits for from running:
# an epoch of LeNet-5 on two busy cores took 84 s with spinning and 15 s with sleeping.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
