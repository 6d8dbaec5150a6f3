# Reads and checks the config, and says what there is to do: PLAN.
# Wrong input ends here, in one line, before any rule runs.

import sys
from pathlib import Path

# The package of this checkout, if there is one, serves the rules (scripts/job.py: and their jobs).
CHECKOUT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
if (CHECKOUT / "flashmm" / "__init__.py").is_file():
    sys.path.insert(0, str(CHECKOUT))

from flashmm.workflow.cells_check import check_cells
from flashmm.workflow.config_files import check_config_files

try:
    import flashmm
except ModuleNotFoundError:
    sys.exit(
        "flashmm: the workflow needs its Python package; install it in the environment of Snakemake "
        "(python -m pip install 'flashmm[workflow] @ git+<address of the project>')."
    )

from flashmm.workflow.plan import read_plan
from flashmm.workflow.sheets import ConfigError, Schemas
from flashmm.workflow.sources import Sources

# Whether inputs and outputs lie in a storage (--default-storage-provider) instead of this folder.
BUCKET = workflow.storage_settings.default_storage_provider is not None


def schema_file(name):
    return workflow.source_path(f"../schemas/{name}.schema.yaml")


try:
    if workflow.is_main_process:
        check_config_files(workflow.configfiles)
    PLAN = read_plan(config, Schemas(schema_file), Sources(BUCKET, lambda path: storage(path)))
    if workflow.is_main_process:
        check_cells(PLAN)
except ConfigError as error:
    sys.exit(f"flashmm: {error}")
