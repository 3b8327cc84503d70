/* The GPU's backend: a gollm_backend (gollm.h) like the CPU's, for GOLLM_FLOAT32 and GOLLM_BFLOAT16. */
#ifndef GOLLM_CUDA_BACKEND_H
#define GOLLM_CUDA_BACKEND_H

#include "gollm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The backend, whose calls pass the checks of `cpu` first; NULL where gollm_cuda_error says why there is none. */
GOLLM_API const struct gollm_backend *gollm_cuda(const struct gollm_backend *cpu);

/* The GPU that the backend uses: the first that the CUDA runtime lists. */
struct gollm_cuda_device {
    char name[256];
    int64_t total_bytes;
    int major, minor;    /* its compute capability */
    int driver_version;  /* the CUDA version that the driver supports, 1000 major + 10 minor */
    int runtime_version; /* the one that is built in */
};
GOLLM_API int gollm_cuda_describe(struct gollm_cuda_device *device); /* 0, or GOLLM_DEVICE_FAILED */

GOLLM_API int gollm_cuda_device_count(void);  /* 0 where gollm_cuda_error says why */
GOLLM_API const char *gollm_cuda_error(void); /* what failed last, in the CUDA runtime's words */

#ifdef __cplusplus
}
#endif
#endif
