"""Base of all sections of the configuration."""

from pydantic import BaseModel, ConfigDict


class ConfigNode(BaseModel):
    """Frozen, no unknown keys; docstrings below the fields are their descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
