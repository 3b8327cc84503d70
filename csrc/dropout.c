/* Dropout (Srivastava et al. 2014):  y = x * mask / (1 - p) + residual,  mask 0 with probability p, else 1
 *
 *   forward    x (N), residual (N) or NULL  ->  y (N)       y may be x or residual
 *   backward   dy (N)                       ->  dx (N)      dx may be dy         dx = dy * mask / (1 - p)
 *
 * Nothing is kept for backward: the mask is a function of seed, stream (which dropout of the model), counter (which step)
 * and the element's position, so it does not depend on threads either. With p = 1 every element is dropped.
 *
 * The generator is Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011): ten rounds of two products of 32 by 32 bits turn four
 * words of a counter and two of a key into four random words. It takes sixteen counters at a time: word w of counter b
 * decides over element 16 w + b of the 64, so a word's lanes lie side by side, as in registers. About 2 cycles an element
 * with AVX2; memory allows about as much.
 */
#include "summation_order.h" /* LANES */
#include "vec.h"

enum {
    GROUP = 4 * LANES, /* elements that LANES counters decide over: the same in all variants */
    ROUNDS = 10
};

struct generator {
    uint32_t key[2];   // seed
    uint32_t fixed[3]; // stream, counter low, counter high
    uint32_t limit;    // an element is kept when its random word is not below 2^32 p
    real scale;        // of the elements kept
};

static struct generator make_generator(int64_t counter, double p, int64_t seed, int64_t stream) {
    const double limit = p * 4294967296.0 + 0.5;
    return (struct generator){
        .key = {(uint32_t)seed, (uint32_t)((uint64_t)seed >> 32)},
        .fixed = {(uint32_t)stream, (uint32_t)counter, (uint32_t)((uint64_t)counter >> 32)},
        .limit = limit < 4294967295.0 ? (uint32_t)limit : UINT32_MAX,
        .scale = p < 1 ? (real)(1 / (1 - p)) : 0,
    };
}

static int check(int64_t N, double p, int64_t stream) {
    if (!(p >= 0 && p <= 1) || stream < 0 || stream > UINT32_MAX) return GOLLM_BAD_VALUE;
    return N / GROUP * LANES > UINT32_MAX ? GOLLM_BAD_SHAPE : GOLLM_OK; // a counter's number is one word
}

/* The words of counters first ... first + 15: out[w * LANES + b] is word w of counter first + b.
 * Each counter lies in a 64-bit lane, for products of that width: those with even numbers in one vector, odd ones in
 * another. What the upper halves hold does not matter, products take the lower ones. Per round and vector 2
 * multiplications, 2 shifts, 4 xors. */
static void philox(const struct generator *g, uint32_t first, uint32_t *restrict out) {
    enum { PER_PAIR = VEC_BYTES / sizeof(uint32_t) };
    static const uint64_t even[] = {0, 2, 4, 6, 8, 10, 12, 14};
    uvec64 numbers; // of a pair's even counters
    memcpy(&numbers, even, sizeof numbers);
    const uvec64 m0 = vec_set_u64(0xD2511F53u), m1 = vec_set_u64(0xCD9E8D57u), lower = vec_set_u64(UINT32_MAX);
    for (uint32_t base = 0; base < LANES; base += PER_PAIR) {
        uvec64 c0[2], c1[2], c2[2], c3[2]; // even, odd
        for (int odd = 0; odd < 2; odd++) {
            c0[odd] = numbers + vec_set_u64(first + base + (uint32_t)odd);
            c1[odd] = vec_set_u64(g->fixed[0]);
            c2[odd] = vec_set_u64(g->fixed[1]);
            c3[odd] = vec_set_u64(g->fixed[2]);
        }
        uint32_t k0 = g->key[0], k1 = g->key[1];
        for (int round = 0; round < ROUNDS; round++) {
            const uvec64 key0 = vec_set_u64(k0), key1 = vec_set_u64(k1);
            for (int odd = 0; odd < 2; odd++) {
                uvec64 product0 = vec_multiply_u32(c0[odd], m0), product1 = vec_multiply_u32(c2[odd], m1);
                c0[odd] = product1 >> 32 ^ c1[odd] ^ key0;
                c2[odd] = product0 >> 32 ^ c3[odd] ^ key1;
                c1[odd] = product1;
                c3[odd] = product0;
            }
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        const uvec64 words[4] = {(c0[0] & lower) | c0[1] << 32, (c1[0] & lower) | c1[1] << 32,
                                 (c2[0] & lower) | c2[1] << 32, (c3[0] & lower) | c3[1] << 32};
        for (int w = 0; w < 4; w++) memcpy(out + w * LANES + base, &words[w], sizeof words[w]);
    }
}

/* factors[i] = mask / (1 - p) of element first + i, for a group that begins at `first`. */
static void draw(const struct generator *g, int64_t first, real *restrict factors) {
    uint32_t words[GROUP];
    philox(g, (uint32_t)(first / GROUP * LANES), words);
    for (int i = 0; i < GROUP; i++) factors[i] = words[i] >= g->limit ? g->scale : 0;
}

int KERNEL_FN(dropout_forward_check)(const struct dropout_forward_args *args) {
    return check(args->N, args->p, args->stream);
}

int KERNEL_FN(dropout_forward)(const struct dropout_forward_args *args, const struct gollm_team *team) {
    const struct generator g = make_generator(args->counter[0], args->p, args->seed, args->stream);
    struct range mine = thread_range(args->N, GROUP, team);
    for (int64_t first = mine.begin; first < mine.end; first += GROUP) {
        real factors[GROUP];
        draw(&g, first, factors);
        int64_t end = min_i64(GROUP, mine.end - first);
        for (int64_t i = 0; i < end; i += VL) {
            vec y = vec_load_n(args->x + first + i, end - i) * vec_load(factors + i);
            if (args->residual) y += vec_load_n(args->residual + first + i, end - i);
            vec_store_n(args->y + first + i, y, end - i);
        }
    }
    return GOLLM_OK;
}

int KERNEL_FN(dropout_backward_check)(const struct dropout_backward_args *args) {
    return check(args->N, args->p, args->stream);
}

int KERNEL_FN(dropout_backward)(const struct dropout_backward_args *args, const struct gollm_team *team) {
    if (!args->dx) return GOLLM_OK;
    const struct generator g = make_generator(args->counter[0], args->p, args->seed, args->stream);
    struct range mine = thread_range(args->N, GROUP, team);
    for (int64_t first = mine.begin; first < mine.end; first += GROUP) {
        real factors[GROUP];
        draw(&g, first, factors);
        int64_t end = min_i64(GROUP, mine.end - first);
        for (int64_t i = 0; i < end; i += VL) {
            vec dx = vec_load_n(args->dy + first + i, end - i) * vec_load(factors + i);
            if (args->dx_accumulate) dx += vec_load_n(args->dx + first + i, end - i);
            vec_store_n(args->dx + first + i, dx, end - i);
        }
    }
    return GOLLM_OK;
}
