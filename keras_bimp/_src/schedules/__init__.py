"""Learning-rate schedules of retraining: iteration -> learning rate."""

from keras_bimp._src.schedules.bodies import Constant
from keras_bimp._src.schedules.bodies import Cosine
from keras_bimp._src.schedules.bodies import Linear
from keras_bimp._src.schedules.bodies import Recorded
from keras_bimp._src.schedules.bodies import Stepped
from keras_bimp._src.schedules.discount import discount_factor
from keras_bimp._src.schedules.discount import discount_variable
from keras_bimp._src.schedules.joined import Joined
from keras_bimp._src.schedules.original import original_rates
from keras_bimp._src.schedules.original import schedule_values
from keras_bimp._src.schedules.plotting import plot
from keras_bimp._src.schedules.retraining_schedules import ALLR
from keras_bimp._src.schedules.retraining_schedules import CLR
from keras_bimp._src.schedules.retraining_schedules import FT
from keras_bimp._src.schedules.retraining_schedules import LLR
from keras_bimp._src.schedules.retraining_schedules import LRW
from keras_bimp._src.schedules.retraining_schedules import SLR
from keras_bimp._src.schedules.schedule import Schedule

__all__ = [
    "ALLR",
    "CLR",
    "FT",
    "LLR",
    "LRW",
    "SLR",
    "Constant",
    "Cosine",
    "Joined",
    "Linear",
    "Recorded",
    "Schedule",
    "Stepped",
    "discount_factor",
    "discount_variable",
    "original_rates",
    "plot",
    "schedule_values",
]
