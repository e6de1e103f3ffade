"""The policy against the clairvoyant optimum, for the table in ADR 5.

``python -m tests.unit.service.batching.ratios`` prints it. Traces are made of a seed, so they are the same everywhere.
"""

from __future__ import annotations

from service.batching.cost import buckets_up_to
from service.batching.policy import BatchingPolicy
from tests.fakes import linear_cost
from tests.unit.service.batching.simulation import PROFILES, gamma, optimum, poisson, simulate

RESNET_20 = (5e-5, 6.7e-4, 0.05, 32)
LOADS = (0.9, 1.0, 1.2, 1.5, 2.0, 3.0)
ARRIVALS = {"Poisson": poisson, "gamma, variation 3": gamma}
COUNT, LIMITS = 4000, 100  # the fewest arrivals and time limits of a trace, so that its start and end are a small part
SEEDS = (1, 2)


def ratios(profile: tuple[float, float, float, int], arrivals: str, load: float) -> tuple[float, float]:
    """Return the answers in time over the optimum's: refused late, refused promptly; buckets are powers of two."""
    fixed, per_row, limit, most = profile
    rate = load * 2 * min((limit / 2 - fixed) / per_row, most) / limit
    count = max(COUNT, round(LIMITS * limit * rate))
    late = prompt = best = 0
    for seed in SEEDS:
        trace = ARRIVALS[arrivals](rate, count, seed)
        best += optimum(trace, limit, _policy(fixed, per_row, most))
        late += simulate(trace, limit, _policy(fixed, per_row, most)).in_time
        prompt += simulate(trace, limit, _policy(fixed, per_row, most), prompt=True).in_time
    return late / best, prompt / best


def _policy(fixed: float, per_row: float, most: int) -> BatchingPolicy:
    return BatchingPolicy(linear_cost(fixed, per_row, buckets_up_to(most), ("g",)), most)


def main() -> None:
    """Print the table."""
    print("| cost, time limit | arrivals | " + " | ".join(map(str, LOADS)) + " |")
    print("|---|---|" + "---|" * len(LOADS))
    for name, profile in {**PROFILES, "ResNet-20": RESNET_20}.items():
        fixed, per_row, limit, _ = profile
        for arrivals in ARRIVALS:
            cells = ["{:.2f}, {:.2f}".format(*ratios(profile, arrivals, load)) for load in LOADS]
            print(
                f"| {name}: {1e3 * fixed:g} + {1e3 * per_row:g} b ms, {1e3 * limit:g} ms | {arrivals} | "
                + " | ".join(cells)
                + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
