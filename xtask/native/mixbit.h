/* What our own library has beside mlx-c's functions. */
#pragma once
#ifdef __cplusplus
extern "C" {
#endif
/** Says how many threads are about to compute at once: as many as there are processors do their products alone. */
void mixbit_expect_callers(int callers);
#ifdef __cplusplus
}
#endif
