"""Operations that merge several tensors."""

import keras
import numpy as np
from keras import tree

from keras_bimp._src.shrinking.channel_rules import NotFollowedError
from keras_bimp._src.shrinking.channel_rules import Rule
from keras_bimp._src.shrinking.channel_rules import evaluate
from keras_bimp._src.shrinking.channels import Channels


class Concatenate(Rule):
    """A concatenation of tensors."""

    sized = False

    def forward(self, call):
        axis, rank = self.operation.axis, len(call.shapes[0])
        numbers = [x.numbers for x in call.inputs]
        constants = [x.constants for x in call.inputs]
        self.along = axis in (-1, rank - 1)
        if self.along:
            return Channels(np.concatenate(numbers), np.concatenate(constants))
        for other in numbers[1:]:
            self.classes.unite(numbers[0], other)
        same = np.all([c == constants[0] for c in constants], axis=0)
        return Channels(numbers[0], np.where(same, constants[0], np.nan))

    def backward(self, call):
        live = call.output.live
        sizes = [x.size for x in call.inputs]
        parts = np.split(live, np.cumsum(sizes)[:-1]) if self.along else None
        for i, x in enumerate(call.inputs):
            x.read |= parts[i] if self.along else live


class Merge(Rule):
    """Adds, multiplies or compares tensors elementwise."""

    sized = False

    def forward(self, call):
        ranks = [len(shape) for shape in call.shapes]
        size = max(x.size for x in call.inputs)
        if len(set(ranks)) > 1 or not size:
            raise NotFollowedError("its inputs differ in their axes")
        if any(x.size not in (1, size) for x in call.inputs):
            raise NotFollowedError("its inputs differ in their channels")
        wide = [x for x in call.inputs if x.size == size]
        for x in call.inputs:
            if x.size < size:
                self.classes.keep_whole(
                    x.numbers, f"'{self.operation.name}' repeats them"
                )
        for x in wide[1:]:
            self.classes.unite(wide[0].numbers, x.numbers)
        constants = [np.broadcast_to(x.constants, size) for x in call.inputs]
        result = evaluate(
            lambda *tensors: self.merged(call, tensors), ranks, *constants
        )
        return Channels(wide[0].numbers, self.absorbed(result, constants))

    def merged(self, call, tensors):
        """Calls the operation on other tensors."""
        return self.operation(list(tensors))

    def absorbed(self, result, constants):
        """Returns the constants, including any that one input determines."""
        return result

    def backward(self, call):
        live = call.output.live
        for x in call.inputs:
            x.read |= live if x.size == len(live) else live.any()


class Multiply(Merge):
    """A product, which is 0 if one factor is 0."""

    def absorbed(self, result, constants):
        return np.where(np.any([c == 0 for c in constants], axis=0), 0, result)


class Arithmetic(Merge):
    """Merging in `keras.ops`, of tensors or plain numbers."""

    def forward(self, call):
        for given in tree.flatten(call.arguments):
            if not isinstance(given, keras.KerasTensor | int | float):
                raise NotFollowedError("it is called with an array")
        return super().forward(call)

    def merged(self, call, tensors):
        left = iter(tensors)
        args, kwargs = tree.map_structure(
            lambda x: next(left) if isinstance(x, keras.KerasTensor) else x,
            call.arguments,
        )
        return self.operation(*args, **kwargs)


class Product(Arithmetic, Multiply):
    """`keras.ops.multiply`."""
