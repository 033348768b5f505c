"""Time of samreg.match beyond the target's embedding.

python experiments/landmark_speed.py TEMPLATE POINTS.csv TARGET --model mind
"""

from __future__ import annotations

import argparse
import statistics
import time

import samreg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("template")
    parser.add_argument("points")
    parser.add_argument("target")
    parser.add_argument("--model", default=None)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    from samreg.embedding import DEFAULT_MODEL

    model = samreg.load_model(arguments.model or DEFAULT_MODEL)
    template = model.embed(samreg.read_image(arguments.template))
    points, image = samreg.read_points(arguments.points), samreg.read_image(arguments.target)
    embedding, matching = [], []
    for _ in range(arguments.repeats + 1):  # the first one warms up
        start = time.perf_counter()
        target = model.embed(image)
        middle = time.perf_counter()
        samreg.match(template, points, target)
        embedding.append(middle - start)
        matching.append(time.perf_counter() - middle)
    print(
        f"{model.name}: embedding the target {statistics.median(embedding[1:]):.2f} s, then matching {len(points)} "
        f"points {statistics.median(matching[1:]):.3f} s (medians of {arguments.repeats})"
    )


if __name__ == "__main__":
    main()
