// Included before llama.cpp's C++ sources. g++ does not know that the instruction that loads AMX's tile configuration reads all 64
// bytes of it, leaves the writes to them out, and llama.cpp ends with an illegal instruction at its first tile.
#if defined(__AMX_TILE__)
#include <immintrin.h>

static inline void load_written_config(const void* config) {
  __asm__ volatile("" : : : "memory");
  _tile_loadconfig(config);
}

#define _tile_loadconfig load_written_config
#endif
