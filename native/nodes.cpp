// Whether nodes of our own are computed as they are made.

#include "nodes.hpp"

#include "mixbit.h"

extern "C" void mixbit_compute_at_once(int on) { mixbit::computes_at_once() = on != 0; }
