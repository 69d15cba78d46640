/* Force-included while bindgen reads mlx-c: half.h declares these on Arm only. The Rust side of both is in loader.rs. */
#define MLX_HALF_H
#define HAS_FLOAT16
#define HAS_BFLOAT16
typedef struct {
  unsigned short bits;
} float16_t;
typedef unsigned short bfloat16_t;
