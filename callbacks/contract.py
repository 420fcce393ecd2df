"""The contract of a callback under the path that users import; the code is in `core/contract.py`."""

from callbacks.core.contract import EVENTS as EVENTS
from callbacks.core.contract import OPERATIONS as OPERATIONS
from callbacks.core.contract import Callback as Callback
from callbacks.core.contract import Cancel as Cancel
from callbacks.core.contract import CancelBatch as CancelBatch
from callbacks.core.contract import CancelEpoch as CancelEpoch
from callbacks.core.contract import CancelFit as CancelFit
from callbacks.core.contract import CancelStep as CancelStep
from callbacks.core.contract import CancelTrain as CancelTrain
from callbacks.core.contract import CancelValidate as CancelValidate
from callbacks.core.contract import Direction as Direction
from callbacks.core.contract import LearnerProtocol as LearnerProtocol
from callbacks.core.contract import LearnerWarning as LearnerWarning
from callbacks.core.contract import Order as Order
from callbacks.core.contract import snake_case as snake_case
from callbacks.core.given import on as on
