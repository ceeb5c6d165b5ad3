from keras_bimp import schedules
from keras_bimp.masking import Masked, wrap, strip
