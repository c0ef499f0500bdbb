"""What a request to create a batch says.

Knows: the members of its body. Must not know: HTTP, jobs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from ...engine.errors import Malformed
from .problems import ApiError
from .uploads import kept_for

_WINDOW = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_UNITS = {"m": 60, "h": 3600, "d": 86400}
_MOST_PAIRS, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512
_PARAM = re.compile(r"\$\.(\w+)|field `(\w+)`")


class ExpiresAfter(msgspec.Struct, frozen=True):
    anchor: str
    seconds: int


class NewBatch(msgspec.Struct, frozen=True):
    """Members that are not known are passed over, for clients have some of their own."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None

    @property
    def window(self) -> float:
        """In seconds."""
        match = _WINDOW.fullmatch(self.completion_window)
        if match is None:
            raise ApiError("`completion_window` is a time such as '24h'.", param="completion_window")
        return float(int(match[1]) * _UNITS[match[2]])

    def output_keep(self, default: float) -> float:
        after = self.output_expires_after
        return default if after is None else kept_for(after.anchor, after.seconds, "output_expires_after")


_decode = msgspec.json.Decoder(NewBatch).decode
_decode_any = msgspec.json.Decoder().decode


def new_batch(body: bytes) -> NewBatch:
    """Raises `Malformed` and `ApiError`."""
    try:
        body.decode("utf-8")
        _decode_any(body)
        read = _decode(body)
    except UnicodeDecodeError:
        raise Malformed("The body is not UTF-8.") from None
    except msgspec.ValidationError as fault:
        match = _PARAM.search(str(fault))
        param = None if match is None else match[1] or match[2]
        is_missing = "missing required field" in str(fault)
        raise ApiError(
            f"Missing required parameter: '{param}'." if is_missing else f"{fault}.",
            param=param,
            code="missing_required_parameter" if is_missing else "invalid_type",
        ) from None
    except (msgspec.DecodeError, RecursionError) as fault:
        raise Malformed(f"The body is not one JSON document: {fault}.") from None
    _check_metadata(read.metadata or {})
    return read


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if len(metadata) > _MOST_PAIRS:
        raise ApiError(f"`metadata` has at most {_MOST_PAIRS} pairs.", param="metadata")
    for key, value in metadata.items():
        if len(key) > _LONGEST_KEY or len(value) > _LONGEST_VALUE:
            limits = f"keys of {_LONGEST_KEY} characters and values of {_LONGEST_VALUE}"
            raise ApiError(f"`metadata` has at most {limits}.", param="metadata")
