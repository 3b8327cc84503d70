/* bench: checks a step's matmul against sums in double, and measures it beside the peak of the multiply-add units.
 *
 *     ./stepN [n]        prints: GFLOP/s, peak, share of the peak (the best of some turns, in which both take turns)
 */
#include <math.h>
#include <omp.h>
#include <stdio.h>

#include "matmul.h"

enum { CHAINS = 12 }; // two units with a latency of 4 or 5 are busy with 10 independent sums

/* The rate of multiply-adds that stay in registers, in operations a second, of so many threads. */
static double peak(int threads) {
    const int iterations = 20000000 / VL;
    float total = 0;
    const double begin = omp_get_wtime();
#pragma omp parallel num_threads(threads) reduction(+ : total)
    {
        vec x[CHAINS], half = {0};
        half += 0.5f;
        for (int i = 0; i < CHAINS; i++)
            x[i] = half * (i + 3.0f); // none begins at 1, where it would stay: compilers notice
        for (int k = 0; k < iterations; k++)
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) x[i] = x[i] * half + half;
        for (int i = 0; i < CHAINS; i++) total += x[i][0];
    }
    const double seconds = omp_get_wtime() - begin;
    if (!(total > 0)) abort(); // the sums are needed, so that the compiler keeps them
    return 2.0 * CHAINS * VL * iterations * threads / seconds;
}

/* The largest difference of some elements from their sums in double, relative to the sum of absolute products. */
static double error(int n, const float *a, const float *b, const float *c) {
    double largest = 0;
    for (int sample = 0; sample < 1000; sample++) {
        const int i = rand() % n, j = rand() % n;
        double sum = 0, size = 0;
        for (int k = 0; k < n; k++) {
            const double product = (double)a[i * n + k] * b[k * n + j];
            sum += product;
            size += fabs(product);
        }
        largest = fmax(largest, fabs(c[i * n + j] - sum) / size);
    }
    return largest;
}

int main(int argc, char **argv) {
    const int n = argc > 1 ? atoi(argv[1]) : 1152, threads = is_threaded ? omp_get_max_threads() : 1;
    if (n <= 0 || n % 96 || n > 16384) {
        fprintf(stderr, "n is %s; it must be a multiple of 96, at most 16384\n", argv[1]);
        return 2;
    }
    const size_t bytes = (size_t)n * n * sizeof(float);
    float *a = aligned_alloc(64, bytes), *b = aligned_alloc(64, bytes), *c = aligned_alloc(64, bytes);
    if (!a || !b || !c) return 1;
    for (int i = 0; i < n * n; i++) a[i] = rand() / (float)RAND_MAX - 0.5f, b[i] = rand() / (float)RAND_MAX - 0.5f;
    double rate = 0, limit = 0, used = 0;
    for (int turn = 0; turn == 0 || (turn < 30 && used < 1.0); turn++) {
        limit = fmax(limit, peak(threads));
        const double begin = omp_get_wtime();
        matmul(n, a, b, c);
        const double seconds = omp_get_wtime() - begin;
        rate = fmax(rate, 2.0 * n * n * n / seconds);
        used += seconds;
    }
    const double wrong = error(n, a, b, c);
    printf("%-36s %8.1f GFLOP/s %8.1f peak %6.1f %%\n", name, rate * 1e-9, limit * 1e-9, 100 * rate / limit);
    if (wrong > 1e-6) fprintf(stderr, "wrong: an element differs by %.1e of its terms\n", wrong);
    return wrong > 1e-6;
}
