// Arrays that are filled in place. MLX's CPU build copies what it is handed: it keeps sizes before its buffers.

#include <exception>

#include "mixbit.h"
#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/c/private/enums.h"

namespace mx = mlx::core;

extern "C" void* mixbit_array_unfilled(const int* shape, int dimensions, int dtype) {
  try {
    mx::Shape sizes(shape, shape + dimensions);
    const mx::Dtype type = mlx_dtype_to_cpp(static_cast<mlx_dtype>(dtype));
    size_t bytes = type.size();
    for (int size : sizes) bytes *= size;
    return new mx::array(mx::allocator::malloc(bytes), std::move(sizes), type);
  } catch (const std::exception&) {
    return nullptr;
  }
}
