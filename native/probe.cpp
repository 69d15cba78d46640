// For tests: the nodes that an array is computed by, the exponential of our kernels, and products and attention by kernels of
// a name.

#include <string>
#include <unordered_set>

#include "interleaved.hpp"
#include "products.hpp"
#include "mixbit.h"
#include "mlx/array.h"
#include "mlx/primitives.h"
#include "nodes.hpp"
#include "one_query.hpp"

namespace {

namespace mx = mlx::core;

void append_names(const mx::array& array, std::unordered_set<std::uintptr_t>& seen, std::string& names) {
  if (!array.has_primitive() || !seen.insert(array.id()).second) return;
  names += array.primitive().name();
  names += '\n';
  for (const mx::array& input : array.inputs()) append_names(input, seen, names);
}

}  // namespace

extern "C" const char* mixbit_array_nodes(const void* array) {
  static thread_local std::string names;
  names.clear();
  std::unordered_set<std::uintptr_t> seen;
  append_names(*static_cast<const mx::array*>(array), seen, names);
  return names.c_str();
}

// Compiled for the plain processor, which on x86 fuses nothing.
extern "C" float mixbit_exponential(float x) { return mixbit::exponential(x); }

extern "C" int mixbit_product_by(const char* kernels, const struct mixbit_matrix* matrix, const float* x, long count, float* out) {
  const mixbit::MatrixKernels* chosen = mixbit::matrix_kernels(kernels);
  if (!chosen) return 0;
  mixbit::Matrix stored = mixbit::matrix_of(*matrix);
  std::vector<uint8_t> memory;
  if (mixbit::can_interleave(*chosen, stored)) {
    memory.resize(mixbit::interleaved_bytes(stored));
    uint8_t* const start = mixbit::interleaved_start(memory.data());
    mixbit::interleave(stored, start);
    stored.codes = start;
    stored.interleaved = true;
  }
  mixbit::multiply(*chosen, {{{stored, nullptr}}, nullptr}, x, count, out);
  return 1;
}

extern "C" int mixbit_attend_by(const char* kernels, const struct mixbit_one_query* query, const float* q, float* out) {
  const mixbit::MatrixKernels* chosen = mixbit::matrix_kernels(kernels);
  if (!chosen) return 0;
  const long step = query->count * query->dims;
  const mixbit::OneQuery one{query->scale, query->heads, query->kv_heads, query->count, query->dims, step, step, query->halves != 0};
  const auto bytes = [](const void* values) { return static_cast<const uint8_t*>(values); };
  mixbit::attend_one(*chosen, one, q, bytes(query->keys), bytes(query->values), out);
  return 1;
}
