from typing import TypedDict

class BuildInfo(TypedDict):
    version: str
    cuda: str
    architecture: str

class Kernel(TypedDict):
    name: str
    op: str
    tile: str
    threads: int
    shared_memory_bytes: int
    max_registers: int

class IndexerLogitsPlan(TypedDict):
    grid: int
    row_tiles: int
    key_tiles: int
    pieces: int

class PagedIndexerLogitsPlan(TypedDict):
    grid: int
    tile_rows: int
    tiles_per_request: int
    row_tiles: int

class TopkPlan(TypedDict):
    selector: str
    cluster_size: int
    block_threads: int
    thread_keys: int
    capacity: int
    shared_bytes: int
    num_blocks: int

class IndexerTopkPlan(TypedDict):
    group_rows: int
    scan_rows: int
    num_scans: int
    list_capacity: int
    rescore_clusters: int
    workspace_bytes: int

class SparseMlaDecodePlan(TypedDict):
    tile_heads: int
    head_tiles: int
    num_splits: int
    blocks_per_split: int
    through_scratch: bool

def build_info() -> BuildInfo: ...
def kernel_table() -> list[Kernel]: ...
def preload() -> None: ...
def plan_indexer_logits(
    num_rows: int, num_keys: int, num_heads: int, num_sms: int
) -> IndexerLogitsPlan: ...
def plan_paged_indexer_logits(
    batch: int, next_n: int, num_heads: int, max_context_len: int, num_sms: int
) -> PagedIndexerLogitsPlan: ...
def plan_topk(
    num_rows: int,
    num_columns: int,
    top_k: int,
    num_sms: int,
    aligned_rows: bool = True,
    from_zero: bool = True,
) -> TopkPlan: ...
def plan_indexer_topk(
    num_rows: int, num_keys: int, num_heads: int, top_k: int, num_sms: int
) -> IndexerTopkPlan: ...
def plan_sparse_mla_decode(
    num_rows: int, num_heads: int, top_k: int, num_sms: int
) -> SparseMlaDecodePlan: ...
def indexer_topk_workspace_bytes(num_rows: int, num_keys: int) -> int: ...
def paged_indexer_topk_workspace_bytes(num_rows: int, max_context_len: int) -> int: ...
def sparse_mla_prefill_workspace_bytes(
    num_rows: int, num_heads: int, top_k: int, num_sms: int
) -> int: ...
def sparse_mla_decode_workspace_bytes(
    num_rows: int, num_heads: int, top_k: int, num_sms: int
) -> int: ...
