"""Replacing parts of moto."""

from __future__ import annotations

import sys
from typing import Any


def replace_function(module: str, name: str, replacement: Any) -> None:
    """Replaces a module's function, also where moto has imported it by name."""
    original = getattr(sys.modules[module], name)
    for loaded_name, loaded in list(sys.modules.items()):
        if loaded_name.startswith("moto.") and getattr(loaded, name, None) is original:
            setattr(loaded, name, replacement)
