// For tests: the nodes that an array is computed by, and the exponential of our kernels.

#include <string>
#include <unordered_set>

#include "mixbit.h"
#include "mlx/array.h"
#include "mlx/primitives.h"
#include "nodes.hpp"

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
