"""For all tests."""

import atexit
import gc


def pytest_collection_finish() -> None:
    """Takes out of the garbage collector's sight what lives to the end: torch, transformers and thousands of tests. `LLM.close` has
    garbage collected, and would walk through all of that each time: a second or more, two fifths of what all tests together took."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # or nanobind would report what is left as leaks
