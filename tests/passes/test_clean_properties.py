"""Properties of the clean pipeline on models that hypothesis makes: same outputs, and nothing left to do."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from planish.ir.builder import Builder
from planish.ir.clone import clone_model
from planish.ir.dims import is_static
from planish.ir.dtypes import DType
from planish.ir.graph import Graph, Model, Value
from planish.ir.onnx_reader import read_model
from planish.ir.onnx_writer import model_to_bytes
from planish.ir.verify import verify
from planish.passes.core import Context
from planish.passes.manager import Pipeline

Array = np.ndarray[Any, Any]
N = 3
"""What the symbol N stands for when a model runs."""


class Maker:
    """Grows a random model of exact operators: whatever is rewritten, every bit must stay."""

    def __init__(self, random: Random, opset: int) -> None:
        self.random = random
        self.b = Builder(opset=opset)
        self.old = opset < 13
        self.floats = [self.b.input("x", DType.F32, ("N", 2, 4)), self.b.input("u", DType.F32, (2, 4))]
        self.shapes: list[Value] = []

    def constant(self, shape: tuple[int, ...]) -> Value:
        choices = [0.0, -0.0, 1.0, 2.0, -1.5]
        if self.random.random() < 0.4:
            return self.b.const(np.full(shape, self.random.choice(choices), np.float32))
        return self.b.const(
            np.array([self.random.choice(choices) for _ in range(int(np.prod(shape)))], np.float32).reshape(shape)
        )

    def pick(self) -> Value:
        return self.random.choice(self.floats[-6:] if self.random.random() < 0.7 else self.floats)

    def step(self) -> None:
        getattr(self, self.random.choice([n for n in dir(Maker) if n.startswith("add_")]))()

    def keep(self, value: Value) -> None:
        if value.rank is not None and value.rank <= 5:
            self.floats.append(value)

    def add_unary(self) -> None:
        op = self.random.choice(["Relu", "Neg", "Abs", "Identity", "Dropout", "Floor", "Ceil", "Neg"])
        self.keep(self.b.op(op, self.pick()))

    def add_binary(self) -> None:
        x = self.pick()
        shape = self.random.choice([(), (1,), (x.shape[-1],) if x.shape and isinstance(x.shape[-1], int) else ()])
        pair = [x, self.constant(shape)]
        op = self.random.choice(["Add", "Mul", "Sub", "Max"])
        if op != "Sub":
            self.random.shuffle(pair)
        self.keep(self.b.op(op, *pair))

    def add_square(self) -> None:
        x = self.pick()
        self.keep(self.b.Add(x, x))

    def add_transpose(self) -> None:
        x = self.pick()
        perm = list(range(x.rank or 0))
        self.random.shuffle(perm)
        if perm:
            self.keep(self.b.Transpose(x, perm=tuple(perm)))

    def add_unsqueeze(self) -> None:
        x = self.pick()
        axis = self.random.randint(0, x.rank or 0)
        self.keep(self.b.Unsqueeze(x, axes=(axis,)) if self.old else self.b.Unsqueeze(x, np.array([axis])))

    def add_squeeze(self) -> None:
        x = self.pick()
        axes = tuple(i for i, d in enumerate(x.shape or ()) if d == 1 and self.random.random() < 0.7)
        if axes:
            self.keep(self.b.Squeeze(x, axes=axes) if self.old else self.b.Squeeze(x, np.array(axes)))

    def add_flatten(self) -> None:
        x = self.pick()
        self.keep(self.b.Flatten(x, axis=self.random.randint(0, x.rank or 0)))

    def add_reshape(self) -> None:
        x = self.pick()
        target = [0 if self.random.random() < 0.5 else d for d in x.shape or ()]
        target = [d if isinstance(d, int) else 0 for d in target]
        if target and self.random.random() < 0.5:
            target = [*target[:1], -1] if self.random.random() < 0.5 else [-1, *target[1:]]
        if target.count(-1) <= 1 and target:
            self.keep(self.b.Reshape(x, np.array(target, np.int64)))

    def add_shape_reshape(self) -> None:
        """The arithmetic that exporters write around a flatten."""
        x = self.pick()
        if not x.rank or x.rank < 2:
            return
        s = self.b.Shape(x)
        first = self.b.Gather(s, np.array([0]))
        rest = self.b.Slice(s, np.array([1]), np.array([9])) if self.b.graph.opsets[""] >= 10 else None
        if rest is None:
            return
        product = self.b.ReduceProd(self.b.Cast(rest, to=1), keepdims=1)
        size = self.b.Cast(product, to=7) if self.random.random() < 0.5 else np.array([-1])
        target = self.b.Concat(first, size, axis=0)
        self.shapes.append(target)
        self.keep(self.b.Reshape(x, target))

    def add_slice(self) -> None:
        x = self.pick()
        if not x.rank or self.b.graph.opsets[""] < 10:
            return
        axis = self.random.randrange(x.rank)
        start, end = self.random.choice([(0, 1 << 40), (1, 3), (0, 1), (-2, 1 << 40), (0, 2)])
        self.keep(self.b.Slice(x, np.array([start]), np.array([end]), np.array([axis])))

    def add_concat(self) -> None:
        x = self.pick()
        if not x.rank:
            return
        axis = self.random.randrange(x.rank)
        parts = [x] * self.random.randint(1, 2)
        self.keep(self.b.Concat(*parts, axis=axis))

    def add_pad(self) -> None:
        x = self.pick()
        if x.rank and self.b.graph.opsets[""] >= 11:
            pads = [self.random.choice([0, 0, 0, 1]) for _ in range(2 * x.rank)]
            self.keep(self.b.Pad(x, np.array(pads)))

    def add_tile(self) -> None:
        x = self.pick()
        if x.rank:
            self.keep(self.b.Tile(x, np.array([self.random.choice([1, 1, 2]) for _ in range(x.rank)])))

    def add_expand(self) -> None:
        x = self.pick()
        if x.rank and self.b.graph.opsets[""] >= 8:
            self.keep(self.b.Expand(x, np.array([d if isinstance(d, int) else 1 for d in x.shape or ()])))

    def add_cast(self) -> None:
        self.keep(self.b.Cast(self.b.Cast(self.pick(), to=11), to=1))

    def add_constant_arithmetic(self) -> None:
        c = self.b.op(self.random.choice(["Neg", "Abs", "Relu"]), self.constant((2, 4)))
        self.floats.append(c)

    def add_if(self) -> None:
        x = self.pick()
        if x.shape is None:
            return
        bodies: list[Graph] = []
        for name in ("then", "else"):
            body = Graph(name, self.b.graph.opsets)
            inner = Builder(body)
            y = inner.op(self.random.choice(["Relu", "Neg", "Identity", "Abs"]), x)
            y = inner.Mul(y, np.float32(self.random.choice([1.0, 2.0]))) if self.random.random() < 0.5 else y
            body.set_outputs([y], [f"{name}_out"])
            bodies.append(body)
        condition = self.b.const(np.array(self.random.random() < 0.5))
        if self.random.random() < 0.5:
            condition = self.b.Greater(self.b.ReduceMax(self.floats[1], keepdims=0), np.float32(0.5))
        self.keep(self.b.If(condition, then_branch=bodies[0], else_branch=bodies[1]))

    def model(self, steps: int) -> Model:
        for _ in range(steps):
            self.step()
        outputs = {self.floats[-1]: None, self.pick(): None, **dict.fromkeys(self.shapes[:1])}
        for i, value in enumerate(outputs):
            self.b.output(value, f"out{i}")
        return self.b.model()


def run(raw: bytes, feeds: dict[str, Array]) -> list[Array]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return [np.asarray(v) for v in ort.InferenceSession(raw, options).run(None, feeds)]


def run_original(model: Model, feeds: dict[str, Array]) -> list[Array]:
    """Runs the model as it was made; one that the runtime refuses is no example."""
    try:
        return run(model_to_bytes(model), feeds)
    except Exception:  # the runtime's exceptions have no common type
        assume(False)
        raise


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
@given(st.randoms(use_true_random=False), st.integers(3, 25), st.sampled_from([9, 12, 13, 17, 21]))
def test_clean_keeps_every_bit_and_leaves_nothing_to_do(random: Random, steps: int, opset: int) -> None:
    model = Maker(random, opset).model(steps)
    verify(model)
    note(str(model))
    cleaned = clone_model(model)
    Pipeline("clean").run(cleaned, Context())
    note(str(cleaned))
    verify(cleaned)
    again = Pipeline("clean").run(cleaned, Context())
    assert again.changes == 0, [(p.name, p.hits) for p in again.passes if p.changes]

    draw = np.random.default_rng(steps)
    feeds = {
        "x": draw.choice(np.array([0.0, -0.0, 1.0, -2.5, 3.7, np.inf], np.float32), (N, 2, 4)),
        "u": draw.choice(np.array([0.0, -0.0, 1.0, -2.5], np.float32), (2, 4)),
    }
    raw = model_to_bytes(cleaned)
    for a, b in zip(run_original(model, feeds), run(raw, feeds), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert same_bits(a, b), (a, b)
    # What is written and read again is clean as well.
    from planish.ir.infer import infer_model

    read = read_model(raw)
    infer_model(read)
    assert sum(1 for _ in read.all_nodes()) >= sum(1 for _ in cleaned.all_nodes())


def same_bits(a: Array, b: Array) -> bool:
    if a.dtype.kind != "f":
        return np.array_equal(a, b)
    nan = np.isnan(a) & np.isnan(b)
    return bool(((a == b) & (np.signbit(a) == np.signbit(b)) | nan).all())


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
@given(st.randoms(use_true_random=False), st.integers(3, 15), st.integers(0, 12))
def test_stopping_anywhere_leaves_a_model_that_computes_the_same(random: Random, steps: int, fuel: int) -> None:
    """What bisecting relies on."""
    from planish.passes.core import Fuel

    model = Maker(random, 17).model(steps)
    part = clone_model(model)
    ctx = Context(fuel=Fuel(fuel))
    Pipeline("clean").run(part, ctx)
    verify(part)
    assert ctx.fuel.spent <= fuel
    feeds = {"x": np.ones((N, 2, 4), np.float32), "u": np.ones((2, 4), np.float32)}
    for a, b in zip(run_original(model, feeds), run(model_to_bytes(part), feeds), strict=True):
        assert same_bits(a, b)


def test_the_maker_makes_models_worth_cleaning() -> None:
    hits: dict[str, int] = {}
    for seed in range(60):
        model = Maker(Random(seed), [9, 13, 17, 21][seed % 4]).model(20)
        record = Pipeline("clean").run(model, Context())
        for p in record.passes:
            for name, count in p.hits.items():
                hits[name] = hits.get(name, 0) + count
        assert all(v.shape is None or is_static(v.shape) or "N" in str(v.type) for v in model.graph.outputs)
    assert len(hits) >= 12, hits
