"""log(softmax(x)) = log_softmax(x) along the same axis.

**Why** One operator instead of two, and no ``-inf`` where a probability underflows to zero.
**Needs** Softmax and Log of one opset, the softmax used by nothing else.
**Leaves** A softmax whose probabilities are used too.
**Numbers** reassociates (finite where the original gives ``-inf`` from underflow).
**Source** LogSoftmax-13, which defines itself as Log(Softmax(input, axis)).
"""

from planish.passes.core import Numbers, RewritePass
from planish.passes.rewrite import ANY, Rule


class LogOfSoftmax(Rule):
    """Softmax and LogSoftmax have the same attributes and the same defaults in every opset."""

    def pattern(self, op, x):
        return op.Log(op.Softmax(x, axis=ANY, bind="softmax"))

    def rewrite(self, r, m):
        return r.LogSoftmax(m.x, **m.softmax.attrs)


class FuseLogSoftmax(RewritePass):
    numbers = Numbers.REASSOCIATES

    def rules(self):
        return [LogOfSoftmax()]
