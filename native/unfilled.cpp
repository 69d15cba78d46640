// Arrays that are filled in place. MLX's CPU build copies what it is handed: it keeps sizes before its buffers.

#include <exception>

#include "mixbit.h"
#include "mlx/allocator.h"
#include "mlx/array.h"

namespace mx = mlx::core;

extern "C" void* mixbit_array_unfilled(const int* shape, int dimensions) {
  try {
    mx::Shape sizes(shape, shape + dimensions);
    size_t bytes = sizeof(float);
    for (int size : sizes) bytes *= size;
    return new mx::array(mx::allocator::malloc(bytes), std::move(sizes), mx::float32);
  } catch (const std::exception&) {
    return nullptr;
  }
}
