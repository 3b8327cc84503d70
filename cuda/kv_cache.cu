/* Writing keys and values into the pages of a cache (csrc/kv_cache.c has the layout and what is refused):
 *
 *   kv_cache_write    qkv (N, (H + 2G) D)     ->  the rows' keys and values, in k_pages (R, G, D, Z) and v_pages (R, G, Z, D)
 *
 * A block takes the keys and values of a head in WRITE_ROWS rows. Both are read along D; values are written along D, too, and
 * keys, which pass through shared memory, along the slots of a page. Bound by memory: N G D values each are read and written.
 */
#include "pages.h"

namespace GOLLM_VARIANT {

constexpr int WRITE_ROWS = 32, WRITE_THREADS = 256, WRITE_WARPS = WRITE_THREADS / 32;

struct KVCacheMemory {
    float k[WRITE_ROWS][MAX_HEAD_DIM + 1];
    int64_t position[WRITE_ROWS];
    Slot slot[WRITE_ROWS];
};

template <class Page>
__global__ void __launch_bounds__(WRITE_THREADS) kv_cache_write_kernel(Pages p, Page *k_pages, Page *v_pages) {
    KVCacheMemory &memory = shared_memory<KVCacheMemory>();
    const int t = threadIdx.x, lane = t % 32, warp = t / 32;
    const int64_t first = (int64_t)blockIdx.x * WRITE_ROWS, g = blockIdx.y;
    const int D = (int)p.D;
    const int rows = (int)(p.N - first < WRITE_ROWS ? p.N - first : WRITE_ROWS);
    if (blockIdx.x == 0 && g == 0) check_sequences(p);
    if (t < WRITE_ROWS) {
        Slot slot = {-1, 0};
        Sequence s;
        if (t < rows && p.S > 0 && find_sequence(p, sequence_of_row(p, first + t), &s) &&
            first + t < s.first_row + s.queries) {
            memory.position[t] = s.past + first + t - s.first_row;
            slot = slot_of(p, s.index, g, memory.position[t]);
        }
        if (t < rows && slot.page < 0) *p.error = GOLLM_BAD_INDEX;
        memory.slot[t] = slot;
    }
    __syncthreads();
    for (int r = warp; r < rows; r += WRITE_WARPS) {
        const Slot to = memory.slot[r];
        if (to.page < 0) continue;
        const real *k = p.row(first + r) + (p.H + g) * D, *v = k + p.G * D; // (D) each
        for (int d = lane; d < D; d += 32) {
            memory.k[r][d] = rotated(k, p.rotation(memory.position[r]), d);
            put(v_pages + to.page + to.slot * D + d, to_float(v[d]));
        }
    }
    __syncthreads();
    const Slot to = memory.slot[lane]; // a row's
    if (to.page < 0) return;
    for (int d = warp; d < D; d += WRITE_WARPS) put(k_pages + to.page + d * p.Z + to.slot, memory.k[lane][d]);
}

template <class Args, class Page>
static int write_pages(const Args *args, Page *k_pages, Page *v_pages, const gollm_team *team) {
    const dim3 blocks((unsigned)ceil_div(args->N, WRITE_ROWS), (unsigned)args->G);
    return launch(kv_cache_write_kernel<Page>, blocks, WRITE_THREADS, sizeof(KVCacheMemory), team, pages_of(args, team),
                  k_pages, v_pages);
}

int kv_cache_write(const kv_cache_write_args *args, const gollm_team *team) {
    return write_pages(args, args->k_pages, args->v_pages, team);
}
int kv_cache_write_bf16(const kv_cache_write_bf16_args *args, const gollm_team *team) {
    return write_pages(args, args->k_pages, args->v_pages, team);
}
int kv_cache_write_f16(const kv_cache_write_f16_args *args, const gollm_team *team) {
    return write_pages(args, args->k_pages, args->v_pages, team);
}

} // namespace GOLLM_VARIANT
