"""The version, as `flashmm.__version__`."""

from flashmm.storage.files import package_version

__version__ = package_version()
