"""The upper floor: the loop, data, recipes and the command line."""

from typing import TYPE_CHECKING, Any

from learner.sibling import check_sibling

check_sibling()

from learner.data.batching import Blocks, TensorLoader  # noqa: E402
from learner.data.data import Data  # noqa: E402
from learner.data.seeded import Seeded  # noqa: E402
from learner.data.seeds import seed_everything  # noqa: E402
from learner.engine.composition import DEFAULT_CALLBACKS  # noqa: E402
from learner.files.checkpoint_file import CheckpointError  # noqa: E402
from learner.inference.cross_validation import CrossValidation, cross_validate  # noqa: E402
from learner.learner import Learner  # noqa: E402
from learner.look.interpretation import Interpretation  # noqa: E402
from learner.recipes.verify import verify_resume  # noqa: E402
from learner.report.comparison import compare  # noqa: E402
from learner.tools.allocator import keep_memory  # noqa: E402

__all__ = [
    "DEFAULT_CALLBACKS",
    "Blocks",
    "CheckpointError",
    "CrossValidation",
    "Data",
    "Interpretation",
    "Learner",
    "Seeded",
    "TensorLoader",
    "compare",
    "cross_validate",
    "keep_memory",
    "open_run",
    "seed_everything",
    "verify_resume",
]

# scikit-learn is an extra, and takes a second to import
ESTIMATORS = ("LearnerClassifier", "LearnerRegressor")

if TYPE_CHECKING:
    from learner.estimators.estimators import LearnerClassifier as LearnerClassifier
    from learner.estimators.estimators import LearnerRegressor as LearnerRegressor
    from learner.runs.opening import open_run as open_run
else:  # a type checker would take it that every name is there

    def __getattr__(name: str) -> Any:
        """Import what is slow to import; raise an error for a missing name, with its name here if known."""
        import sys

        if name == "open_run":  # needs the package yaml
            from learner.runs.opening import open_run

            return open_run
        if name in ESTIMATORS:
            try:
                from learner.estimators import estimators
            except ModuleNotFoundError as error:
                if not (error.name or "").startswith("sklearn"):
                    raise
                raise ImportError(
                    f'{name} needs scikit-learn, which is missing: pip install "plainlearner[sklearn]".'
                ) from error
            return getattr(estimators, name)

        from callbacks.core.missing_names import missing
        from learner.messages.missing_attributes import meant_of_package

        raise missing("learner", name, meant_of_package(name, __all__), sys._getframe(1))
