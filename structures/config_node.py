"""Base of all sections of the configuration."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from structures.user_path import user_path


class ConfigNode(BaseModel):
    """Frozen, no unknown keys; docstrings below the fields are their descriptions; `~` in a path is the home folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*")
    @classmethod
    def expands_home(cls, value: Any) -> Any:
        """A path with the home folder for `~`; everything else as it is."""
        return user_path(value) if isinstance(value, Path) else value
