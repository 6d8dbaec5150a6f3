"""The guards of the package's code catch what they are for, and nothing else."""

from __future__ import annotations

import pytest
from source_code import cycle, file_access, imported_modules

MODULES = {"pack", "pack.a", "pack.a.one", "pack.a.two", "pack.b", "pack.b.three"}


def modules_of(text: str, module: str = "pack.a.one", is_package: bool = False) -> set[str]:
    return imported_modules(text, module, MODULES.__contains__, is_package)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import pack.b.three", {"pack.b.three"}),
        ("import pack.b.three as t", {"pack.b.three"}),
        ("import pack", {"pack"}),
        ("from pack import b", {"pack.b"}),
        ("from pack import VERSION", {"pack"}),
        ("from pack.b import three", {"pack.b.three"}),
        ("from pack.b.three import name", {"pack.b.three"}),
        ("from pack.b import name as other, three", {"pack.b", "pack.b.three"}),
        ("from pack.b import *", {"pack.b"}),
        ("from . import two", {"pack.a.two"}),
        ("from .two import name", {"pack.a.two"}),
        ("from ..b import three", {"pack.b.three"}),
        ("from ..b.three import name", {"pack.b.three"}),
        ("from .. import b", {"pack.b"}),
        ("def f():\n    from pack.b import three", {"pack.b.three"}),
        ("class A:\n    def f(self):\n        import pack.b.three as t", {"pack.b.three"}),
        ("if TYPE_CHECKING:\n    from pack.b.three import Name", {"pack.b.three"}),
        ("try:\n    import pack.b\nexcept ImportError:\n    pass", {"pack.b"}),
        ("importlib.import_module('pack.b.three')", {"pack.b.three"}),
        ("__import__('pack.b')", {"pack.b"}),
        ("import packaging, numpy as pack\nfrom numpy import a", set()),
        ("'from pack.b import three'", set()),
    ],
)
def test_every_kind_of_import_is_seen(text, found):
    assert modules_of(text) == found


def test_relative_imports_of_a_face_start_in_its_folder():
    assert modules_of("from .one import name\nfrom ..b import three", "pack.a", True) == {
        "pack.a.one",
        "pack.b.three",
    }


@pytest.mark.parametrize(
    "files",
    [
        {"pack.a.one": "import pack.b.three", "pack.b.three": "import pack.a.one"},
        {"pack.a.one": "from .two import f", "pack.a.two": "def g():\n    from .one import h"},
        # among faces: a names b's face, whose module names a's
        {
            "pack.a": "from .one import f",
            "pack.a.one": "from pack.b import g",
            "pack.b": "from .three import g",
            "pack.b.three": "from pack.a import f",
        },
    ],
)
def test_cycles_are_found(files):
    faces = {"pack.a", "pack.b"}
    graph = {name: modules_of(text, name, name in faces) for name, text in files.items()}
    assert cycle(graph)
    graph.popitem()
    assert not cycle(graph)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import numpy as np\nnp.load(path)", "numpy.load"),
        ("import numpy as np\nnp.savez(path, a=a)", "numpy.savez"),
        ("import numpy\nnumpy.memmap(path)", "numpy.memmap"),
        ("from numpy import load as fetch", "numpy.load"),
        ("import numpy as np\nread = partial(np.loadtxt, path)", "numpy.loadtxt"),
        ("path.write_text('a')", ".write_text"),
        ("Path(name).read_bytes()", ".read_bytes"),
        ("frame.to_csv(path)", ".to_csv"),
        ("frame.groupby('a').sum().to_parquet(path)", ".to_parquet"),
        ("import pandas as pd\npd.read_csv(path)", "pandas.read_csv"),
        ("from pandas import read_parquet", "pandas.read_parquet"),
        ("import anndata as ad\nad.read_h5ad(path)", "anndata.read_h5ad"),
        ("adata.write_h5ad(path)", ".write_h5ad"),
        ("import h5py", "h5py"),
        ("from h5py import File", "h5py.File"),
        ("def f():\n    import h5py as h\n    h.File(path)", "h5py.File"),
        ("with open(path) as file:\n    pass", "builtins.open"),
        ("opener = open", "builtins.open"),
        ("from pathlib import Path\nPath(name).open()", ".open"),
        ("path.open('w')", ".open"),
        ("getattr(path, 'open')()", ".open"),
        ("import io\nio.open(path)", "io.open"),
        ("import shutil", "shutil"),
        ("import os\nos.replace(a, b)", "os.replace"),
        ("from os import replace as move", "os.replace"),
        ("import os.path\nos.makedirs(path)", "os.makedirs"),
        ("import pickle", "pickle"),
        ("import json\njson.dump(x, file)", "json.dump"),
        ("from json import load", "json.load"),
        ("import scipy.sparse as sp\nsp.save_npz(path, m)", "scipy.sparse.save_npz"),
        ("from scipy import sparse\nsparse.load_npz(path)", "scipy.sparse.load_npz"),
        ("from scipy.io import mmread", "scipy.io.mmread"),
        ("values.tofile(path)", ".tofile"),
        ("figure.savefig(path)", ".savefig"),
        ("folder.mkdir(parents=True)", ".mkdir"),
        ("import tempfile", "tempfile"),
        ("import pyarrow as pa", "pyarrow"),
        ("from flashmm.storage.files import atomic_path", "flashmm.storage.files.atomic_path"),
        ("from flashmm.io.tables import write_table", "flashmm.io.tables.write_table"),
        ("from flashmm import io", "flashmm.io"),
        ("import importlib\nimportlib.import_module('pickle')", "pickle"),
    ],
)
def test_access_to_files_is_seen(text, found):
    assert found in file_access(text)


@pytest.mark.parametrize(
    "text",
    [
        "import io\nsio = io.StringIO()\nsio.write('text')",
        "frame.to_frame().to_numpy()",
        "frame.rename(columns=names).replace(1, 2)",
        "text.replace('a', 'b')",
        "from dataclasses import replace\nreplace(record, a=1)",
        "import json\njson.dumps(x)\njson.loads(text)",
        "import ast\nast.dump(tree)",
        "import numpy as np\nnp.frombuffer(data)\nnp.savings = 1",
        "import os\nos.environ['A']\nos.path.join('a', 'b')",
        "from os import environ",
        "import yaml\nyaml.YAMLError",
        "opened = 1\nreopen(opened)",
        "frame.to_dict()\nframe.to_json()",
        "from flashmm.storage.workspace import zeros",
        "from flashmm.storage.files import package_version",
        "import pandas as pd\npd.DataFrame(reader)",
        "import scipy.sparse as sp\nsp.csr_array(m)",
        "'np.load and open(path)'",
        "tables = []\ntables.append(pickle)",
        "def load(path):\n    return path\nload(1)",
    ],
)
def test_what_touches_no_file_is_left_alone(text):
    assert file_access(text) == set()
