"""The contract of a callback under the path that users import; the code is in `core/contract.py`."""

from callbacks.core.contract import (
    EVENTS,
    OPERATIONS,
    Callback,
    Cancel,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
    Direction,
    LearnerProtocol,
    LearnerWarning,
    Order,
    on,
    snake_case,
)

__all__ = [
    "EVENTS",
    "OPERATIONS",
    "Callback",
    "Cancel",
    "CancelBatch",
    "CancelEpoch",
    "CancelFit",
    "CancelStep",
    "CancelTrain",
    "CancelValidate",
    "Direction",
    "LearnerProtocol",
    "LearnerWarning",
    "Order",
    "on",
    "snake_case",
]
