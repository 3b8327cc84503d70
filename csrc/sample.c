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
 * The same draw in every variant, and on a GPU: this file is compiled without contraction, so that a weight is the same number
 * with and without FMA, and sums of weights are double precision in LANES partial sums, block after block. Rows are split among threads. After a
 * cut only the live blocks, which have tokens that can be drawn, are looked at. Bound by the exponentials of these, and with
 * top_p by one scattered addition for each token of the blocks above the floor.
 */
#include "summation_order.h" /* LANES */
#include "softmax.h"         /* row_max, vec_exp */
#include "workspace.h"

enum {
    BLOCK = 64, /* tokens: a multiple of LANES and VL */
    GROUP = 16, /* tokens that are looked at together */
    BINS = 2048,
    HALVINGS = 6, /* of the range of a cut by weight, before tokens become candidates: 16 nats to a quarter */
    FEW = 32      /* tokens that insertion sort orders */
};
#define SURPLUS 1e-12 /* far above what rounding adds to sums of weights, far below a weight that matters */
_Static_assert(BLOCK % LANES == 0 && BLOCK % VL == 0, "blocks are whole vectors");

struct row {
    const real *z; // (V) logits
    int64_t V;     // of the vocabulary
    real max;      // of the logits
    real *largest; // (blocks) logit of each block
    int32_t *live; // (n_live) the blocks that have tokens to draw, in ascending order
    int64_t n_live;
    real *w;      // (V) weights; 0 for tokens that are not kept, undefined outside of the live blocks
    double *sums; // (blocks) of their weights
    /* The candidates of a cut: at most V */
    real *logit, *weight;
    int32_t *id;   // in ascending order
    uint16_t *bin; // of its logit
    double *bins;  // (BINS) what the candidates of each bin add up to
};

static const real REAL_MAX = sizeof(real) == 4 ? (real)FLT_MAX : (real)DBL_MAX;

static int64_t blocks_of(int64_t V) { return (V + BLOCK - 1) / BLOCK; }

static void carve_row(struct row *row, int64_t V, struct carve *at) {
    row->largest = carve(at, blocks_of(V), sizeof(real));
    row->live = carve(at, blocks_of(V), sizeof(int32_t));
    row->sums = carve(at, blocks_of(V), sizeof(double));
    row->w = carve(at, V, sizeof(real));
    row->logit = carve(at, V, sizeof(real));
    row->weight = carve(at, V, sizeof(real));
    row->id = carve(at, V, sizeof(int32_t));
    row->bin = carve(at, V, sizeof(uint16_t));
    row->bins = carve(at, BINS, sizeof(double));
}

/* The tokens of a block: its first, and how many. */
static int64_t first_of(int64_t block) { return block * BLOCK; }
static int64_t size_of(const struct row *row, int64_t block) { return min_i64(BLOCK, row->V - first_of(block)); }

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

/* sums[i % LANES] += w[i] */
static void add_lanes(double sums[LANES], const real *w, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) sums[j] += (double)w[i + j];
    for (; i < n; i++) sums[i % LANES] += (double)w[i];
}

static double sum_of_lanes(double sums[LANES]) {
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int j = 0; j < half; j++) sums[j] += sums[j + half];
    return sums[0];
}

static double sum_of(const real *w, int64_t n) {
    double sums[LANES] = {0};
    add_lanes(sums, w, n);
    return sum_of_lanes(sums);
}

static void find_weights(const struct row *row, double temperature) {
    const double factor = fmin(1 / temperature, DBL_MAX);
    for (int64_t i = 0; i < row->n_live; i++) {
        const int64_t block = row->live[i], first = first_of(block), n = size_of(row, block);
        weights(row->w + first, row->z + first, n, (double)row->max, factor);
        row->sums[block] = sum_of(row->w + first, n);
    }
}

static double sum_of_all(const struct row *row) {
    double sum = 0;
    for (int64_t i = 0; i < row->n_live; i++) sum += row->sums[row->live[i]];
    return sum;
}

/* Leaves blocks without a logit of at least `low` out of the live ones. */
static void drop_blocks(struct row *row, double low) {
    int64_t n = 0;
    for (int64_t i = 0; i < row->n_live; i++) {
        row->live[n] = row->live[i];
        n += (double)row->largest[row->live[i]] >= low;
    }
    row->n_live = n;
}

/* The tokens up to a cut: those of larger logits, and of equal logits those up to `id`. */
struct cut {
    real logit;
    int32_t id;
};

/* The weights of tokens beyond the cut become 0. */
static void drop_beyond(const struct row *row, struct cut cut) {
    for (int64_t k = 0; k < row->n_live; k++) {
        const int64_t block = row->live[k], first = first_of(block), n = size_of(row, block);
        const real *z = row->z + first;
        real *w = row->w + first;
        const int32_t equal = cut.id - (int32_t)first; // the last one of the block that is kept of equal logits
        for (int32_t i = 0; i < (int32_t)n; i++)
            w[i] = (z[i] > cut.logit) | ((z[i] == cut.logit) & (i <= equal)) ? w[i] : 0;
        row->sums[block] = sum_of(w, n);
    }
}

/* Whether any of a group's logits is in [low, limit). */
static int group_has(const real *z, int64_t n, real low, real limit) {
    ivec found = (ivec)vec_set(0);
    for (int64_t i = 0; i < n; i += VL) {
        const vec x = vec_load_n_or(z + i, n - i, limit);
        found |= (x >= vec_set(low)) & (x < vec_set(limit));
    }
    uint64_t words[sizeof found / 8], any = 0;
    memcpy(words, &found, sizeof found);
    for (size_t i = 0; i < sizeof found / 8; i++) any |= words[i];
    return any != 0;
}

/* Makes the tokens of the live blocks with logits in [low, limit) candidates; returns how many. Most groups have none. */
static int64_t find_candidates(const struct row *row, real low, real limit, int weighted) {
    int64_t count = 0;
    for (int64_t k = 0; k < row->n_live; k++) {
        const int64_t block = row->live[k], end = first_of(block) + size_of(row, block);
        if (row->largest[block] < low) continue;
        for (int64_t first = first_of(block); first < end; first += GROUP) {
            const int64_t n = min_i64(GROUP, end - first);
            if (!group_has(row->z + first, n, low, limit)) continue;
            for (int64_t i = first; i < first + n; i++) {
                row->logit[count] = row->z[i];
                row->id[count] = (int32_t)i;
                if (weighted) row->weight[count] = row->w[i];
                count += (row->z[i] >= low) & (row->z[i] < limit);
            }
        }
    }
    return count;
}

static void move_candidate(const struct row *row, int64_t to, int64_t from, int weighted) {
    row->logit[to] = row->logit[from];
    row->id[to] = row->id[from];
    if (weighted) row->weight[to] = row->weight[from];
}

/* Keeps the candidates in bin b; returns how many. */
static int64_t keep_bin(const struct row *row, int b, int64_t n, int weighted) {
    int64_t kept = 0;
    for (int64_t first = 0; first < n; first += GROUP) {
        const int64_t end = min_i64(n, first + GROUP);
        int any = end - first < GROUP;
        if (!any)
            for (int i = 0; i < GROUP; i++) any |= row->bin[first + i] == b;
        for (int64_t i = first; any && i < end; i++)
            if (row->bin[i] == b) move_candidate(row, kept++, i, weighted);
    }
    return kept;
}

/* Keeps the candidates whose logit is not -inf; returns how many, and the bounds of their logits. */
static int64_t keep_finite(const struct row *row, int64_t n, int weighted, double *low, double *high) {
    int64_t kept = 0;
    *low = INFINITY, *high = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        const double z = (double)row->logit[i];
        if (z == -INFINITY) continue;
        move_candidate(row, kept++, i, weighted);
        if (z < *low) *low = z;
        if (z > *high) *high = z;
    }
    return kept;
}

/* By falling logits, equal ones in their order. */
static void sort_candidates(const struct row *row, int64_t n, int weighted) {
    for (int64_t i = 1; i < n; i++) {
        const real logit = row->logit[i], weight = weighted ? row->weight[i] : 0;
        const int32_t id = row->id[i];
        int64_t at = i;
        for (; at > 0 && row->logit[at - 1] < logit; at--) move_candidate(row, at, at - 1, weighted);
        row->logit[at] = logit, row->id[at] = id;
        if (weighted) row->weight[at] = weight;
    }
}

/* The bin of each candidate, the first for `high`, and what the candidates of each add up to. */
static void fill_bins(const struct row *row, int64_t n, int weighted, double low, double high) {
    const double scale = fmin((BINS - 1) / (high / 2 - low / 2), DBL_MAX);
    for (int64_t i = 0; i < n; i++) {
        const double x = (high / 2 - (double)row->logit[i] / 2) * scale;
        row->bin[i] = (uint16_t)(int32_t)(x < BINS - 1 ? x : BINS - 1);
    }
    memset(row->bins, 0, BINS * sizeof *row->bins);
    if (weighted)
        for (int64_t i = 0; i < n; i++) row->bins[row->bin[i]] += (double)row->weight[i];
    else
        for (int64_t i = 0; i < n; i++) row->bins[row->bin[i]] += 1;
}

/* The cut where the n candidates, added from the largest logit downwards to `above`, reach `target`: their weights, or
 * their number. */
static struct cut find_cut(const struct row *row, int weighted, double above, double target, int64_t n) {
    double low, high;
    n = keep_finite(row, n, weighted, &low, &high);
    while (n > FEW && low < high) {
        fill_bins(row, n, weighted, low, high);
        int b = 0, last = BINS - 1;
        while (last > 0 && row->bins[last] == 0) last--;
        while (b < last && above + row->bins[b] < target) above += row->bins[b++];
        const int64_t before = n;
        n = keep_finite(row, keep_bin(row, b, n, weighted), weighted, &low, &high);
        if (n == before) break; // double precision does not tell them apart
    }
    if (n <= FEW) sort_candidates(row, n, weighted);
    int64_t i = 0;
    for (; i < n - 1; i++) {
        above += weighted ? (double)row->weight[i] : 1;
        if (above >= target) break;
    }
    return (struct cut){row->logit[i], row->id[i]};
}

static struct cut top_k_cut(const struct row *row, int64_t k) {
    const int64_t blocks = blocks_of(row->V);
    real low = -(real)INFINITY;
    if (k < blocks) { // of the k blocks with the largest logits each has one that is at least the k-th block's
        memcpy(row->logit, row->largest, (size_t)blocks * sizeof(real));
        low = find_cut(row, 0, 0, (double)k, blocks).logit;
    }
    return find_cut(row, 0, 0, (double)k, find_candidates(row, low, (real)INFINITY, 0));
}

/* The weights of all tokens whose logit is at least `low`. */
static double weight_from(const struct row *row, real low) {
    double sums[LANES] = {0};
    for (int64_t k = 0; k < row->n_live; k++) {
        const int64_t block = row->live[k], n = size_of(row, block);
        if (row->largest[block] < low) continue;
        const real *z = row->z + first_of(block), *w = row->w + first_of(block);
        real kept[BLOCK]; // gcc 12 with AVX2 sums wrongly where a comparison of floats selects doubles
        for (int64_t i = 0; i < n; i += VL) {
            const vec x = vec_load_n(w + i, n - i);
            vec_store_n(kept + i, vec_select(vec_load_n(z + i, n - i) >= vec_set(low), x, vec_set(0)), n - i);
        }
        add_lanes(sums, kept, n);
    }
    return sum_of_lanes(sums);
}

/* Tokens with less than (1 - p) / 2n of all n tokens' weights have less than 1 - p of them together, so the cut is above
 * them. The range from there to the largest logit is halved a few times, by passes over weights in vectors, which skip blocks:
 * a candidate, which is added to its bin alone, takes far longer than a weight in a vector. */
static struct cut top_p_cut(const struct row *row, double p, double total, double temperature) {
    const double target = p * total * (1 + SURPLUS), n = (double)row->n_live * BLOCK;
    const double lowest = (double)row->max + temperature * log((1 - p) / 2 * total / n);
    real low = (real)fmax(lowest, -(double)REAL_MAX), limit = (real)INFINITY; // the cut is in [low, limit)
    double above = 0;                                                         // the weight from `limit` on
    for (int i = 0; i < HALVINGS; i++) {
        const real middle = low / 2 + (limit < row->max ? limit : row->max) / 2;
        if (!(middle > low && middle < limit)) break;
        const double weight = weight_from(row, middle);
        if (weight >= target)
            low = middle;
        else
            limit = middle, above = weight;
    }
    const int64_t candidates = find_candidates(row, low, limit, 1);
    if (candidates == 0) return (struct cut){limit, INT32_MAX}; // rounding, where p is nearly 1
    return find_cut(row, 1, above, target, candidates);
}

/* The last of the tokens that are kept, by logit and id. */
static struct cut last_kept(const struct row *row) {
    struct cut last = {(real)INFINITY, -1};
    for (int64_t k = 0; k < row->n_live; k++) {
        const int64_t first = first_of(row->live[k]), end = first + size_of(row, row->live[k]);
        for (int64_t i = first; i < end; i++)
            if (row->w[i] > 0 && row->z[i] <= last.logit) last = (struct cut){row->z[i], (int32_t)i};
    }
    return last;
}

/* A cut is found by sums in an order of their own, and a little too late rather than too early. What counts are the sums that
 * draw takes: drops tokens, the last first, as long as these reach `target` without them. Rounded sums only grow with the
 * tokens that are kept, so what is left does not depend on how the cut was found. */
static void drop_surplus(const struct row *row, struct cut last, double target) {
    int32_t id = last.id < row->V ? last.id : last_kept(row).id;
    for (; id >= 0; id = last_kept(row).id) {
        const int64_t block = id / BLOCK, first = first_of(block), n = size_of(row, block);
        const real w = row->w[id];
        row->w[id] = 0;
        row->sums[block] = sum_of(row->w + first, n);
        if (sum_of_all(row) >= target) continue;
        row->w[id] = w;
        row->sums[block] = sum_of(row->w + first, n);
        return;
    }
}

static void drop_below(const struct row *row, real least) {
    for (int64_t k = 0; k < row->n_live; k++) {
        const int64_t block = row->live[k], n = size_of(row, block);
        real *w = row->w + first_of(block);
        for (int64_t i = 0; i < n; i++) w[i] = w[i] >= least ? w[i] : 0;
        row->sums[block] = sum_of(w, n);
    }
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

/* The last token of the first `count` live blocks that has a weight. */
static int32_t last_drawn(const struct row *row, int64_t count) {
    for (int64_t k = count; k-- > 0;) {
        const int64_t first = first_of(row->live[k]);
        for (int64_t i = size_of(row, row->live[k]); i-- > 0;)
            if (row->w[first + i] > 0) return (int32_t)(first + i);
    }
    return -1; // not reached: the largest logit has the weight 1
}

/* The first token at which the sum of the weights exceeds u times their sum. */
static int32_t draw(const struct row *row, double u) {
    const double bound = u * sum_of_all(row);
    double sum = 0;
    int64_t k = 0;
    while (k < row->n_live && sum + row->sums[row->live[k]] <= bound) sum += row->sums[row->live[k++]];
    if (k == row->n_live) return last_drawn(row, k); // rounding
    const int64_t first = first_of(row->live[k]), n = size_of(row, row->live[k]);
    for (int64_t i = 0; i < n; i++)
        if ((sum += (double)row->w[first + i]) > bound) return (int32_t)(first + i);
    return last_drawn(row, k + 1); // rounding
}

static int32_t first_of_largest(const struct row *row) {
    int64_t i = 0;
    while (row->largest[i / BLOCK] != row->max) i += BLOCK;
    while (row->z[i] != row->max) i++;
    return (int32_t)i;
}

static int32_t sample_row(struct row *row, const struct sample_args *args, int64_t s) {
    const double temperature = args->temperature[s], top_p = args->top_p[s], min_p = args->min_p[s];
    const int64_t top_k = args->top_k[s];
    if (!find_largest(row)) return -1;
    if (temperature == 0) return first_of_largest(row);
    row->n_live = blocks_of(row->V);
    for (int64_t block = 0; block < row->n_live; block++) row->live[block] = (int32_t)block;
    const int cuts = top_k > 0 && top_k < row->V;
    const struct cut cut = cuts ? top_k_cut(row, top_k) : (struct cut){0, 0};
    if (cuts) drop_blocks(row, (double)cut.logit);
    if (min_p > 0 && top_p == 1) drop_blocks(row, (double)row->max + temperature * log(min_p / 2));
    find_weights(row, temperature);
    if (cuts) drop_beyond(row, cut);
    if (top_p < 1) {
        const double total = sum_of_all(row);
        const struct cut nucleus = top_p_cut(row, top_p, total, temperature);
        drop_blocks(row, (double)nucleus.logit);
        drop_beyond(row, nucleus);
        drop_surplus(row, nucleus, top_p * total);
    }
    if (min_p > 0) drop_below(row, (real)min_p);
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
