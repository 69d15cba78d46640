// Whether nodes of our own are computed as they are made.

#include "nodes.hpp"

#include "mixbit.h"

extern "C" void mixbit_set_eager(int eager) { mixbit::is_eager() = eager != 0; }
