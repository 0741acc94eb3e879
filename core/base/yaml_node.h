#pragma once

/* What yaml.c, which writes, has to know of what readers take plain text for. Only inside base/. */

#include "base/yaml.h"

/* What some reader of YAML takes for more than text: null, bools, numbers, the short words for yes and no, dates, numbers to the
 * base of sixty. */
bool yaml_text_is_ambiguous(const char *text);
