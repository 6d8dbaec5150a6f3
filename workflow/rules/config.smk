# Reads and checks the config, and says what there is to do: PLAN.
# Wrong input ends here, in one line, before any rule runs.

import copy
import os
import sys
from pathlib import Path

# The package of this checkout, if there is one, serves the rules and their jobs.
HERE = workflow.current_basedir
CHECKOUT = Path(HERE.get_path_or_uri(secret_free=True)).parents[1]
if (CHECKOUT / "flashmm" / "__init__.py").is_file():
    sys.path.insert(0, str(CHECKOUT))


def address(source):
    """By which pip finds the package that belongs to these rules."""
    if hasattr(source, "repo_path"):
        return f"git+file://{os.path.abspath(source.repo_path)}@{source.ref}"
    if hasattr(source, "repo"):
        return f"git+https://{source.host}/{source.repo}@{source.ref}"
    return "git+<address of the project>"


try:
    import flashmm
except ModuleNotFoundError as error:
    sys.exit(
        f"flashmm: the workflow needs its Python package ({error}). Install it in the environment of "
        f"Snakemake: {sys.executable} -m pip install 'flashmm[workflow] @ {address(HERE)}'"
    )

from flashmm.workflow.cells_check import check_cells
from flashmm.workflow.config_files import check_config_files
from flashmm.workflow.deployment import serve_package
from flashmm.workflow.handing_over import offer_worker
from flashmm.workflow.plan import read_plan
from flashmm.workflow.sheets import ConfigError, Schemas
from flashmm.workflow.sources import Sources

# Whether inputs and outputs lie in a storage (--default-storage-provider) instead of this folder.
BUCKET = workflow.storage_settings.default_storage_provider is not None
# Whether another workflow uses this one: its rules may make the inputs, and its files hold more
# than our config. Paths of the config lie where they say, whatever the prefix of our results.
MODULE = not workflow.modifier.is_main_snakefile()
PREFIXED = MODULE and not BUCKET
OURS = config is workflow.modifier_stack[0].globals["config"]
config = copy.deepcopy(config) if MODULE else config


def schema_file(name):
    return workflow.source_path(f"../schemas/{name}.schema.yaml")


try:
    if workflow.is_main_process and OURS:
        check_config_files(workflow.configfiles)
    SOURCES = Sources(BUCKET, lambda path: storage(path), MODULE, local if PREFIXED else str)
    PLAN = read_plan(config, Schemas(schema_file), SOURCES)
    if workflow.is_main_process:
        check_cells(PLAN)
except ConfigError as error:
    sys.exit(f"flashmm: {error}")

serve_package(elsewhere=bool(workflow.deployment_settings.deployment_method))
offer_worker(workflow.is_main_process)
