// Force-included before every mlx-c source: what mlx-c takes from Apple's toolchain and Linux may lack.
#pragma once

#include <sstream>
#include <string>
#include <string_view>
#include <version>

#include "mlx/types/half_types.h"

// Off Arm, mlx-c's half.h declares no half types, so it would leave out every function that uses them.
#if !defined(__aarch64__)
#define MLX_HALF_H
#define HAS_FLOAT16
#define HAS_BFLOAT16
typedef mlx::core::float16_t float16_t;
typedef mlx::core::bfloat16_t bfloat16_t;
#endif

// GCC got <format> in version 13. mlx-c formats strings and numbers with a plain `{}` and nothing else.
#if __has_include(<format>)
#include <format>
#else
namespace std {
template <typename... Args>
string format(string_view pattern, const Args&... args) {
  ostringstream out;
  [[maybe_unused]] auto put = [&](const auto& value) {
    const auto hole = pattern.find("{}");
    out << pattern.substr(0, hole) << value;
    pattern.remove_prefix(hole == string_view::npos ? pattern.size() : hole + 2);
  };
  (put(args), ...);
  out << pattern;
  return out.str();
}
} // namespace std
#endif
