/* Drawing a token from logits, for S rows at once, each with its own options.
 *
 *   sample         logits (S, V), options (S) each  ->  tokens (S)
 *   log_sum_exp    logits (S, V)                    ->  lse (S) = log(sum over v of e^logits[v])
 *
 * Token v of the first `vocab_size` has the weight  w[v] = e^((logits[v] - max) / temperature). Then, in this order,
 *
 *   top_k   keeps the k largest logits (0: all)
 *   top_p   keeps the fewest of these, the largest first, whose weights sum to at least p of theirs (1: all)
 *   min_p   keeps weights of at least m, which is m times the largest weight (0: all)
 *
 * and the drawn token is the first, by id, at which the sum of the weights that are kept exceeds u times all of them, with
 * u from [0, 1). Of equal logits the smaller ids are kept. Temperature 0 gives the first of the largest logits. The token is
 * -1 where the largest logit is not a finite number, or any is NaN; one of -inf is never drawn.
 *
 * u is a function of seed, choice and position: two words of Philox4x32-10 (dropout.c), whose key is the seed and whose
 * counter is (position low, position high, choice, 0). There is no state.
 *
 * Nothing sorts the vocabulary. A truncation finds its cut, a logit, by bins: the tokens' logits are spread over BINS bins,
 * the bins are added up until the bound is reached, and the one where it is reached is spread again. A floor, below which
 * the cut cannot lie, leaves out all blocks of tokens whose largest logit is below it.
 *
 * The same draw in every variant: this file is compiled without contraction, so that a weight is the same number with and
 * without FMA, and sums of weights are double precision in LANES partial sums. Rows are split among threads. Bound by the
 * exponentials: V of them, four passes over V reals in the caches, and with a truncation one or two passes of scattered
 * additions over the blocks above the floor.
 */
#include "summation_order.h" /* LANES */
#include "softmax.h"         /* row_max, vec_exp */
#include "workspace.h"

enum {
    BLOCK = 64, /* tokens: a multiple of LANES and VL */
    BINS = 2048,
    FEW = 32 /* tokens that insertion sort orders */
};
_Static_assert(BLOCK % LANES == 0 && BLOCK % VL == 0, "blocks are whole vectors");

struct row {
    const real *z; // (V) logits
    int64_t V;     // of the vocabulary
    real max;      // of the logits
    real *largest; // (blocks) logit of each block
    real *w;       // (V) weights; 0 for tokens that are not kept
    double *sums;  // (blocks) of weights
    int32_t *ids;  // (V) candidates of a cut, in ascending order
    uint16_t *bin; // (V) of each candidate
    double *bins;  // (BINS)
};

static int64_t blocks_of(int64_t V) { return (V + BLOCK - 1) / BLOCK; }

static void carve_row(struct row *row, int64_t V, struct carve *at) {
    row->largest = carve(at, blocks_of(V), sizeof(real));
    row->w = carve(at, V, sizeof(real));
    row->sums = carve(at, blocks_of(V), sizeof(double));
    row->ids = carve(at, V, sizeof(int32_t));
    row->bin = carve(at, V, sizeof(uint16_t));
    row->bins = carve(at, BINS, sizeof(double));
}

/* The largest logit of each block, into row->max the largest of all. Returns whether that is finite and no logit is NaN. */
static int find_largest(struct row *row) {
    const int64_t V = row->V;
    const real lowest = -(real)INFINITY;
    vec odd = vec_set(0);
    row->max = lowest;
    for (int64_t first = 0; first < V; first += BLOCK) {
        const int64_t end = min_i64(V, first + BLOCK);
        vec largest = vec_set(lowest);
        for (int64_t i = first; i < end; i += VL) {
            const vec z = vec_load_n_or(row->z + i, end - i, lowest);
            largest = vec_max(z, largest);
            odd = vec_max(odd, vec_select(z == z, vec_set(0), vec_set(1)));
        }
        const real x = vec_largest(largest);
        row->largest[first / BLOCK] = x;
        if (x > row->max) row->max = x;
    }
    return vec_largest(odd) == 0 && isfinite(row->max);
}

/* w = e^((z - max) / T) of at most BLOCK tokens. The exponent is computed in double, so that no difference is lost or
 * overflows; the factor is 1 / T, or the largest number, which gives 0 its weight 1, too. */
static void weights(real *w, const real *z, int64_t n, double max, double factor) {
    real x[BLOCK];
    for (int64_t i = 0; i < n; i++) x[i] = (real)(((double)z[i] - max) * factor);
    for (int64_t i = 0; i < n; i += VL) vec_store_n(w + i, vec_exp(vec_load_n(x + i, n - i)), n - i);
}

static void find_weights(const struct row *row, double temperature) {
    const double factor = fmin(1 / temperature, DBL_MAX);
    for (int64_t first = 0; first < row->V; first += BLOCK)
        weights(row->w + first, row->z + first, min_i64(BLOCK, row->V - first), (double)row->max, factor);
}

static double sum_of(const real *w, int64_t n) {
    double sums[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) sums[j] += (double)w[i + j];
    for (; i < n; i++) sums[i % LANES] += (double)w[i];
    for (int j = 0; j < LANES; j++) sum += sums[j];
    return sum;
}

/* The sum of all weights, by way of row->sums. */
static double sum_of_blocks(const struct row *row) {
    double sum = 0;
    for (int64_t first = 0; first < row->V; first += BLOCK)
        sum += row->sums[first / BLOCK] = sum_of(row->w + first, min_i64(BLOCK, row->V - first));
    return sum;
}

/* The tokens up to a cut: those of larger logits, and of equal logits those up to `id`. */
struct cut {
    real logit;
    int64_t id;
};

/* Leaves out ids whose logit is -inf; returns how many remain, and the bounds of their logits. */
static int64_t finite_ids(const real *z, int32_t *ids, int64_t n, double *low, double *high) {
    int64_t kept = 0;
    real smallest = (real)INFINITY, largest = -(real)INFINITY;
    for (int64_t i = 0; i < n; i++) {
        const real x = z[ids[i]];
        ids[kept] = ids[i];
        kept += x > -(real)INFINITY;
        if (x > largest) largest = x;
        if (x > -(real)INFINITY && x < smallest) smallest = x;
    }
    *low = (double)smallest, *high = (double)largest;
    return kept;
}

/* Those of the ids whose bin is b, in their order; returns how many. Most groups of 32 have none. */
static int64_t ids_in_bin(const uint16_t *bin, int b, int32_t *ids, int64_t n) {
    enum { GROUP = 32 };
    int64_t kept = 0;
    for (int64_t first = 0; first < n; first += GROUP) {
        const int64_t end = min_i64(n, first + GROUP);
        int any = 0;
        if (end - first == GROUP)
            for (int i = 0; i < GROUP; i++) any |= bin[first + i] == b;
        else
            any = 1;
        for (int64_t i = first; any && i < end; i++) {
            ids[kept] = ids[i];
            kept += bin[i] == b;
        }
    }
    return kept;
}

/* By falling logits, equal ones in their order. */
static void sort_few(const real *z, int32_t *ids, int64_t n) {
    for (int64_t i = 1; i < n; i++) {
        const int32_t id = ids[i];
        int64_t at = i;
        for (; at > 0 && z[ids[at - 1]] < z[id]; at--) ids[at] = ids[at - 1];
        ids[at] = id;
    }
}

/* The cut where the tokens' measures, added from the largest logit downwards, reach `target`; the measure of a token is its
 * weight, or 1 where `measure` is NULL. The n candidates, row->ids, are all tokens of logits from `low` to `high`, and may be
 * others below; low is -inf where it is not known. */
static struct cut find_cut(const struct row *row, const real *z, const real *measure, double target, double low,
                           double high, int64_t n) {
    int32_t *ids = row->ids;
    double *bins = row->bins, above = 0; // the sum over larger logits than the candidates'
    if (!(low > -INFINITY)) n = finite_ids(z, ids, n, &low, &high);
    while (n > FEW) {
        const double scale = fmin((BINS - 1) / (high / 2 - low / 2), DBL_MAX);
        for (int64_t i = 0; i < n; i++) {
            const double x = (high / 2 - (double)z[ids[i]] / 2) * scale;
            row->bin[i] = (uint16_t)(x < BINS - 1 ? x : BINS - 1);
        }
        memset(bins, 0, BINS * sizeof *bins);
        if (measure)
            for (int64_t i = 0; i < n; i++) bins[row->bin[i]] += (double)measure[ids[i]];
        else
            for (int64_t i = 0; i < n; i++) bins[row->bin[i]] += 1;
        int b = 0, last = BINS - 1;
        while (last > 0 && bins[last] == 0) last--;
        while (b < last && above + bins[b] < target) above += bins[b++];
        const int64_t before = n;
        n = finite_ids(z, ids, ids_in_bin(row->bin, b, ids, n), &low, &high);
        if (low == high || n == before) break; // equal logits, or double precision does not tell them apart
    }
    if (n <= FEW) sort_few(z, ids, n);
    int64_t i = 0;
    for (; i < n - 1; i++) {
        above += measure ? (double)measure[ids[i]] : 1;
        if (above >= target) break;
    }
    return (struct cut){z[ids[i]], ids[i]};
}

/* row->ids: all tokens of the blocks whose largest logit is at least `low`; returns how many. */
static int64_t candidates(const struct row *row, double low) {
    int64_t n = 0;
    for (int64_t first = 0; first < row->V; first += BLOCK) {
        if ((double)row->largest[first / BLOCK] < low) continue;
        const int64_t end = min_i64(row->V, first + BLOCK);
        for (int64_t i = first; i < end; i++) row->ids[n++] = (int32_t)i;
    }
    return n;
}

/* The weights of all tokens beyond the cut become 0. */
static void drop_beyond(const struct row *row, struct cut cut) {
    real *w = row->w;
    for (int64_t i = 0; i <= cut.id; i++) w[i] = row->z[i] >= cut.logit ? w[i] : 0;
    for (int64_t i = cut.id + 1; i < row->V; i++) w[i] = row->z[i] > cut.logit ? w[i] : 0;
}

static void keep_top_k(const struct row *row, int64_t k) {
    const int64_t blocks = blocks_of(row->V);
    double low = -INFINITY;
    if (k < blocks) { // of the k blocks with the largest maxima each has a token at least as large as the k-th maximum
        for (int64_t i = 0; i < blocks; i++) row->ids[i] = (int32_t)i;
        low = (double)find_cut(row, row->largest, NULL, (double)k, -INFINITY, 0, blocks).logit;
    }
    drop_beyond(row, find_cut(row, row->z, NULL, (double)k, low, (double)row->max, candidates(row, low)));
}

/* Tokens of less than (1 - p) / 2V of all weights have less than 1 - p of them together, so the cut is above. */
static void keep_top_p(const struct row *row, double p, double temperature) {
    const double total = sum_of_blocks(row);
    const double low = (double)row->max + temperature * log((1 - p) / 2 * total / (double)row->V);
    drop_beyond(row, find_cut(row, row->z, row->w, p * total, low, (double)row->max, candidates(row, low)));
}

static void keep_min_p(const struct row *row, double m) {
    for (int64_t i = 0; i < row->V; i++) row->w[i] = (double)row->w[i] >= m ? row->w[i] : 0;
}

/* u from [0, 1), of 53 bits. */
static double uniform(int64_t seed, int64_t choice, int64_t position) {
    uint32_t c[4] = {(uint32_t)position, (uint32_t)((uint64_t)position >> 32), (uint32_t)choice, 0};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)((uint64_t)seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)c[0] * 0xD2511F53u, p1 = (uint64_t)c[2] * 0xCD9E8D57u;
        c[0] = (uint32_t)(p1 >> 32) ^ c[1] ^ k0;
        c[2] = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
        c[1] = (uint32_t)p1, c[3] = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (double)(((uint64_t)c[0] << 32 | c[1]) >> 11) * 0x1p-53;
}

/* The first token at which the sum of the weights exceeds u times their sum. */
static int32_t draw(const struct row *row, double u) {
    const double bound = u * sum_of_blocks(row);
    double sum = 0;
    int64_t block = 0;
    while (block < blocks_of(row->V) && sum + row->sums[block] <= bound) sum += row->sums[block++];
    const int64_t end = min_i64(row->V, (block + 1) * BLOCK);
    for (int64_t i = block * BLOCK; i < end; i++)
        if ((sum += (double)row->w[i]) > bound) return (int32_t)i;
    int64_t i = end - 1; // rounding: it is the last that can be drawn
    while (row->w[i] == 0) i--;
    return (int32_t)i;
}

static int32_t first_of_largest(const struct row *row) {
    int64_t i = 0;
    while (row->largest[i / BLOCK] != row->max) i += BLOCK;
    while (row->z[i] != row->max) i++;
    return (int32_t)i;
}

static int32_t sample_row(struct row *row, const struct sample_args *args, int64_t s) {
    const double temperature = args->temperature[s];
    if (!find_largest(row)) return -1;
    if (temperature == 0) return first_of_largest(row);
    find_weights(row, temperature);
    if (args->top_k[s] > 0 && args->top_k[s] < row->V) keep_top_k(row, args->top_k[s]);
    if (args->top_p[s] < 1) keep_top_p(row, args->top_p[s], temperature);
    if (args->min_p[s] > 0) keep_min_p(row, args->min_p[s]);
    return draw(row, uniform(args->seed[s], args->choice[s], args->position[s]));
}

static int options_are_valid(const struct sample_args *args, int64_t s) {
    const double t = args->temperature[s], p = args->top_p[s], m = args->min_p[s];
    return t >= 0 && t < INFINITY && args->top_k[s] >= 0 && p > 0 && p <= 1 && m >= 0 && m <= 1 &&
           args->choice[s] >= 0 && args->choice[s] <= UINT32_MAX && args->position[s] >= 0;
}

static int check(int64_t V, int64_t vocab_size) {
    if (V > INT32_MAX) return GOLLM_BAD_SHAPE;
    return vocab_size >= 1 && vocab_size <= V ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int KERNEL_FN(sample_check)(const struct sample_args *args) { return check(args->V, args->vocab_size); }

int64_t KERNEL_FN(sample_workspace)(const struct sample_args *args, int n_threads) {
    struct carve at = {NULL, 0};
    struct row row;
    carve_row(&row, args->V, &at);
    return times_i64(at.used, n_threads);
}

int KERNEL_FN(sample)(const struct sample_args *args, const struct gollm_team *team) {
    for (int64_t s = 0; s < args->S; s++)
        if (!options_are_valid(args, s)) return GOLLM_BAD_VALUE;
    struct carve size = {NULL, 0};
    struct row row;
    carve_row(&row, args->V, &size);
    struct carve at = {(char *)team->workspace + size.used * team->thread, 0};
    carve_row(&row, args->V, &at);
    row.V = args->vocab_size;
    const struct range rows = thread_range(args->S, 1, team);
    for (int64_t s = rows.begin; s < rows.end; s++) {
        row.z = args->logits + s * args->V;
        args->tokens[s] = sample_row(&row, args, s);
    }
    return GOLLM_OK;
}

int KERNEL_FN(log_sum_exp_check)(const struct log_sum_exp_args *args) {
    return args->V > 0 ? GOLLM_OK : GOLLM_BAD_SHAPE;
}

int KERNEL_FN(log_sum_exp)(const struct log_sum_exp_args *args, const struct gollm_team *team) {
    const struct range rows = thread_range(args->S, 1, team);
    for (int64_t s = rows.begin; s < rows.end; s++) {
        const real *z = args->logits + s * args->V; // (V)
        const real max = row_max(z, args->V);
        double sum = 0;
        for (int64_t first = 0; first < args->V; first += BLOCK) {
            const int64_t n = min_i64(BLOCK, args->V - first);
            real w[BLOCK];
            weights(w, z + first, n, (double)max, 1);
            sum += sum_of(w, n);
        }
        args->lse[s] = (double)max + log(sum);
    }
    return GOLLM_OK;
}
