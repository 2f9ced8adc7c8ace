"""Settings that somebody wrote are taken as they are meant, or refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Settings without unknown keys, NaN or infinity, and which nobody changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
