"""Train, load, convert, prove and publish torch CNNs as model versions that convserve serves."""

import os

# Read once, when torch loads its OpenMP. By default threads spin while they wait for each other, and
# where other programs want the cores a spinning thread keeps the one it waits for from running:
# an epoch of LeNet-5 on two busy cores took 84 s spinning and 15 s sleeping.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
