"""gollm's compiled part. Written by tools/stubs.py; do not edit."""

import collections.abc
import typing

import numpy
import numpy.typing

_Array: typing.TypeAlias = numpy.typing.NDArray[typing.Any]
_Destination: typing.TypeAlias = _Array | tuple[_Array, bool] | None  # overwritten, or (array, whether to add to it)

__version__: str
SPLIT_PATTERNS: tuple[str, ...]

def compiler() -> str: ...
def abi_version() -> int: ...
def has_openmp() -> bool: ...
def num_threads() -> int: ...
def set_num_threads(n: object) -> None: ...
def isa() -> str: ...
def isa_variants() -> list[str]: ...
def isa_supported() -> list[str]: ...
def set_isa(name: str) -> None: ...
def workspace_bytes(kernel: str, **kwargs: typing.Any) -> int: ...
def contracts() -> dict[str, str]: ...
def layernorm_forward(
    *,
    y: _Array,
    mean: _Array | None = None,
    rstd: _Array | None = None,
    x: _Array,
    w: _Array,
    b: _Array | None = None,
    eps: float,
) -> None: ...
def layernorm_backward(
    *,
    dx: _Destination = None,
    dw: _Destination = None,
    db: _Destination = None,
    dy: _Array,
    x: _Array,
    w: _Array,
    mean: _Array,
    rstd: _Array,
) -> None: ...
def rmsnorm_forward(*, y: _Array, r: _Array | None = None, x: _Array, w: _Array, eps: float) -> None: ...
def rmsnorm_backward(
    *,
    dx: _Destination = None,
    dw: _Destination = None,
    dy: _Array,
    x: _Array,
    w: _Array,
    r: _Array,
) -> None: ...
def matmul_nt(
    *,
    c: _Destination = None,
    a: _Array,
    b: _Array,
    bias: _Array | None = None,
    pre: _Array | None = None,
    factor: _Array | None = None,
    residual: _Array | None = None,
    activation: int,
) -> None: ...
def matmul_nn(
    *,
    c: _Destination = None,
    a: _Array,
    b: _Array,
    pre: _Array | None = None,
    factor: _Array | None = None,
    dfactor: _Array | None = None,
    product: _Array | None = None,
    activation: int,
) -> None: ...
def matmul_tn(*, c: _Destination = None, a: _Array, b: _Array, a_sum: _Destination = None) -> None: ...
def activation_forward(*, y: _Array, x: _Array, kind: int) -> None: ...
def activation_backward(*, dx: _Destination = None, dy: _Array, x: _Array, kind: int) -> None: ...
def softmax_forward(*, y: _Array, x: _Array) -> None: ...
def softmax_backward(*, dx: _Destination = None, dy: _Array, y: _Array) -> None: ...
def head_forward(
    *,
    loss: _Array,
    losses: _Array,
    x: _Array,
    w: _Array,
    targets: _Array,
    denominator: float,
    ignore_index: int,
) -> None: ...
def head_backward(
    *,
    loss: _Array,
    losses: _Array,
    dx: _Destination = None,
    dw: _Destination = None,
    dloss: _Array,
    x: _Array,
    w: _Array,
    targets: _Array,
    denominator: float,
    ignore_index: int,
) -> None: ...
def embedding_forward(
    *,
    y: _Array,
    tokens: _Array,
    token_table: _Array,
    positions: _Array | None = None,
    position_table: _Array | None = None,
) -> None: ...
def embedding_backward(
    *,
    dtoken_table: _Destination = None,
    dposition_table: _Destination = None,
    dy: _Array,
    tokens: _Array,
    positions: _Array | None = None,
) -> None: ...
def attention_forward(
    *,
    y: _Array,
    lse: _Array | None = None,
    qkv: _Array,
    rotations: _Array | None = None,
    H: int,
    G: int,
    D: int,
    scale: float,
    window: int,
) -> None: ...
def attention_backward(
    *,
    dqkv: _Destination = None,
    dy: _Array,
    qkv: _Array,
    y: _Array,
    lse: _Array,
    rotations: _Array | None = None,
    H: int,
    G: int,
    D: int,
    scale: float,
    window: int,
) -> None: ...
def kv_cache_write(
    *,
    k_pages: _Array,
    v_pages: _Array,
    qkv: _Array,
    query_offsets: _Array,
    lengths: _Array,
    page_table: _Array,
    rotations: _Array | None = None,
    H: int,
    G: int,
    D: int,
) -> None: ...
def attention_paged(
    *,
    y: _Array,
    qkv: _Array,
    k_pages: _Array,
    v_pages: _Array,
    query_offsets: _Array,
    lengths: _Array,
    page_table: _Array,
    rotations: _Array | None = None,
    H: int,
    G: int,
    D: int,
    scale: float,
    window: int,
) -> None: ...
def add(*, c: _Array, a: _Array, b: _Array) -> None: ...
def fill(*, y: _Array, value: float) -> None: ...
def copy(*, y: _Array, x: _Array) -> None: ...
def to_bf16(*, y: _Array, x: _Array) -> None: ...
def from_bf16(*, y: _Array, x: _Array) -> None: ...
def dropout_forward(
    *,
    y: _Array,
    x: _Array,
    residual: _Array | None = None,
    counter: _Array,
    p: float,
    seed: int,
    stream: int,
) -> None: ...
def dropout_backward(
    *,
    dx: _Destination = None,
    dy: _Array,
    counter: _Array,
    p: float,
    seed: int,
    stream: int,
) -> None: ...
def gradient_norm(*, norm: _Array, scale: _Array, g: _Array, max_norm: float) -> None: ...
def adamw(
    *,
    w: _Array,
    m: _Array,
    v: _Array,
    g: _Array,
    lr: _Array,
    step: _Array,
    grad_scale: _Array,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    n_decay: int,
) -> None: ...
def sgd(
    *,
    w: _Array,
    m: _Array,
    g: _Array,
    lr: _Array,
    grad_scale: _Array,
    momentum: float,
    weight_decay: float,
    n_decay: int,
) -> None: ...
def measure_fma(*, flops: _Array, result: _Array, iterations: int) -> None: ...
def measure_read(*, sums: _Array, x: _Array) -> None: ...
def measure_stream(*, x: _Array, reads: int, writes: int) -> None: ...
def plan_is_recording() -> bool: ...
def empty(shape: tuple[typing.Any, ...], dtype: numpy.dtype[typing.Any]) -> _Array: ...
def pool_statistics() -> dict[str, typing.Any]: ...
def release_pool() -> None: ...
def split_text(text: object, pattern: str) -> list[typing.Any]: ...
def check_vocabulary(tokens: numpy.typing.NDArray[numpy.uint8], offsets: numpy.typing.NDArray[numpy.int32]) -> None: ...
def decode_tokens(
    tokens: numpy.typing.NDArray[numpy.uint8],
    offsets: numpy.typing.NDArray[numpy.int32],
    ids: numpy.typing.NDArray[numpy.int32],
) -> bytes: ...
def bert_normalize(
    text: object,
    clean_text: bool,
    space_chinese: bool,
    strip_accents: bool,
    lowercase: bool,
) -> str: ...
def bert_words(
    text: object,
    clean_text: bool,
    space_chinese: bool,
    strip_accents: bool,
    lowercase: bool,
) -> list[typing.Any]: ...

class Plan:
    def __init__(self) -> None: ...
    def begin(self) -> None: ...
    def lend(self) -> None: ...
    def end(self) -> None: ...
    def clear(self) -> None: ...
    def run(self) -> None: ...
    def kernels(self) -> list[str]: ...

class Encoder:
    def encode(self, text: object) -> numpy.typing.NDArray[numpy.int32]: ...
    def encode_batch(self, texts: collections.abc.Sequence[typing.Any]) -> list[typing.Any]: ...

class BpeEncoder(Encoder):
    def __init__(
        self,
        tokens: numpy.typing.NDArray[numpy.uint8],
        offsets: numpy.typing.NDArray[numpy.int32],
        merges: numpy.typing.NDArray[numpy.int32],
        pattern: str,
        added: numpy.typing.NDArray[numpy.int32],
        lowest_id_first: bool,
        ignore_merges: bool,
        unknown: int,
    ) -> None: ...
    def encode_pieces(self, pieces: collections.abc.Sequence[typing.Any]) -> numpy.typing.NDArray[numpy.int32]: ...
    def unreached(
        self,
        tokens: numpy.typing.NDArray[numpy.uint8],
        offsets: numpy.typing.NDArray[numpy.int32],
    ) -> numpy.typing.NDArray[numpy.int32]: ...

class WordEncoder(Encoder):
    def __init__(
        self,
        tokens: numpy.typing.NDArray[numpy.uint8],
        offsets: numpy.typing.NDArray[numpy.int32],
        n_words: int,
        unknown: int,
        pattern: str,
    ) -> None: ...

class PieceCounter:
    def __init__(self, pattern: str) -> None: ...
    def add(self, text: object) -> None: ...
    def add_pieces(self, pieces: collections.abc.Sequence[typing.Any]) -> None: ...
    def items(self) -> list[typing.Any]: ...

class BpeTrainer:
    def __init__(self, counter: PieceCounter) -> None: ...
    def run(self, n_tokens: int, max_merges: int, min_count: int) -> int: ...
    @property
    def n_tokens(self) -> int: ...
    def result(self) -> tuple[typing.Any, ...]: ...

class SentencePieceEncoder(Encoder):
    def __init__(
        self,
        tokens: numpy.typing.NDArray[numpy.uint8],
        offsets: numpy.typing.NDArray[numpy.int32],
        types: numpy.typing.NDArray[numpy.uint8],
        scores: numpy.typing.NDArray[numpy.float32] | None,
        merges: numpy.typing.NDArray[numpy.int32] | None,
        charsmap: numpy.typing.NDArray[numpy.uint8],
        prefix: str,
        remove_extra_spaces: bool,
        split_spaces: bool,
        fuse_unknown: bool,
    ) -> None: ...
    def cut(self, text: object) -> int: ...

class WordPieceEncoder(Encoder):
    def __init__(
        self,
        tokens: numpy.typing.NDArray[numpy.uint8],
        offsets: numpy.typing.NDArray[numpy.int32],
        special: numpy.typing.NDArray[numpy.uint8],
        unknown: int,
        max_word: int,
        clean_text: bool,
        space_chinese: bool,
        strip_accents: bool,
        lowercase: bool,
    ) -> None: ...
