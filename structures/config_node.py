"""Base of all sections of the configuration."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from structures.user_path import user_path
from structures.wording import show_value

LARGEST_INTEGER = 2**63 - 1
"""What PyTorch's integers and seeds hold."""


class ConfigNode(BaseModel):
    """Frozen, no unknown keys, no infinite number. The docstring below a field says what it means.

    `~` in a path is the home folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def expands_home(cls, value: Any) -> Any:
        """A path with the home folder for `~`; everything else as it is."""
        return user_path(value) if isinstance(value, Path) else value

    @field_validator("*")
    @classmethod
    def fits_the_machine(cls, value: Any) -> Any:
        """Raises ValueError for integers beyond 64 bits, and for text that no file name or sentence can hold."""
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, int) and abs(item) > LARGEST_INTEGER:
                raise ValueError(f"expected an integer of at most 64 bits, got {show_value(item)}")
            if isinstance(item, str | Path):
                _require_text(str(item))
        return value


def _require_text(text: str) -> None:
    if "\0" in text:
        raise ValueError(f"expected text without NUL characters, got {show_value(text)}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"expected text in UTF-8, got {show_value(text)}")
