"""How a decoder is computed: one protocol (`base.py`), the definition (`reference.py`) and the C++ core (`native.py`)."""
