// The BLAS and LAPACK routines that libmlx.so imports, handed on to OpenBLAS under its wheel's `scipy_` prefix.
//
// The MLX wheel brings the reference BLAS, some thirty times slower. This library comes before it in the loader's
// search order, so these definitions win. Each is one jump: arguments stay where the caller put them. sgemm.cpp has the one
// that decides something.

#if defined(__x86_64__)
#define JUMP(name) "jmp scipy_" name "@PLT\n"
#elif defined(__aarch64__)
#define JUMP(name) "b scipy_" name "\n"
#else
#error "blas.cpp: no jump instruction known for this processor"
#endif

#define FORWARD(name)              \
  asm(".text\n"                    \
      ".globl " name "\n"          \
      ".type " name ", %function\n" \
      name ":\n" JUMP(name)        \
      ".size " name ", .-" name "\n")

FORWARD("cblas_dgemm");
FORWARD("cblas_cgemm");

FORWARD("cgeev_");
FORWARD("dgeev_");
FORWARD("sgeev_");
FORWARD("cgesdd_");
FORWARD("dgesdd_");
FORWARD("sgesdd_");
FORWARD("cheevd_");
FORWARD("dsyevd_");
FORWARD("ssyevd_");
FORWARD("dgeqrf_");
FORWARD("sgeqrf_");
FORWARD("dgetrf_");
FORWARD("sgetrf_");
FORWARD("dgetri_");
FORWARD("sgetri_");
FORWARD("dorgqr_");
FORWARD("sorgqr_");
FORWARD("dpotrf_");
FORWARD("spotrf_");
FORWARD("dtrtri_");
FORWARD("strtri_");
