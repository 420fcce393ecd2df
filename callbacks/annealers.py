"""The annealers under the path that users import; the code is in `schedule/annealers.py`."""

from callbacks.schedule.annealers import Annealer as Annealer
from callbacks.schedule.annealers import combine as combine
from callbacks.schedule.annealers import constant as constant
from callbacks.schedule.annealers import cos as cos
from callbacks.schedule.annealers import exp as exp
from callbacks.schedule.annealers import flat_cos as flat_cos
from callbacks.schedule.annealers import lin as lin
from callbacks.schedule.annealers import one_cycle as one_cycle
from callbacks.schedule.annealers import poly as poly
from callbacks.schedule.annealers import sgdr as sgdr
from callbacks.schedule.annealers import warmup_cosine as warmup_cosine
from callbacks.schedule.annealers import wsd as wsd
