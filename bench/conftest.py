"""What the benchmarks come to, in a few lines at the end of the run. Nothing is asserted about time."""

import pytest


def pytest_benchmark_update_json(output_json):
    """ns for each piece of work, beside the figures in a file of them."""
    for one in output_json["benchmarks"]:
        info = one["extra_info"]
        if "unit" in info:
            info[f"ns_per_{info['unit'].replace(' ', '_')}"] = 1e9 * one["stats"]["median"] / info["n"]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    """ns per piece of work of every contender, and how many times longer than ours each opponent takes."""
    session = getattr(config, "_benchmarksession", None)
    measured = [one for one in getattr(session, "benchmarks", []) if one.stats and "unit" in one.extra_info]
    if not measured:
        return
    terminalreporter.section("ns for each piece of work (median), one thread; times ours")
    twins = {}
    for group in dict.fromkeys(one.group for one in measured):
        cost = {}
        for one in (one for one in measured if one.group == group):
            info = one.extra_info
            cost[info["contender"]] = 1e9 * one["median"] / info["n"]
        ours = next(iter(cost.values()))
        lines = [
            f"{name} {ns:,.3g} ({ns / ours:.3g}x)" if ns != ours else f"{name} {ns:,.3g}" for name, ns in cost.items()
        ]
        note = f" [{info['note']}]" if info["note"] else ""
        terminalreporter.write_line(f"{group}{note}, ns per {info['unit']}: {'; '.join(lines)}")
        if {"cython", "numba"} <= cost.keys():
            twins[group] = cost["numba"] / cost["cython"]
    if twins:
        slowest = max(twins, key=twins.get)
        terminalreporter.write_line(f"numba / cython: at most {twins[slowest]:.2f} ({slowest})")
