"""Train, load, convert, prove and publish torch CNNs as model versions that convserve serves."""
