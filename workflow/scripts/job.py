"""What every script needs: a log, one line for an error, and the measured time and memory."""

import json
import sys
import time
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path

import numba
from threadpoolctl import threadpool_limits

# The package of this checkout, if there is one, serves the jobs in any environment.
CHECKOUT = Path(__file__).resolve().parents[2]
if (CHECKOUT / "flashmm" / "__init__.py").is_file():
    sys.path.insert(0, str(CHECKOUT))

from flashmm.io.tables import write_table
from flashmm.options import FlashmmError, FlashmmWarning
from flashmm.storage.files import atomic_path, file_digest
from flashmm.storage.usage import Clock, peak_memory_mib
from flashmm.workflow.wording import in_yaml


@contextmanager
def job(snakemake):
    """Send what is printed to the rule's log; end with one line and exit code 1 at an error.

    What the whole job took, from reading to writing, is added to the output `measured`.
    """
    clock = Clock.start()
    # the jobs of a run stand side by side: each keeps to the threads that it was given
    numba.set_num_threads(min(snakemake.threads, numba.config.NUMBA_NUM_THREADS))
    threadpool_limits(snakemake.threads)
    terminal = sys.stderr
    with open(snakemake.log[0], "w", buffering=1) as log:
        sys.stdout = sys.stderr = log
        warnings.showwarning = log_warning
        try:
            yield
            record(snakemake.output.get("measured"), clock)
        except Exception as error:
            expected = isinstance(error, FlashmmError | OSError)
            text = in_yaml(str(error)) if expected else f"{type(error).__name__}: {error}"
            message = f"flashmm: {text} [{snakemake.log[0]}]"
            if not expected:
                traceback.print_exc()
            for stream in (log, terminal):
                print(message, file=stream)
            sys.exit(1)
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, terminal


def log_warning(message, category, filename, lineno, file=None, line=None):
    """Print one line per warning; those of other packages say where they come from."""
    ours = issubclass(category, FlashmmWarning)
    print(f"note: {message}" if ours else f"{filename}:{lineno}: {message}", file=sys.stderr)


def recipe(snakemake):
    """What made a table: the rule, its parameters and the digests of the files that it read.

    Files go by their names in the rule: where they lie depends on the machine and the storage.
    """
    return {
        "rule": snakemake.rule,
        "wildcards": dict(snakemake.wildcards),
        "params": dict(snakemake.params),
        "inputs": {name: digests(files) for name, files in snakemake.input.items()},
    }


def digests(files):
    """The digest of one file, or those of a list of files."""
    return file_digest(files) if isinstance(files, str) else [file_digest(path) for path in files]


@contextmanager
def measured(path, **more):
    """Write the seconds of the block and the peak memory of the process (MiB) as JSON."""
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    write_measured(path, seconds=seconds, peak_memory_mib=peak_memory_mib(), **more)


def record(path, clock):
    """Add to what was measured what the job as a whole took; a method has measured itself."""
    if path is None:
        return
    known = json.loads(Path(path).read_text()) if Path(path).exists() else {}
    if "cpu_seconds" not in known:
        write_measured(path, **known, job=clock.took())


def write_measured(path, **numbers):
    """Write what was measured as JSON."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(json.dumps(numbers) + "\n")


def write_notes(path, notes):
    """Write one note per line, each once."""
    with atomic_path(path) as unfinished:
        unfinished.write_text("".join(f"{note}\n" for note in dict.fromkeys(notes)))


def write_tables(snakemake, tables):
    """Write tables by the names of the outputs; those among `tsv` as text too."""
    made = recipe(snakemake)
    texts = {Path(path).stem: path for path in snakemake.output.tsv}
    for name, table in tables.items():
        write_table(table, snakemake.output[name], texts.get(name), made)
