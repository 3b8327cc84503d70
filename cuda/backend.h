/* The GPU's backend: a gollm_backend (gollm.h) like the CPU's, for GOLLM_FLOAT32 and GOLLM_BFLOAT16. */
#ifndef GOLLM_CUDA_BACKEND_H
#define GOLLM_CUDA_BACKEND_H

#include "gollm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The backend, whose calls pass the checks of `cpu` first; NULL where gollm_cuda_error says why there is none. */
GOLLM_API const struct gollm_backend *gollm_cuda(const struct gollm_backend *cpu);

GOLLM_API int gollm_cuda_device_count(void);  /* 0 where gollm_cuda_error says why */
GOLLM_API const char *gollm_cuda_error(void); /* what failed last, in the CUDA runtime's words */

#ifdef __cplusplus
}
#endif
#endif
