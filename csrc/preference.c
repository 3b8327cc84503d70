/* The loss of preferring one answer to another, from the negative log-probabilities of both (nll, column 0 of the chosen
 * one, column 1 of the rejected one) and those that a reference model gives them. With
 *
 *     d = (nll_1 - nll_0) - (reference_1 - reference_0)      by how much more than the reference the model prefers it
 *
 *     GOLLM_DPO    log(1 + e^(-beta d))             (Rafailov et al. 2023)
 *     GOLLM_IPO    (d - 1 / (2 beta))^2             (Azar et al. 2023)
 *
 *   forward    nll, reference (P, 2)                ->  losses (P), margins (P) = beta d, loss = sum of losses / denominator
 *   backward   the same and dloss                   ->  dnll (P, 2)
 *
 * P is the number of pairs of a batch: a few. One thread does all, in double.
 */
#include <math.h>

#include "kernel.h"

static int kind_is_known(int64_t kind) { return kind == GOLLM_DPO || kind == GOLLM_IPO; }

static double difference(const wide *nll, const wide *reference) { // of a pair
    return ((double)nll[1] - (double)nll[0]) - ((double)reference[1] - (double)reference[0]);
}

int KERNEL_FN(preference_forward_check)(const struct preference_forward_args *args) {
    return kind_is_known(args->kind) && args->beta > 0 && isfinite(args->beta) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int KERNEL_FN(preference_forward)(const struct preference_forward_args *args, const struct gollm_team *team) {
    if (team->thread != 0) return GOLLM_OK;
    double sum = 0;
    for (int64_t p = 0; p < args->P; p++) {
        const double d = difference(args->nll + 2 * p, args->reference + 2 * p), h = args->beta * d;
        const double off = d - 0.5 / args->beta;
        // log(1 + e^-h) without overflow
        const double loss = args->kind == GOLLM_IPO ? off * off : (h < 0 ? -h : 0) + log1p(exp(-fabs(h)));
        args->losses[p] = (wide)loss;
        args->margins[p] = (wide)h;
        sum += loss;
    }
    args->loss[0] = (wide)(sum / args->denominator[0]);
    return GOLLM_OK;
}

int KERNEL_FN(preference_backward_check)(const struct preference_backward_args *args) {
    return kind_is_known(args->kind) && args->beta > 0 && isfinite(args->beta) ? GOLLM_OK : GOLLM_BAD_VALUE;
}

int KERNEL_FN(preference_backward)(const struct preference_backward_args *args, const struct gollm_team *team) {
    if (team->thread != 0 || !args->dnll) return GOLLM_OK;
    for (int64_t p = 0; p < args->P; p++) {
        const double d = difference(args->nll + 2 * p, args->reference + 2 * p);
        // the loss by d
        const double slope =
            args->kind == GOLLM_IPO ? 2 * (d - 0.5 / args->beta) : -args->beta / (1 + exp(args->beta * d));
        const double g = slope * (double)args->dloss[0] / args->denominator[0];
        for (int64_t i = 0; i < 2; i++) {
            wide *out = args->dnll + 2 * p + i;
            *out = (wide)((i ? g : -g) + (args->dnll_accumulate ? (double)*out : 0));
        }
    }
    return GOLLM_OK;
}
