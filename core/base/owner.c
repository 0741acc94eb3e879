#include "base/owner.h"

__thread _Atomic uint32_t owner_now;
