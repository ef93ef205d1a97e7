"""Our kernels beside their alternatives, on the same inputs in one run.

    python benchmarks/kernels.py [--only NAME ...] [--pairs 7] [--quick]

Every kernel meets what one would take instead: the teaching kernels in numba, C of our own with
OpenMP, Devito, JAX, pytreegrav, SciPy. Both are run once, their answers are compared, and then they
are timed in turn: ours, the other, ours, the other. A ratio is the median over the pairs of how
many times as fast ours is, with the lowest and the highest. What the machine can do at most is
measured before and after, in the same run; `kernel_limits.py` derives the bounds from the best. A
package that is not installed is listed, and the rest is compared all the same.

A run of everything replaces this processor's section of RESULTS.md, another one prints only. The
exit code is 1 if a pass mark is missed, an answer disagrees, or a kernel of ours is not there.
"""

import argparse
import ctypes
import datetime
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what they import has to come after the threads are set
    from kernel_limits import Limits
    from kernel_results import Row

RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = ("numba", "llvmlite", "numpy", "scipy", "devito", "jax", "pytreegrav")
LAYERS = ("default", "tbb", "omp", "workqueue")
SECONDS = 0.2  # of a measurement at least
QUICK = 2, 0.05  # pairs, and seconds of a measurement, for trying it out


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="parts of rows' names"
    )
    parser.add_argument("--pairs", type=int, default=7, help="measurements of each side")
    parser.add_argument("--quick", action="store_true", help="two pairs, for trying it out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layer", choices=LAYERS, default="default", help="numba's threads")
    parser.add_argument("--results", type=Path, help="write there, whatever was asked for")
    return parser.parse_args()


def set_threads(count: int, layer: str) -> None:
    """Let every library have so many threads; they read it when they are loaded."""
    if sys.platform == "linux":  # JAX takes as many as there are cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(count)
    if layer != "default":
        os.environ["NUMBA_THREADING_LAYER"] = layer
    if layer == "tbb":  # numba does not look where pip puts it
        found = sorted(Path(sys.prefix).glob("lib/libtbb.so.*"), key=lambda file: len(file.name))
        if found:
            ctypes.CDLL(str(found[0]), ctypes.RTLD_GLOBAL)


# --- what is said of the machine ----------------------------------------------------------


def of_processor() -> str:
    """Return what Linux says of the processor."""
    file = Path("/proc/cpuinfo")
    return file.read_text() if file.exists() else ""


def processor() -> str:
    """Return the processor's name."""
    named = re.search(r"^model name\s*: (.*)$", of_processor(), re.MULTILINE)
    return named.group(1) if named else platform.processor() or platform.machine()


def hardware() -> str:
    """Return the name of the processor, its widest vectors and its number of cores."""
    text = of_processor()
    widest = next((one for one in ("avx512f", "avx2", "asimd") if f" {one} " in text), "")
    return ", ".join(filter(None, (processor(), widest, f"{os.cpu_count()} cores")))


def versions() -> str:
    """Return the versions of what is compared."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def layer_used() -> str:
    """Return the threading layer that numba has taken."""
    import numba

    try:
        return str(numba.threading_layer())
    except ValueError:
        return "not used"


def limits_or_none(threads: int) -> "Limits | None":
    """Return what the machine can do, or say why it cannot be measured."""
    from kernel_limits import measure_limits
    from kernel_yardsticks import NotThereError

    try:
        return measure_limits(threads)
    except NotThereError as error:
        print(error, file=sys.stderr)
        return None


def of_limits(limits: "Limits | None") -> str:
    """Return a table of what the machine can do."""
    from kernel_results import table

    if limits is None:
        return "The machine's limits were not measured: no C compiler."
    rows = []
    for kind in limits.multiply_adds:
        flops, roots = 2 * limits.multiply_adds[kind], limits.roots[kind]
        rows.append((f"multiply-adds, {kind}", f"{flops / 1e9:.0f} Gflop/s"))
        said = f"{roots / 1e9:.1f} G/s" if roots else "no instruction"
        rows.append((f"reciprocal roots, {kind}", said))
    for place, rate in limits.triads.items():
        rows.append((f"triad in {place}, 24 bytes an element", f"{rate / 1e9:.0f} GB/s"))
    for kernel, rate in limits.bounds().items():
        name, unit = ("heat", "cell") if kernel == "heat" else (f"gravity, {kernel}", "pair")
        rows.append((f"bound of {name}", f"{rate / 1e9:.1f} G{unit}/s"))
    return table(("all threads", ""), rows)


def report(asked: argparse.Namespace, rows: "list[Row]", limits: "Limits | None", load: str) -> str:
    """Return the section of RESULTS.md."""
    from kernel_results import HEAD, cells, summary, table
    from kernel_yardsticks import compiler_version

    date = datetime.date.today()
    bounds = limits.bounds() if limits else {}
    return "\n\n".join(
        (
            f"    python benchmarks/kernels.py --pairs {asked.pairs} --layer {asked.layer}",
            f"{hardware()}; {asked.threads} threads, numba's layer {layer_used()}; {versions()}; "
            f"{compiler_version()}; {date.day} {date:%B %Y}; load average {load}.",
            f"Each ratio is the median of {asked.pairs} interleaved pairs, with their range: how "
            "many times as fast ours is. Rates are medians. The bound is what the machine's ports "
            "allow, as `kernel_limits.py` derives it from the limits below.",
            table(HEAD, [cells(row, bounds) for row in rows]),
            summary(rows),
            of_limits(limits),
        )
    )


def main() -> int:
    """Compare, print, write; 1 if a mark is missed."""
    asked = arguments()
    set_threads(asked.threads, asked.layer)
    seconds = SECONDS
    if asked.quick:
        asked.pairs, seconds = QUICK

    from kernel_duels import Effort, fought
    from kernel_gravity_cases import gravity_duels
    from kernel_heat_cases import heat_duels
    from kernel_limits import measure_limits
    from kernel_results import exit_code, with_section

    before = os.getloadavg()[0]
    limits = limits_or_none(asked.threads)
    duels = [*heat_duels(asked.threads), *gravity_duels(asked.threads)]
    if asked.only:
        duels = [duel for duel in duels if any(name in duel.name for name in asked.only)]
    if not duels:
        print(f"no row has {' or '.join(asked.only)} in its name", file=sys.stderr)
        return 2
    rows = [fought(duel, Effort(asked.pairs, seconds)) for duel in duels]
    if limits:
        limits = limits.or_better(measure_limits(asked.threads))
    load = f"{before:.1f} before, {os.getloadavg()[0]:.1f} after"
    section = report(asked, rows, limits, load)
    print(section)
    file = asked.results or (None if asked.only or asked.quick else RESULTS)
    if file:
        old = file.read_text() if file.exists() else ""
        file.write_text(with_section(old, f"## Kernels on {processor()}", section))
    return exit_code(rows)


if __name__ == "__main__":
    sys.exit(main())
