#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a C array of a file: embed.py NAME INPUT OUTPUT.c OUTPUT.h gives `const unsigned char NAME[]` and `const size_t NAME_size`."""

import os
import sys

name, source, out_c, out_h = sys.argv[1:]
with open(source, "rb") as f:
    data = f.read()
with open(out_h, "w", encoding="ascii") as f:
    f.write("#pragma once\n\n#include <stddef.h>\n\n")
    f.write(f"extern const unsigned char {name}[];\nextern const size_t {name}_size;\n")
with open(out_c, "w", encoding="ascii") as f:
    f.write(f'#include "{os.path.basename(out_h)}"\n\nconst unsigned char {name}[] = {{\n')
    for i in range(0, len(data), 16):
        f.write("        " + ", ".join(f"0x{b:02x}" for b in data[i : i + 16]) + ",\n")
    f.write(f"}};\nconst size_t {name}_size = sizeof({name});\n")
