"""Recorded plans: the bits of the function itself, whose memory they keep, what they refuse, threads and fork."""

import contextlib
import gc
import os
import subprocess
import sys
import threading
from functools import partial

import numpy as np
import pytest

import gollm
from gollm import Plan, Tensor, _native
from gollm.errors import DTypeError, GollmError, KernelError
from gollm.kernels import cpu
from gollm.model.decoder import Decoder
from gollm.nn.ops import activation, add, cross_entropy, linear
from gollm.nn.optimizer import SGD, AdamW
from gollm.nn.tape import no_grad
from gollm.nn.tensor import empty, tensor
from gollm.training.objective import forward_backward
from test_tape import OPERATIONS

CONFIG = gollm.ModelConfig(n_layers=2, n_heads=2, d_model=32, context=8, vocab_size=23, dropout=0.2)


class Step:
    """Whole steps of a small model with dropout, two micro-batches each, and a learning rate that changes."""

    def __init__(self, wrap, optimizer=AdamW):
        self.model = Decoder(CONFIG).initialise(1)
        self.optimizer = optimizer(self.model.parameters)
        self.counters = np.zeros(2, np.int64)
        self.gradients = wrap(partial(forward_backward, self.model, self.counters))
        self.rng = np.random.default_rng(0)
        self.n = 0

    def batch(self):
        return self.rng.integers(0, CONFIG.vocab_size, (2, 2, 3, 8)).astype(np.int32)

    def __call__(self, batch=None):
        self.n += 1
        self.counters[:] = 2 * self.n, 2 * self.n + 1
        losses = [part.item() for part in self.gradients(*(self.batch() if batch is None else batch))]
        return losses, self.optimizer.step(1e-2 * min(self.n / 10, 1) * 0.95**self.n)

    def state(self):
        return b"".join(a.tobytes() for a in (self.model.parameters.weights, *self.optimizer.state().values()))


@pytest.fixture
def threads():
    before = gollm.num_threads()
    yield gollm.set_num_threads
    gollm.set_num_threads(before)


@pytest.mark.parametrize("optimizer", [AdamW, SGD])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_fifty_steps_have_the_bits_of_the_function(threads, optimizer, n):
    threads(n)
    eager, planned = Step(lambda function: function, optimizer), Step(Plan, optimizer)
    for _ in range(50):
        assert eager() == planned()
    assert eager.state() == planned.state()


def test_the_number_of_threads_may_change_between_calls(threads):
    eager, planned = Step(lambda function: function), Step(Plan)
    for n in (2, 1, 3, 2):
        threads(n)
        assert eager() == planned()
    assert eager.state() == planned.state()


def test_what_is_recorded_is_every_kernel_call_in_order():
    plan = Plan(lambda x: activation(add(tensor(x), tensor(x)), kind=3))
    assert plan.kernels == []
    plan(np.ones(3, np.float32))
    assert plan.kernels == ["add", "activation_forward"]
    plan.forget()
    assert plan.kernels == []


class Recorded:
    """A native plan of calls on arrays by name; spans() are the names of what each call writes."""

    def __init__(self, *calls):
        rng = np.random.default_rng(0)
        self.arrays = {name: rng.standard_normal(4099).astype(np.float32) for name in "abcdef"}
        self.start = {name: array.copy() for name, array in self.arrays.items()}
        self.written = [call[1] for call in calls]
        self.plan = _native.Plan()
        self.plan.begin()
        for kernel, *names in calls:
            getattr(self, kernel)(*(self.arrays[name] for name in names))
        self.plan.end()

    def add(self, c, a, b):
        _native.add(c=c, a=a, b=b)

    def copy(self, y, x):
        _native.copy(y=y, x=x)

    def half(self, y, x):
        _native.copy(y=y[:2000], x=x[2000:4000])

    def norm(self, norm, g):
        _native.gradient_norm(norm=norm[:2].view(np.float64), scale=norm[2:4].view(np.float64), g=g, max_norm=1.0)

    def spans(self):
        written = iter(self.written)
        return ["".join(next(written) for _ in span) for span in self.plan.spans()]

    def results(self):
        for name, array in self.arrays.items():
            array[...] = self.start[name]
        self.plan.run()
        return b"".join(array.tobytes() for array in self.arrays.values())


SPANS = [
    ([("add", "a", "e", "f"), ("add", "b", "e", "f"), ("copy", "c", "d")], ["abc"]),  # both only read e and f
    (
        [("add", "a", "e", "f"), ("add", "b", "a", "f"), ("add", "c", "b", "a")],
        ["a", "b", "c"],
    ),  # read what was written
    ([("copy", "a", "b"), ("copy", "b", "c"), ("copy", "c", "d")], ["a", "b", "c"]),  # write what was read
    ([("copy", "a", "b"), ("copy", "a", "c")], ["a", "a"]),  # write what was written
    ([("copy", "a", "b"), ("copy", "c", "d"), ("copy", "e", "a"), ("copy", "f", "d")], ["ac", "ef"]),
    (
        [("copy", "a", "b"), ("copy", "c", "d"), ("copy", "e", "f"), ("copy", "d", "b")],
        ["ace", "d"],
    ),  # of the span's 2nd
    ([("half", "a", "b"), ("half", "b", "c"), ("copy", "d", "a")], ["ab", "d"]),  # other parts of one array
    ([("norm", "a", "b"), ("copy", "c", "d"), ("norm", "e", "f")], ["ac", "e"]),  # one workspace
    ([("norm", "a", "b"), ("copy", "c", "a")], ["a", "c"]),
    ([("copy", "a", "b"), ("norm", "c", "b"), ("copy", "d", "b")], ["acd"]),
]


@pytest.mark.parametrize(("calls", "spans"), SPANS)
def test_calls_that_do_not_meet_share_a_span(threads, calls, spans):
    recorded = Recorded(*calls)
    assert recorded.spans() == spans
    threads(1)
    alone = recorded.results()
    for n in (2, 3, 7):
        threads(n)
        for _ in range(20):
            assert recorded.results() == alone


def test_a_plan_without_results_has_no_spans():
    plan = _native.Plan()
    plan.begin()
    plan.end()
    plan.run()
    assert plan.spans() == []


def test_an_argument_comes_anew_and_memory_is_read_anew():
    w = np.eye(2, dtype=np.float32)
    plan = Plan(lambda x: linear(tensor(x), tensor(w), None, None))
    x = np.array([[1, 2]], np.float32)
    first = plan(x)
    assert first.numpy().tolist() == [[1, 2]]
    w *= 3
    assert plan(x + 1) is first
    assert first.numpy().tolist() == [[6, 9]]
    assert x.tolist() == [[1, 2]]


def test_another_shape_is_recorded_anew():
    calls = []

    def function(x):
        calls.append(x.shape)
        return add(tensor(x), tensor(x))

    plan = Plan(function)
    for n in (3, 3, 5, 5, 3):
        x = np.arange(n, dtype=np.float32)
        assert plan(x).numpy().tolist() == (2 * x).tolist()
    assert plan(np.ones(3)).dtype == np.float64
    assert calls == [(3,), (5,), (3,), (3,)]


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_replayed(name):
    """What an operation does beside its kernels would come about only once."""
    shapes, operation = OPERATIONS[name]

    def function(*arrays):
        leaves = [tensor(array, requires_grad=True) for array in arrays]
        y = operation(*leaves)
        head = tensor(np.linspace(-1, 1, 3 * y.shape[-1], dtype=np.float32).reshape(3, -1))
        loss = cross_entropy(y, head, np.zeros(y.shape[:-1], np.int32))
        loss.backward()
        return [y, loss, *[leaf.grad for leaf in leaves]]

    plan, rng = Plan(function), np.random.default_rng(4)
    for _ in range(3):
        arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
        for planned, eager in zip(plan(*arrays), function(*arrays), strict=True):
            assert np.asarray(planned).tobytes() == np.asarray(eager).tobytes()


def test_a_gradient_that_is_passed_on_to_a_leaf():
    """The copy, and the one that the backward pass begins with, come about again in every replay."""
    a, b = tensor(np.zeros(1, np.float32), requires_grad=True), tensor(np.zeros(1, np.float32), requires_grad=True)

    def function(x):
        for leaf in (a, b):
            leaf.zero_grad()
        add(add(a, b), tensor(x)).backward()
        return a.grad, b.grad

    plan = Plan(function)
    for _ in range(3):
        da, db = plan(np.ones(1, np.float32))
        assert da == 1 and db == 1
        da[...] = db[...] = 7


def test_ignored_targets_are_counted_at_each_call():
    model = Decoder(CONFIG).initialise(2)
    targets = np.arange(8, dtype=np.int32).reshape(1, 8)

    def gradients(x, y):
        model.parameters.zero_grad()
        model.loss(x, y).backward()

    step = Plan(gradients)
    step(targets, targets)
    for ignored in (3, 7, 8):
        targets[0, :ignored] = -1
        step(np.maximum(targets, 0), targets)
        planned = model.parameters.gradients.copy()
        gradients(np.maximum(targets, 0), targets)
        assert model.parameters.gradients.tobytes() == planned.tobytes()


# -- memory


def test_replays_allocate_nothing_and_leave_nothing_to_collect():
    step = Step(Plan)
    step()
    gc.collect()
    gc.disable()
    try:
        before = _native.pool_statistics()
        for _ in range(3):
            step()
        assert _native.pool_statistics() == before
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_plan_takes_no_more_memory_than_its_function():
    """Buffers that Python lets go of serve again within the recorded step."""
    held = []
    for wrap in (lambda function: function, Plan):
        _native.release_pool()
        before = _native.pool_statistics()["bytes_held"]
        step = Step(wrap)
        step()
        held.append(_native.pool_statistics()["bytes_held"] - before)
        del step
    assert held[1] <= held[0]


def test_a_plan_frees_its_memory():
    _native.release_pool()
    before = _native.pool_statistics()["bytes_held"]
    plan = Plan(lambda x: [add(tensor(x), tensor(x)) for _ in range(4)])
    results = plan(np.ones(1 << 16, np.float32))
    assert _native.pool_statistics()["bytes_held"] == before + 4 * (1 << 18)
    del plan
    assert results[3].numpy()[-1] == 2  # results outlive it
    assert _native.pool_statistics()["bytes_held"] == before + 4 * (1 << 18)
    del results
    assert _native.pool_statistics()["bytes_held"] == before


def test_gradients_that_outlive_a_plan_keep_none_of_its_free_memory():
    model = Decoder(CONFIG).initialise(1)
    x = np.zeros((4, 8), np.int32)
    plan = Plan(lambda x: model.loss(x, x).backward())
    plan(x)
    del plan
    _native.release_pool()
    held = _native.pool_statistics()["bytes_held"]
    eager = Decoder(CONFIG).initialise(1)
    _ = eager.parameters.gradients
    assert _native.pool_statistics()["bytes_held"] - held >= eager.parameters.weights.nbytes
    assert held <= _native.pool_statistics()["bytes_in_use"] + eager.parameters.weights.nbytes


def test_gradients_count_as_written_after_a_replay():
    """zero_grad() outside of the function, as in a loop without a plan, and gradients that a replay has written."""

    def norms(wrap):
        model = Decoder(CONFIG).initialise(1)
        optimizer = SGD(model.parameters)
        gradients = wrap(lambda x: model.loss(x, x).backward())
        for _ in range(4):
            model.parameters.zero_grad()
            gradients(np.arange(16, dtype=np.int32).reshape(2, 8))
            yield optimizer.step(0.1)

    assert list(norms(Plan)) == list(norms(lambda function: function))


@pytest.mark.parametrize("structure", [lambda loss: loss, lambda loss: {"losses": [loss]}])
def test_a_loss_without_a_backward_pass_is_computed_by_every_call(structure):
    model = Decoder(CONFIG).initialise(1)
    plan = Plan(lambda x: structure(model.loss(x, x)))
    for start in range(3):
        x = np.arange(start, start + 8, dtype=np.int32)[None]
        result = plan(x)
        loss = result["losses"][0] if isinstance(result, dict) else result
        assert loss.item() == model.loss(x, x).item()


def test_arrays_of_others_live_as_long_as_the_plan():
    plan = Plan(lambda x: add(tensor(x), tensor(np.full(1000, 5, np.float32))))
    plan(np.zeros(1000, np.float32))
    others = [np.full(1000, -1, np.float32) for _ in range(10)]
    assert (plan(np.ones(1000, np.float32)).numpy() == 6).all()
    assert len(others) == 10


def test_arrays_of_a_plan_cannot_be_resized():
    plan, a, b, c = _native.Plan(), np.ones(1000, np.float32), np.ones(2000, np.float32), np.empty(1000, np.float32)
    plan.begin()
    _native.add(c=c, a=a, b=b[:1000])
    plan.end()
    for array in (a, b):
        with pytest.raises(ValueError, match="cannot resize"):
            array.resize((10**6,), refcheck=False)
    plan.run()
    assert (c == 2).all()
    plan.clear()
    a.resize((1,), refcheck=False)


def test_lent_memory():
    step = Step(Plan)
    step()
    before = _native.pool_statistics()["system_allocations"]
    with step.gradients.lend_memory(), no_grad():
        first = step.model.loss(*step.batch()[:, 0]).item()
    assert _native.pool_statistics()["system_allocations"] == before
    assert np.isfinite(first)
    with step.gradients.lend_memory():
        array = empty((4,))
    with pytest.raises(GollmError, match="memory that it has lent is in use"):
        step()
    del array
    step()


def test_a_rotary_model_may_be_used_for_longer_texts_while_memory_is_lent():
    """The table of rotations grows then, and stays."""
    model = Decoder(CONFIG.replace(position="rope", context=300)).initialise(1)
    plan = Plan(lambda x: model.loss(x, x))
    tokens = np.arange(16, dtype=np.int32).reshape(2, 8)
    first = plan(tokens).item()
    with plan.lend_memory():
        model.logits(np.zeros((1, 300), np.int32))
    assert plan(tokens).item() == first


def test_lending_changes_nothing():
    undisturbed, lending = Step(Plan), Step(Plan)
    for _ in range(4):
        assert undisturbed() == lending()
        with lending.gradients.lend_memory(), no_grad():
            lending.model.logits(np.zeros((2, 8), np.int32))
    assert undisturbed.state() == lending.state()


# -- measuring


@contextlib.contextmanager
def measured():
    measure = _native.Measure()
    measure.begin()
    try:
        yield measure
    finally:
        measure.end()


def gradients_of(model):
    def gradients(tokens, targets):
        model.parameters.zero_grad()
        loss = model.loss(tokens, targets)
        loss.backward()
        return loss

    return gradients


@pytest.mark.parametrize("recompute", ["none", "mlp", "block"])
def test_a_measured_step_holds_what_its_plan_holds(recompute):
    tokens, models = np.zeros((4, 8), np.int32), [Decoder(CONFIG).initialise(1) for _ in range(2)]
    for model in models:
        model.recompute = recompute
    gc.collect()  # earlier plans
    _native.release_pool()
    start = _native.pool_statistics()
    with measured() as measure:
        _ = gradients_of(models[0])(tokens, tokens).data
    assert _native.pool_statistics() == start  # no memory was taken
    planned = Plan(gradients_of(models[1]))
    planned(tokens, tokens)
    held = _native.pool_statistics()["bytes_held"] - start["bytes_held"]
    assert measure.bytes_held == held > 0
    _native.release_workspace()
    planned(tokens, tokens)
    assert 0 <= _native.workspace_size() - measure.workspace_bytes < 64


def test_kernels_are_checked_but_not_run_while_a_step_is_measured():
    y, x = np.zeros(3, np.float32), np.ones(3, np.float32)
    with measured() as measure:
        assert _native.plan_is_recording()
        _native.copy(y=y, x=x)
        with pytest.raises(KernelError, match="activation_forward: a value outside"):
            _native.activation_forward(y=y, x=x, kind=99)
        huge = [_native.empty((1 << 44,), np.dtype(np.uint8)) for _ in range(2)]
        assert measure.bytes_held == 1 << 45
        assert huge[0][-1] == 0
    assert (y == 0).all() and measure.workspace_bytes == 0
    assert not _native.plan_is_recording()
    del huge
    measure.begin()
    assert measure.bytes_held == 0
    measure.end()


def test_what_cannot_be_done_while_a_step_is_measured():
    plan, other = _native.Plan(), _native.Measure()
    with measured() as measure:
        with pytest.raises(GollmError, match="a plan cannot be used while a step is measured"):
            plan.begin()
        with pytest.raises(GollmError, match="a plan cannot run while a step is measured"):
            plan.run()
        for inner in (measure, other):
            with pytest.raises(GollmError, match="a step cannot be measured while a step is measured"):
                inner.begin()
        with pytest.raises(GollmError, match="no step is being measured by this here"):
            other.end()
    plan.begin()
    with pytest.raises(GollmError, match="a step cannot be measured while one is recorded or lends its memory"):
        other.begin()
    plan.end()
    with pytest.raises(GollmError, match="no step is being measured by this here"):
        other.end()


# -- what is refused


@pytest.mark.parametrize("at", [0, 2])
def test_a_bad_token_is_refused_and_the_plan_goes_on(at, threads):
    threads(3)
    step, undisturbed = Step(Plan), Step(Plan)
    for _ in range(at):
        step(), undisturbed()
    for where, kernel in ((0, "embedding_forward"), (1, "head_backward")):
        bad = Step(Plan).batch()
        bad[where, 1, 2, 7] = CONFIG.vocab_size
        with pytest.raises(KernelError, match=f"{kernel}: a token id"):
            step.gradients(*bad)
    assert not step.model.dropout.training
    for _ in range(3):
        assert step() == undisturbed()
    assert step.state() == undisturbed.state()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_runs_with_nothing_in_between(threads, n):
    """Each goes on from where the one before left the arrays; one that fails ends them all, and the plan goes on."""
    threads(n)
    table = np.arange(12, dtype=np.float32).reshape(6, 2)
    tokens = np.array([7, 8, 9], np.int32)

    def function(positions, lengths, drawn_at, text):
        y = empty((3, 2))
        cpu.embedding_forward(y=y, tokens=positions, token_table=table)
        cpu.advance(positions=positions, lengths=lengths, drawn_at=drawn_at, text=text, tokens=tokens)
        return y, positions, lengths, drawn_at, text

    plan = Plan(function)
    for times in (1, 3, 2, 4, 1):
        start = np.array([0, 1, 2], np.int32)
        text = np.zeros((3, 9), np.int32)
        y, positions, lengths, drawn_at, text = plan(start, start + 1, start.astype(np.int64) + 100, text, times=times)
        assert (positions == start + times).all() and (lengths == start + times + 1).all()
        assert (drawn_at == start + 100 + times).all()
        assert (y == table[start + times - 1]).all()
        for s in range(3):
            noted = np.zeros(9, np.int32)
            noted[(100 + s + np.arange(times)) % 9] = tokens[s]
            assert (text[s] == noted).all()
        with pytest.raises(KernelError, match="embedding_forward: "):
            plan(start, start, start.astype(np.int64), text.copy(), times=5)
    with pytest.raises(GollmError, match="cannot run 0 times"):
        plan(start, start, start.astype(np.int64), text.copy(), times=0)


def test_a_gradient_that_is_not_finite_updates_nothing():
    step = Step(Plan)
    step()
    weight = step.model.parameters["norm.weight"].data
    weight[0] = np.nan
    before = step.state()
    losses, norm = step()
    assert np.isnan(losses).all() and np.isnan(norm)
    assert step.state() == before


@pytest.mark.parametrize("dtype", [np.int16, np.float16, bool])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(DTypeError, match="a plan takes arrays of int32, int64, float32, float64, not"):
        Plan(lambda x: x)(np.zeros(3, dtype))


@pytest.mark.parametrize("given", [[1.0], tensor([1.0])], ids=["list", "Tensor"])
def test_what_is_no_array_is_refused(given):
    with pytest.raises(DTypeError, match=f"not {type(given).__name__}; convert it first"):
        Plan(lambda x: x)(given)


def test_what_would_happen_only_once_is_refused():
    x = np.ones(1, np.float32)
    with pytest.raises(GollmError, match="item: a value that is read while a plan is recorded"):
        Plan(lambda x: add(tensor(x), tensor(x)).item())(x)
    model = Decoder(CONFIG)
    with pytest.raises(GollmError, match="an optimiser's step cannot be part of a plan"):
        Plan(lambda x: AdamW(model.parameters).step(0.1))(x)
    inner = Plan(lambda x: add(tensor(x), tensor(x)))
    for _ in range(2):  # neither its recording nor its replay
        with pytest.raises(GollmError, match="a plan cannot"):
            Plan(inner)(x)
        inner(x)
    with pytest.raises(GollmError, match="a plan cannot run while one is recorded or lends"), inner.lend_memory():
        inner(x)


def test_an_error_ends_the_recording():
    def fail(x):
        empty((100,))
        raise ValueError("mine")

    plan = Plan(fail)
    for _ in range(2):
        with pytest.raises(ValueError, match="mine"):
            plan(np.ones(1, np.float32))
    assert not _native.plan_is_recording()
    assert plan.kernels == []


def test_end_without_begin_is_refused():
    with pytest.raises(GollmError, match="not being recorded"):
        _native.Plan().end()


# -- threads and processes


def test_other_threads_are_not_recorded():
    x = tensor(np.ones(5, np.float32))

    def function(a):
        other = threading.Thread(target=lambda: add(x, x))
        other.start()
        other.join()
        return activation(tensor(a), kind=3)

    plan = Plan(function)
    plan(np.ones(5, np.float32))
    assert plan.kernels == ["activation_forward"]


def test_plans_of_several_threads_take_turns():
    wrong, shared, alone = [], Step(Plan), Step(Plan)
    expected = [alone() for _ in range(20)]
    one = shared.batch()

    def own():
        step = Step(Plan)
        if [step() for _ in range(20)] != expected:
            wrong.append("own")

    def same():
        for _ in range(20):
            shared.gradients(*one)

    workers = [threading.Thread(target=target) for target in (own, own, same, same)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    alone = Step(Plan)
    assert [a.item() for a in shared.gradients(*one)] == [a.item() for a in alone.gradients(*one)]
    assert shared.model.parameters.gradients.tobytes() == alone.model.parameters.gradients.tobytes()


def test_a_native_plan_that_runs_is_not_cleared_nor_recorded_under_its_feet():
    """Refused or done, from another thread, but never a crash."""
    plan, stop, x = _native.Plan(), threading.Event(), np.ones(100_000, np.float32)

    def record():
        plan.begin()
        try:
            for _ in range(20):
                y = _native.empty(x.shape, x.dtype)
                _native.add(c=y, a=x, b=x)
        finally:
            plan.end()

    def replay():
        while not stop.is_set():
            with contextlib.suppress(GollmError):
                plan.run()
            with contextlib.suppress(GollmError):
                plan.spans()

    record()
    workers = [threading.Thread(target=replay) for _ in range(2)]
    for worker in workers:
        worker.start()
    refused = 0
    for _ in range(300):
        for step in (record, plan.clear):
            try:
                step()
            except GollmError as error:
                assert "in use" in str(error)
                refused += 1
    stop.set()
    for worker in workers:
        worker.join()
    assert refused
    record()
    plan.run()


FORK = """
import os, sys
sys.path.insert(0, {folder!r})
import gollm
from test_plan import Plan, Step

gollm.set_num_threads(2)
step, want = Step(Plan), Step(Plan)
step(), want()
expected = [want() for _ in range(3)]
pid = os.fork()
same = [step() for _ in range(3)] == expected and step.state() == want.state()
if pid == 0:
    os._exit(0 if same and gollm.num_threads() == 1 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), same)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_after_fork_parent_and_child_replay_the_same_bits():
    code = FORK.format(folder=os.path.dirname(__file__))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.split() == ["0", "True"], run.stderr


def test_results_have_the_structure_that_the_function_gives():
    plan = Plan(lambda x: {"sum": [add(tensor(x), tensor(x))]})
    assert isinstance(plan(np.ones(2, np.float32))["sum"][0], Tensor)
    assert plan(np.full(2, 2, np.float32))["sum"][0].numpy().tolist() == [4, 4]
