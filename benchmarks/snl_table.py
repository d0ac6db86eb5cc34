"""The table of bench_snl: means over observations beside the published ones."""

from __future__ import annotations

from statistics import mean, stdev

from gensci.sims.inference_tasks import TASKS

# Mean C2ST over ten observations at 1,000 and 10,000 simulations, and the latter of one-round NLE:
# sbi-benchmark/results/main_paper.csv of Lueckmann et al. 2021.
PUBLISHED = {
    "two_moons": (0.657, 0.571, 0.713),
    "gaussian_linear": (0.628, 0.548, 0.555),
    "gaussian_linear_uniform": (0.657, 0.552, 0.548),
    "slcp": (0.921, 0.713, 0.771),
    "slcp_distractors": (0.992, 0.949, 0.961),
    "lotka_volterra": (0.909, 0.738, 0.956),
    "sir": (0.745, 0.745, 0.748),
    "bernoulli_glm": (0.634, 0.553, 0.605),
    "bernoulli_glm_raw": (0.990, 0.973, 0.939),
    "gaussian_mixture": (0.701, 0.702, 0.731),
}


def table(records: list[dict]) -> list[dict]:
    """Means by method, budget and task, beside the published ones."""
    order = {name: place for place, name in enumerate(TASKS)}
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        groups.setdefault((record["method"], record["budget"], record["task"]), []).append(record)
    by_task = sorted(groups.items(), key=lambda item: (*item[0][:2], order[item[0][2]]))
    return [row(*key, group) for key, group in by_task]


def row(method: str, budget: int, task: str, group: list[dict]) -> dict:
    """One line of the table; the benchmark's C2ST is of those observations that it was taken of."""
    scores = [record["c2st"] for record in group if "c2st" in record]
    column = {("snl", 1000): 0, ("snl", 10_000): 1, ("single", 10_000): 2}.get((method, budget))

    def average(name: str) -> float:
        return mean(record[name] for record in group)

    return {
        "task": task, "method": method, "budget": budget, "observations": len(group),
        "judged": len(scores), "c2st": mean(scores) if scores else None,
        "c2st_sd": stdev(scores) if len(scores) > 1 else None, "c2st_fast": average("c2st_fast"),
        "published": None if column is None else PUBLISHED[task][column],
        "training_cpu_seconds": average("training_cpu_seconds"),
        "drawing_cpu_seconds": average("drawing_cpu_seconds"),
    }  # fmt: skip


def print_table(rows: list[dict]) -> None:
    """Print the means, and on how many tasks they are at or below the published ones."""
    print(
        f"{'task':24} {'method':7} {'budget':>6} {'obs':>3} {'fast':>6} {'judged':>6} {'C2ST':>6} "
        f"{'sd':>6} {'published':>9} {'':5} {'train s':>8} {'draw s':>7}"
    )
    below: dict[tuple, list[bool]] = {}
    for line in rows:
        mark = ""
        if None not in (line["c2st"], line["published"]):
            wins = below.setdefault((line["method"], line["budget"]), [])
            wins.append(line["c2st"] <= line["published"])
            mark = "below" if wins[-1] else "above"
        print(
            f"{line['task']:24} {line['method']:7} {line['budget']:6} {line['observations']:3} "
            f"{number(line['c2st_fast'])} {line['judged']:6} {number(line['c2st'])} "
            f"{number(line['c2st_sd'])}    {number(line['published'])} {mark:5} "
            f"{line['training_cpu_seconds']:8.1f} {line['drawing_cpu_seconds']:7.1f}"
        )
    for (method, budget), wins in sorted(below.items()):
        print(f"{method} at {budget}: at or below on {sum(wins)} of {len(wins)} tasks")


def number(value: float | None) -> str:
    """Three decimals in six places, blank where there is none."""
    return " " * 6 if value is None else f"{value:6.3f}"
