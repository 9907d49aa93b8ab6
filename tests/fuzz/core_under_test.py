"""Importing this puts another build of the extension module, the file that LINNET_TEST_CORE names, in the place of the
package's own: for workers, and as a pytest plugin (`-p core_under_test`)."""

from __future__ import annotations

import importlib.util
import os
import sys

CORE = os.environ.get("LINNET_TEST_CORE")


def _install(path: str) -> None:
    spec = importlib.util.spec_from_file_location("linnet._core", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    import linnet

    module = importlib.util.module_from_spec(spec)
    sys.modules["linnet._core"] = linnet._core = module  # type: ignore[attr-defined,unused-ignore]
    spec.loader.exec_module(module)


if CORE and "linnet._core" not in sys.modules:
    _install(CORE)
