"""The plan: a budget of epochs divided into phases before training."""

from keras_bimp._src.plan.automatic import allocation_for
from keras_bimp._src.plan.automatic import check_automatic
from keras_bimp._src.plan.automatic import is_auto
from keras_bimp._src.plan.cycles import check_cycles
from keras_bimp._src.plan.phase import Phase
from keras_bimp._src.plan.plan import Plan
from keras_bimp._src.plan.retraining_methods import RETRAINING
from keras_bimp._src.plan.retraining_methods import Retraining
from keras_bimp._src.plan.retraining_methods import as_retraining

__all__ = [
    "RETRAINING",
    "Phase",
    "Plan",
    "Retraining",
    "allocation_for",
    "as_retraining",
    "check_automatic",
    "check_cycles",
    "is_auto",
]
