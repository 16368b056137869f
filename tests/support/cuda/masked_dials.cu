// MaskedDials-v0: the same functions.
#include "dials.cu"
