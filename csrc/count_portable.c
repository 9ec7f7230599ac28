/* The counting loops with what every CPU of the architecture has. */
#define SD_NARROW
#include "count.h"

const sd_level sd_portable = SD_LEVEL("portable");
