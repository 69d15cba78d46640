// The BLAS and LAPACK routines that libmlx.so imports, handed on to OpenBLAS under its wheel's `scipy_` prefix.
//
// The MLX wheel brings the reference BLAS, some thirty times slower. This library comes before it in the loader's
// search order, so these definitions win. All but one are a jump: arguments stay where the caller put them.

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

// A product with one row or one column reads its matrix once: GEMV runs it at the memory's rate, where GEMM would first
// copy the matrix into panels. Generating text is made of these.
extern "C" {
enum { RowMajor = 101, NoTrans = 111 };

void scipy_cblas_sgemv(int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
void scipy_cblas_sgemm(
    int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);

void cblas_sgemm(int order, int transa, int transb, int m, int n, int k, float alpha, const float* a, int lda,
                 const float* b, int ldb, float beta, float* c, int ldc) {
  const int trans = 112;
  if (order == RowMajor && m == 1) {
    const int incx = transa == NoTrans ? 1 : lda;
    if (transb == NoTrans) {
      scipy_cblas_sgemv(order, trans, k, n, alpha, b, ldb, a, incx, beta, c, 1);
    } else {
      scipy_cblas_sgemv(order, NoTrans, n, k, alpha, b, ldb, a, incx, beta, c, 1);
    }
  } else if (order == RowMajor && n == 1) {
    const int incx = transb == NoTrans ? ldb : 1;
    if (transa == NoTrans) {
      scipy_cblas_sgemv(order, NoTrans, m, k, alpha, a, lda, b, incx, beta, c, ldc);
    } else {
      scipy_cblas_sgemv(order, trans, k, m, alpha, a, lda, b, incx, beta, c, ldc);
    }
  } else {
    scipy_cblas_sgemm(order, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  }
}
}
