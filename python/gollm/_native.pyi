"""gollm's compiled part. Written by tools/stubs.py; do not edit."""

import collections.abc
import types
import typing

import numpy
import numpy.typing

_Array: typing.TypeAlias = numpy.typing.NDArray[typing.Any]

class _Storage(typing.Protocol):
    @property
    def array(self) -> _Array: ...

_Buffer: typing.TypeAlias = _Array | _Storage
_Destination: typing.TypeAlias = _Buffer | tuple[_Buffer, bool] | None  # overwritten, or (it, whether to add to it)

__version__: str
SPLIT_PATTERNS: tuple[str, ...]

def compiler() -> str: ...
def abi_version() -> int: ...
def has_openmp() -> bool: ...
def num_threads() -> int: ...
def set_num_threads(n: object) -> None: ...
def workspace_size() -> int: ...
def release_workspace() -> None: ...
def isa() -> str: ...
def isa_variants() -> list[str]: ...
def isa_supported() -> list[str]: ...
def set_isa(name: str) -> None: ...
def workspace_bytes(kernel: str, **kwargs: typing.Any) -> int: ...
def contracts() -> dict[str, str]: ...
def layernorm_forward(
    *,
    y: _Buffer,
    mean: _Buffer | None = None,
    rstd: _Buffer | None = None,
    x: _Buffer,
    w: _Buffer,
    b: _Buffer | None = None,
    eps: float,
) -> None: ...
def layernorm_backward(
    *,
    dx: _Destination = None,
    dw: _Destination = None,
    db: _Destination = None,
    dy: _Buffer,
    x: _Buffer,
    w: _Buffer,
    mean: _Buffer,
    rstd: _Buffer,
) -> None: ...
def rmsnorm_forward(*, y: _Buffer, r: _Buffer | None = None, x: _Buffer, w: _Buffer, eps: float) -> None: ...
def rmsnorm_backward(
    *,
    dx: _Destination = None,
    dw: _Destination = None,
    dy: _Buffer,
    x: _Buffer,
    w: _Buffer,
    r: _Buffer,
) -> None: ...
def matmul_nt(
    *,
    c: _Buffer,
    a: _Buffer,
    b: _Buffer,
    bias: _Buffer | None = None,
    pre: _Buffer | None = None,
    factor: _Buffer | None = None,
    residual: _Buffer | None = None,
    activation: int,
    compute: int,
) -> None: ...
def matmul_packed(
    *,
    c: _Buffer,
    a: _Buffer,
    b: _Buffer,
    bias: _Buffer | None = None,
    pre: _Buffer | None = None,
    factor: _Buffer | None = None,
    residual: _Buffer | None = None,
    activation: int,
) -> None: ...
def pack_weight(*, packed: _Buffer, w: _Buffer) -> None: ...
def matmul_nn(
    *,
    c: _Destination = None,
    a: _Buffer,
    b: _Buffer,
    pre: _Buffer | None = None,
    factor: _Buffer | None = None,
    dfactor: _Buffer | None = None,
    product: _Buffer | None = None,
    activation: int,
    compute: int,
) -> None: ...
def matmul_tn(*, c: _Destination = None, a: _Buffer, b: _Buffer, a_sum: _Destination = None, compute: int) -> None: ...
def matmul_int8(
    *,
    group: int,
    c: _Buffer,
    a: _Buffer,
    b: _Buffer,
    bias: _Buffer | None = None,
    pre: _Buffer | None = None,
    factor: _Buffer | None = None,
    residual: _Buffer | None = None,
    activation: int,
) -> None: ...
def matmul_int4(
    *,
    c: _Buffer,
    a: _Buffer,
    b: _Buffer,
    bias: _Buffer | None = None,
    pre: _Buffer | None = None,
    factor: _Buffer | None = None,
    residual: _Buffer | None = None,
    activation: int,
) -> None: ...
def matmul_int4_min(
    *,
    c: _Buffer,
    a: _Buffer,
    b: _Buffer,
    bias: _Buffer | None = None,
    pre: _Buffer | None = None,
    factor: _Buffer | None = None,
    residual: _Buffer | None = None,
    activation: int,
) -> None: ...
def matmul_bf16(
    *,
    c: _Buffer,
    a: _Buffer,
    b: _Buffer,
    bias: _Buffer | None = None,
    pre: _Buffer | None = None,
    factor: _Buffer | None = None,
    residual: _Buffer | None = None,
    activation: int,
) -> None: ...
def matmul_f16(
    *,
    c: _Buffer,
    a: _Buffer,
    b: _Buffer,
    bias: _Buffer | None = None,
    pre: _Buffer | None = None,
    factor: _Buffer | None = None,
    residual: _Buffer | None = None,
    activation: int,
) -> None: ...
def activation_forward(*, y: _Buffer, x: _Buffer, kind: int) -> None: ...
def activation_backward(*, dx: _Destination = None, dy: _Buffer, x: _Buffer, kind: int) -> None: ...
def gate_forward(*, y: _Buffer, gate: _Buffer, up: _Buffer, kind: int) -> None: ...
def gate_backward(
    *,
    dgate: _Destination = None,
    dup: _Destination = None,
    dy: _Buffer,
    gate: _Buffer,
    up: _Buffer,
    kind: int,
) -> None: ...
def scale(*, y: _Destination = None, x: _Buffer, factor: float) -> None: ...
def columns_take(*, part: _Destination = None, whole: _Buffer, begin: int) -> None: ...
def columns_put(*, whole: _Destination = None, part: _Buffer, begin: int) -> None: ...
def preference_forward(
    *,
    loss: _Buffer,
    losses: _Buffer,
    margins: _Buffer,
    nll: _Buffer,
    reference: _Buffer,
    denominator: _Buffer,
    beta: float,
    kind: int,
) -> None: ...
def preference_backward(
    *,
    dnll: _Destination = None,
    dloss: _Buffer,
    nll: _Buffer,
    reference: _Buffer,
    denominator: _Buffer,
    beta: float,
    kind: int,
) -> None: ...
def softmax_forward(*, y: _Buffer, x: _Buffer) -> None: ...
def softmax_backward(*, dx: _Destination = None, dy: _Buffer, y: _Buffer) -> None: ...
def head_forward(
    *,
    loss: _Buffer,
    losses: _Buffer,
    x: _Buffer,
    w: _Buffer,
    targets: _Buffer,
    denominator: _Buffer | None = None,
    ignore_index: int,
    compute: int,
) -> None: ...
def head_backward(
    *,
    loss: _Buffer,
    losses: _Buffer,
    dx: _Destination = None,
    dw: _Destination = None,
    dloss: _Buffer,
    x: _Buffer,
    w: _Buffer,
    targets: _Buffer,
    denominator: _Buffer | None = None,
    ignore_index: int,
    compute: int,
) -> None: ...
def embedding_forward(
    *,
    y: _Buffer,
    tokens: _Buffer,
    token_table: _Buffer,
    positions: _Buffer | None = None,
    position_table: _Buffer | None = None,
) -> None: ...
def embedding_backward(
    *,
    dtoken_table: _Destination = None,
    dposition_table: _Destination = None,
    dy: _Buffer,
    tokens: _Buffer,
    positions: _Buffer | None = None,
) -> None: ...
def embedding_int8(
    *,
    V: int,
    group: int,
    y: _Buffer,
    tokens: _Buffer,
    token_table: _Buffer,
    positions: _Buffer | None = None,
    position_table: _Buffer | None = None,
) -> None: ...
def embedding_int4(
    *,
    V: int,
    y: _Buffer,
    tokens: _Buffer,
    token_table: _Buffer,
    positions: _Buffer | None = None,
    position_table: _Buffer | None = None,
) -> None: ...
def embedding_int4_min(
    *,
    V: int,
    y: _Buffer,
    tokens: _Buffer,
    token_table: _Buffer,
    positions: _Buffer | None = None,
    position_table: _Buffer | None = None,
) -> None: ...
def embedding_bf16(
    *,
    V: int,
    y: _Buffer,
    tokens: _Buffer,
    token_table: _Buffer,
    positions: _Buffer | None = None,
    position_table: _Buffer | None = None,
) -> None: ...
def embedding_f16(
    *,
    V: int,
    y: _Buffer,
    tokens: _Buffer,
    token_table: _Buffer,
    positions: _Buffer | None = None,
    position_table: _Buffer | None = None,
) -> None: ...
def attention_forward(
    *,
    H: int,
    G: int,
    D: int,
    scale: float,
    window: int,
    y: _Buffer,
    lse: _Buffer | None = None,
    qkv: _Buffer,
    rotations: _Buffer | None = None,
) -> None: ...
def attention_backward(
    *,
    H: int,
    G: int,
    D: int,
    scale: float,
    window: int,
    dqkv: _Destination = None,
    dy: _Buffer,
    qkv: _Buffer,
    y: _Buffer,
    lse: _Buffer,
    rotations: _Buffer | None = None,
) -> None: ...
def kv_cache_write(
    *,
    H: int,
    G: int,
    D: int,
    k_pages: _Buffer,
    v_pages: _Buffer,
    qkv: _Buffer,
    query_offsets: _Buffer,
    lengths: _Buffer,
    page_table: _Buffer,
    rotations: _Buffer | None = None,
) -> None: ...
def kv_cache_write_bf16(
    *,
    H: int,
    G: int,
    D: int,
    k_pages: _Buffer,
    v_pages: _Buffer,
    qkv: _Buffer,
    query_offsets: _Buffer,
    lengths: _Buffer,
    page_table: _Buffer,
    rotations: _Buffer | None = None,
) -> None: ...
def kv_cache_write_f16(
    *,
    H: int,
    G: int,
    D: int,
    k_pages: _Buffer,
    v_pages: _Buffer,
    qkv: _Buffer,
    query_offsets: _Buffer,
    lengths: _Buffer,
    page_table: _Buffer,
    rotations: _Buffer | None = None,
) -> None: ...
def attention_paged(
    *,
    H: int,
    G: int,
    D: int,
    scale: float,
    window: int,
    y: _Buffer,
    qkv: _Buffer,
    k_pages: _Buffer,
    v_pages: _Buffer,
    query_offsets: _Buffer,
    lengths: _Buffer,
    page_table: _Buffer,
    rotations: _Buffer | None = None,
) -> None: ...
def attention_paged_bf16(
    *,
    H: int,
    G: int,
    D: int,
    scale: float,
    window: int,
    y: _Buffer,
    qkv: _Buffer,
    k_pages: _Buffer,
    v_pages: _Buffer,
    query_offsets: _Buffer,
    lengths: _Buffer,
    page_table: _Buffer,
    rotations: _Buffer | None = None,
) -> None: ...
def attention_paged_f16(
    *,
    H: int,
    G: int,
    D: int,
    scale: float,
    window: int,
    y: _Buffer,
    qkv: _Buffer,
    k_pages: _Buffer,
    v_pages: _Buffer,
    query_offsets: _Buffer,
    lengths: _Buffer,
    page_table: _Buffer,
    rotations: _Buffer | None = None,
) -> None: ...
def sample(
    *,
    tokens: _Buffer,
    logits: _Buffer,
    temperature: _Buffer,
    top_k: _Buffer,
    top_p: _Buffer,
    min_p: _Buffer,
    seed: _Buffer,
    choice: _Buffer,
    position: _Buffer,
    vocab_size: int,
) -> None: ...
def log_sum_exp(*, lse: _Buffer, logits: _Buffer) -> None: ...
def add(*, c: _Buffer, a: _Buffer, b: _Buffer) -> None: ...
def advance(*, positions: _Buffer, lengths: _Buffer, drawn_at: _Buffer, text: _Buffer, tokens: _Buffer) -> None: ...
def fill(*, y: _Buffer, value: float) -> None: ...
def copy(*, y: _Buffer, x: _Buffer) -> None: ...
def to_bf16(*, y: _Buffer, x: _Buffer) -> None: ...
def from_bf16(*, y: _Buffer, x: _Buffer) -> None: ...
def dropout_forward(
    *,
    y: _Buffer,
    x: _Buffer,
    residual: _Buffer | None = None,
    counter: _Buffer,
    p: float,
    seed: int,
    stream: int,
) -> None: ...
def dropout_backward(
    *,
    dx: _Destination = None,
    dy: _Buffer,
    counter: _Buffer,
    p: float,
    seed: int,
    stream: int,
) -> None: ...
def gradient_norm(*, norm: _Buffer, scale: _Buffer, g: _Buffer, max_norm: float) -> None: ...
def adamw(
    *,
    w: _Buffer,
    m: _Buffer,
    v: _Buffer,
    g: _Buffer,
    lr: _Buffer,
    step: _Buffer,
    grad_scale: _Buffer,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    n_decay: int,
) -> None: ...
def adamw_bf16(
    *,
    w: _Buffer,
    m: _Buffer,
    v: _Buffer,
    g: _Buffer,
    lr: _Buffer,
    step: _Buffer,
    grad_scale: _Buffer,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    n_decay: int,
    seed: int,
) -> None: ...
def sgd(
    *,
    w: _Buffer,
    m: _Buffer,
    g: _Buffer,
    lr: _Buffer,
    grad_scale: _Buffer,
    momentum: float,
    weight_decay: float,
    n_decay: int,
) -> None: ...
def measure_fma(*, flops: _Buffer, result: _Buffer, iterations: int) -> None: ...
def measure_read(*, sums: _Buffer, x: _Buffer) -> None: ...
def measure_stream(*, x: _Buffer, reads: int, writes: int) -> None: ...
def plan_in_use() -> bool: ...
def plan_is_recording() -> bool: ...
def empty(shape: tuple[typing.Any, ...], dtype: numpy.dtype[typing.Any]) -> _Array: ...
def pool_statistics() -> dict[str, typing.Any]: ...
def release_pool() -> None: ...
def cpu_backend() -> object: ...
def bind(backend: object) -> types.ModuleType: ...
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
    def run(self, times: int = 1) -> None: ...
    def spans(self) -> list[list[str]]: ...

class Measure:
    def __init__(self) -> None: ...
    def begin(self) -> None: ...
    def end(self) -> None: ...
    @property
    def bytes_held(self) -> int: ...
    @property
    def workspace_bytes(self) -> int: ...

class DeviceArray:
    @property
    def shape(self) -> tuple[typing.Any, ...]: ...
    @property
    def dtype(self) -> numpy.dtype[typing.Any]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def __cuda_array_interface__(self) -> dict[str, typing.Any]: ...
    def reshape(self, shape: object) -> DeviceArray: ...
    def __getitem__(self, index: object) -> DeviceArray: ...
    def __array__(self, *args: typing.Any, **kwargs: typing.Any) -> object: ...
    def __repr__(self) -> str: ...

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
