// cblas_sgemm for libmlx.so: what to compute how, and on how many threads.
//
// A product with one row or one column reads its matrix once: GEMV runs it at the memory's rate, where GEMM would first
// copy the matrix into panels. Generating text is made of these. A few rows, such as the tokens of a draft, are as many GEMVs
// over parts of the matrix that stay in the cache: up to eight rows that is faster than GEMM, twice as fast at two.
//
// A matrix's product with itself, which is what moments of activations are, is done by half.
//
// Each part of a product runs on one of our threads, as one of OpenBLAS's own products of one thread.

#include "mixbit.h"
#include "threads.hpp"

extern "C" {
void scipy_cblas_sgemv(int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
void scipy_cblas_sgemm(
    int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
}

namespace {

using mixbit::split, mixbit::spread;

enum { RowMajor = 101, NoTrans = 111, Trans = 112 };

// Products below these many multiplications run on the caller's thread: waking another would cost more.
constexpr long gemv_worth_it = 1l << 18;
constexpr long gemm_worth_it = 1l << 22;

// Rows up to which GEMVs are faster than GEMM. Nothing but speed depends on it.
constexpr int few = 8;
// Values of a matrix that stay in a thread's cache.
constexpr long cached = 1l << 17;

// y = alpha op(A) x + beta y for A [rows, columns], row-major.
void gemv(int op, long rows, long columns, float alpha, const float* a, long lda, const float* x, int incx, float beta,
          float* y, long incy) {
  if (op == NoTrans) {
    split(rows, rows * columns, gemv_worth_it, [&](long from, long to) {
      scipy_cblas_sgemv(RowMajor, op, to - from, columns, alpha, a + from * lda, lda, x, incx, beta, y + from * incy, incy);
    });
  } else {
    split(columns, rows * columns, gemv_worth_it, [&](long from, long to) {
      scipy_cblas_sgemv(RowMajor, op, rows, to - from, alpha, a + from, lda, x, incx, beta, y + from * incy, incy);
    });
  }
}

// C = alpha A B^T + beta C for a few rows of A, a GEMV for each row and part of B. Parts are of whole sixteens, so that no sum
// depends on the number of threads.
void few_rows(int m, long n, long k, float alpha, const float* a, long lda, const float* b, long ldb, float beta, float* c,
              long ldc) {
  const long step = std::max(16l, cached / std::max(1l, k) / 16 * 16);
  split(n, n * k, gemv_worth_it, [&](long from, long to) {
    for (long part = from; part < to; part += step) {
      const long rows = std::min(step, to - part);
      for (int i = 0; i < m; ++i) {
        scipy_cblas_sgemv(RowMajor, NoTrans, rows, k, alpha, b + part * ldb, ldb, a + i * lda, 1, beta, c + i * ldc + part, 1);
      }
    }
  });
}

// C = alpha A^T A for A [k, n]: bands of rows up to the diagonal, and each once more as columns.
void gram(int n, int k, float alpha, const float* a, int lda, float* c, long ldc) {
  constexpr long band = 128;
  spread((n + band - 1) / band, static_cast<long>(n) * n / 2 * k, gemm_worth_it, [&](long part) {
    const long from = part * band, to = std::min<long>(n, from + band);
    scipy_cblas_sgemm(RowMajor, Trans, NoTrans, to - from, to, k, alpha, a + from, lda, a, lda, 0.0f, c + from * ldc, ldc);
    for (long tile = 0; tile < from; tile += 16) {
      for (long i = from; i < to; ++i) {
        for (long j = tile; j < tile + 16; ++j) c[j * ldc + i] = c[i * ldc + j];
      }
    }
  });
}

}  // namespace

extern "C" void cblas_sgemm(int order, int transa, int transb, int m, int n, int k, float alpha, const float* a, int lda,
                            const float* b, int ldb, float beta, float* c, int ldc) {
  if (order != RowMajor) {
    scipy_cblas_sgemm(order, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  } else if (m == 1) {
    const bool plain = transb == NoTrans;
    gemv(plain ? Trans : NoTrans, plain ? k : n, plain ? n : k, alpha, b, ldb, a, transa == NoTrans ? 1 : lda, beta, c, 1);
  } else if (m <= few && transa == NoTrans && transb == Trans) {
    few_rows(m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  } else if (n == 1) {
    const bool plain = transa == NoTrans;
    gemv(plain ? NoTrans : Trans, plain ? m : k, plain ? k : m, alpha, a, lda, b, transb == NoTrans ? ldb : 1, beta, c,
         ldc);
  } else if (a == b && lda == ldb && transa == Trans && transb == NoTrans && m == n && beta == 0.0f) {
    gram(n, k, alpha, a, lda, c, ldc);
  } else {
    const long work = static_cast<long>(m) * n * k;
    if (m >= n) {
      split(m, work, gemm_worth_it, [&](long from, long to) {
        const float* part = transa == NoTrans ? a + from * lda : a + from;
        scipy_cblas_sgemm(order, transa, transb, to - from, n, k, alpha, part, lda, b, ldb, beta, c + from * ldc, ldc);
      });
    } else {
      split(n, work, gemm_worth_it, [&](long from, long to) {
        const float* part = transb == NoTrans ? b + from : b + from * ldb;
        scipy_cblas_sgemm(order, transa, transb, m, to - from, k, alpha, a, lda, part, ldb, beta, c + from, ldc);
      });
    }
  }
}

extern "C" void mixbit_expect_callers(int callers) { mixbit::Pool::instance().expect(callers); }
