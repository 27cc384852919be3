"""A client for Quorate, a leaderless quorum key-value store.

    with quorate.Client("http://127.0.0.1:7401") as client:
        read = client.get("carts", "alice")
        read.put("2 apples")

A read carries its context, so that a write through it replaces exactly what was read. `AsyncClient` is the
same with `await`.
"""

from .aio import AsyncClient, AsyncValueStream
from .client import Client, ValueStream
from .core import __version__
from .errors import (
    BadContext,
    BadRequest,
    ConditionFailed,
    DeadlineExceeded,
    Facts,
    IdempotencyKeyReused,
    IncompleteListing,
    InvalidArgument,
    LimitReached,
    NoQuorum,
    NoReadQuorum,
    NoRoom,
    NotFound,
    NotReady,
    Outcome,
    Overloaded,
    PartialWrite,
    ProtocolError,
    QuorateError,
    ServerError,
    SiblingGone,
    TooLarge,
    UnknownOutcome,
    Unreachable,
)
from .model import (
    DELETE,
    Absent,
    BucketProperties,
    Change,
    KeyPage,
    NewValue,
    Resolution,
    Sibling,
    Siblings,
    Value,
    Written,
)
from .nodes import Node

__all__ = [
    "DELETE",
    "Absent",
    "AsyncClient",
    "AsyncValueStream",
    "BadContext",
    "BadRequest",
    "BucketProperties",
    "Change",
    "Client",
    "ConditionFailed",
    "DeadlineExceeded",
    "Facts",
    "IdempotencyKeyReused",
    "IncompleteListing",
    "InvalidArgument",
    "KeyPage",
    "LimitReached",
    "NewValue",
    "NoQuorum",
    "NoReadQuorum",
    "NoRoom",
    "Node",
    "NotFound",
    "NotReady",
    "Outcome",
    "Overloaded",
    "PartialWrite",
    "ProtocolError",
    "QuorateError",
    "Resolution",
    "ServerError",
    "Sibling",
    "SiblingGone",
    "Siblings",
    "TooLarge",
    "UnknownOutcome",
    "Unreachable",
    "Value",
    "ValueStream",
    "Written",
    "__version__",
]
