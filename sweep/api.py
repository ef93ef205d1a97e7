"""What a person calls from Python: values in, ``run.py`` called, a dataset out."""

import tempfile
import warnings
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.dataset import open_dataset
from sweep.definition import Pipeline
from sweep.errors import DefinitionError, EngineLost
from sweep.forecast import Forecast
from sweep.options import Options
from sweep.progress import make_reporter
from sweep.run import estimate, execute
from sweep.run import extend as extend_store
from sweep.status import status
from sweep.store import store_path
from sweep.study import Study, load_study, study_of
from sweep.summary import Summary, lost_text
from sweep.within import refuse_within

if TYPE_CHECKING:  # xarray takes half a second to import
    import xarray


def run(
    pipeline: Pipeline | str | Path,
    store: str | Path | None = None,
    *,
    on: str | Executor = "dask",
    workers: int | None = None,
    tls_dir: str | Path | None = None,
    dashboard: bool = False,
    timeout: float | None = None,
    retries: int = 0,
    fail_fast: bool = False,
    retry_failed: bool = False,
    accept_changes: bool = False,
    join: bool = False,
    **values: Any,
) -> "xarray.Dataset":
    """Compute what is missing of a sweep and return its dataset.

    Parameters
    ----------
    pipeline
        A pipeline, or where one is: ``"pipelines/heat_flow.py"``.
    store
        Where the dataset is or shall be. None: a temporary one; the dataset returned is in
        memory then.
    on
        The engine: ``"dask"``, ``"processes"``, ``"serial"``, the ``tls://host:port`` of a Dask
        scheduler, or an executor.
    workers
        Worker processes; by default as many as the cores hold.
    tls_dir
        Folder with the certificates of a Dask scheduler that runs.
    dashboard
        Serve Dask's dashboard on the loopback interface.
    timeout
        How long a point may take [s], more than 0; one that takes longer fails. None: far
        longer than the other points took, which only ends what hangs.
    retries
        How often a point that raises is tried again, 0 or more.
    fail_fast
        Stop when a point has failed.
    retry_failed
        Compute the points again that have failed in this store.
    accept_changes
        Go on in a store although the code of the pipeline has changed since.
    join
        Help the driver that the store has: another process that is computing it.
    **values
        Parameters to set: a list makes an axis, one value a constant.

    Raises
    ------
    DefinitionError
        If a value does not fit.
    StoreMismatch
        If the store holds another sweep, or was computed by other code.
    StoreBusy
        If another process is computing it.
    WorkerError
        If a worker cannot import the study.
    DiskError
        If the store cannot be written.
    EngineError
        If the engine cannot be started (or, an EngineLost, is gone), or blocks lost their
        workers again and again.
    KeyboardInterrupt
        If Ctrl-C stopped it; what is done stays done.
    """
    refuse_within()
    study, found = _find(pipeline)
    options = Options(
        on,
        workers,
        Path(tls_dir) if tls_dir else None,
        dashboard,
        timeout=timeout,
        retries=retries,
        fail_fast=fail_fast,
        retry_failed=retry_failed,
        accept_changes=accept_changes,
        join=join,
    )
    bound = found.with_values(**values)
    if store is not None:
        path = store_path(store)
        _check(execute(bound, study, path, options, make_reporter()))
        return open_dataset(path)
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        path = Path(folder) / "store.zarr"
        _check(execute(bound, study, path, options, make_reporter()))
        return open_dataset(path).load()


def extend(
    store: str | Path,
    into: str | Path | None = None,
    *,
    pipeline: str | Path | None = None,
    on: str | Executor = "dask",
    workers: int | None = None,
    **values: Any,
) -> "xarray.Dataset":
    """Add values to the axes of a sweep, compute the new points, and return its dataset.

    Parameters
    ----------
    store
        Of the sweep.
    into
        Where a new store is to be made, sorted, with the old points copied. None: the store
        grows in place, which it can after the last value of an axis and where blocks end.
    pipeline
        Where the pipeline is by now, if not where it was.
    on, workers
        See `run`.
    **values
        Axis -> values to add; those that are there already do no harm.

    Raises
    ------
    StoreError
        If the store cannot grow in place, with what to do; or something is at `into`.
    StoreMismatch
        If a parameter is no axis of the store, or the code has changed.
    StoreBusy
        If another process is computing it.
    """
    refuse_within()
    study = load_study(str(pipeline)) if pipeline else None
    target = store_path(into) if into else None
    options, reporter = Options(on, workers), make_reporter()
    path = store_path(store)
    summary = extend_store(path, lambda _: values, target, options, reporter, study)
    _check(summary)
    return open_dataset(summary.store)


def submit(
    pipeline: str | Path, store: str | Path, site: str | Path, *, via: str = "array", **values: Any
) -> list[str]:
    """Have SLURM compute what is missing of a sweep; return the numbers of its jobs.

    Parameters
    ----------
    pipeline
        Where one is: ``"pipelines/heat_flow.py"``. Jobs import it from there.
    store
        Where the dataset is or shall be, on a disk that all nodes see.
    site
        The site file: ``"slurm/sites/generic.toml"``.
    via
        ``"array"``, ``"dask"`` or ``"mpi"``.
    **values
        Parameters to set: a list makes an axis, one value a constant.

    Raises
    ------
    SiteError
        If the site file makes no sense.
    SubmitError
        If jobs of this store are in the queue, the sweep does not fit the site, or SLURM refuses.
    """
    from slurm.site import load_site
    from slurm.submit import Wish
    from slurm.submit import submit as hand_in

    refuse_within()
    study, found = _find(pipeline)
    if study is None:
        raise DefinitionError(f"{pipeline!r}: jobs import a pipeline from its file; give that.")
    bound, path = found.with_values(**values), store_path(store)
    done = hand_in(bound, study, path, load_site(site), Wish(via), make_reporter())
    return done.jobs if done else []


def plan(
    pipeline: Pipeline | str | Path,
    store: str | Path | None = None,
    *,
    workers: int | None = None,
    **values: Any,
) -> Forecast:
    """Say what a sweep will cost, from a few timed points; nothing else is run or written.

    Parameters are those of `run`.
    """
    refuse_within()
    study, found = _find(pipeline)
    path = store_path(store) if store else None
    return estimate(found.with_values(**values), study, path, workers)


def _find(pipeline: Pipeline | str | Path) -> tuple[Study | None, Pipeline]:
    if isinstance(pipeline, Pipeline):
        return study_of(pipeline), pipeline
    if not isinstance(pipeline, (str, Path)):
        raise DefinitionError(
            f"{pipeline!r} is no Pipeline and no file with one. Make one: "
            "Pipeline(function, axes=[Axis(...)])."
        )
    study = load_study(str(pipeline))
    return study, study.pipeline


def _check(summary: Summary) -> None:
    if summary.interrupted:
        raise KeyboardInterrupt
    if summary.tally.left and not summary.failed_fast:
        raise EngineLost(lost_text(summary))
    if summary.tally.failed:
        told = [f", the first at {one.text}" for one in status(summary.store).failures[:1]]
        warnings.warn(
            f"{summary.tally.failed} of {summary.tally.points} points failed{''.join(told)}",
            stacklevel=3,
        )
    if summary.code_changed_since is not None:
        warnings.warn(summary.code_text, stacklevel=3)
